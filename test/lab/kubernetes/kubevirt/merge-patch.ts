/** JSON merge patches between what is and what should be; pure. */
import { diffJson, isJson, type Json } from "../../../../src/lib/json-merge.ts";

/** The patch that makes `wanted` of `present`, or undefined when they are the same. Arrays are taken whole. */
export function planMergePatch(present: unknown, wanted: unknown): Json | undefined {
  const patch = diffJson(toJson(present), toJson(wanted));
  return Object.keys(patch).length === 0 ? undefined : patch;
}

const toJson = (value: unknown): Json => (isJson(value) ? value : {});
