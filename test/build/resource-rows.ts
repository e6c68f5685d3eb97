/** How the rows that a custom resource is judged by are told; `spec` and `status` are differences from a calm object. */
import { type ResourceObject } from "./resources.ts";

type Json = Readonly<Record<string, unknown>>;

export type ResourceRows = {
  readonly taken: readonly { readonly when: string; readonly object: ResourceObject }[];
  readonly refused: readonly RefusedRow[];
  readonly changes: readonly ChangeRow[];
};

/** Refused for the field at `path`, by a rule that `says` so if it is a rule. */
export type RefusedRow = {
  readonly when: string;
  readonly spec?: Json;
  readonly status?: Json;
  readonly path: string;
  readonly says?: string;
};

/** One spec in place of another; taken unless it is `refused` for a field. */
export type ChangeRow = {
  readonly when: string;
  readonly before: Json;
  readonly after: Json;
  readonly refused?: Refusal;
};

export type Refusal = { readonly path: string; readonly says?: string };
