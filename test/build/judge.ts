/** Hands an object to both judges there are, zod and the generated CRD, which have to agree. */
import { expect } from "@jest/globals";
import { InputFailure } from "../../src/api/checked-input.ts";
import { type CustomResource, encodeCrd } from "../../src/api/custom-resource.ts";
import { admit } from "./crd-admission.ts";
import { type Refusal } from "./resource-rows.ts";
import { type ResourceObject } from "./resources.ts";

export type Verdict = { readonly object: unknown; readonly problems: readonly string[] };
type Parse = (value: unknown, subject: string) => unknown;

/** Problems are written `PATH: text`; of a text that both must give, only the rules' messages are the same. */
export function judge(resource: CustomResource, parse: Parse, object: ResourceObject): { zod: Verdict; crd: Verdict } {
  const admission = admit(encodeCrd(resource), object);
  return {
    zod: judgeByZod(parse, object),
    crd: { object: admission.object, problems: admission.problems.map(({ path, message }) => `${path}: ${message}`) },
  };
}

export function judgeByZod(parse: Parse, object: ResourceObject): Verdict {
  try {
    return { object: parse(object, "test"), problems: [] };
  } catch (error) {
    if (error instanceof InputFailure) {
      return { object: undefined, problems: error.detail.problems };
    }
    throw error;
  }
}

/** Both take it, and make the same of it: the defaults are the same. */
export function expectAccepted(resource: CustomResource, parse: Parse, object: ResourceObject): void {
  const { zod, crd } = judge(resource, parse, object);
  expect({ zod: zod.problems, crd: crd.problems }).toEqual({ zod: [], crd: [] });
  expect(zod.object).toEqual(crd.object);
}

/** Both refuse the field at `path`, and a rule's message is the same in both. */
export function expectRefused(
  resource: CustomResource,
  parse: Parse,
  object: ResourceObject,
  { path, says = "" }: { readonly path: string; readonly says?: string | undefined },
): void {
  const { zod, crd } = judge(resource, parse, object);
  for (const problems of [zod.problems, crd.problems]) {
    expect(problems.filter((problem) => problem.startsWith(`${path}: `) && problem.includes(says))).not.toEqual([]);
  }
}

type Change = {
  readonly before: ResourceObject;
  readonly after: ResourceObject;
  readonly refused: Refusal | undefined;
};

/** The CRD takes one object in place of another, or refuses it for this field and no other. Zod sees no change. */
export function expectChange(resource: CustomResource, { before, after, refused }: Change): void {
  const { problems } = admit(encodeCrd(resource), after, before);
  expect(problems).toEqual(
    refused === undefined
      ? []
      : [{ path: refused.path, message: expect.stringContaining(refused.says ?? "") as unknown as string }],
  );
}
