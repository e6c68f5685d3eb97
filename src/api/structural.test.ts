import { describe, expect, test } from "@jest/globals";
import { z } from "zod";
import { listByKey, sequence, struct, text, textMap, time, wholeNumber } from "./fields.ts";
import { encodeStructural, openObject, withRule, withTransitionRule } from "./structural.ts";

test("limits, defaults, descriptions and requirements go over", () => {
  const schema = struct({
    cores: wholeNumber(1, 8).default(2).describe("Processors."),
    since: time(),
    labels: textMap(4, 63).optional(),
  });
  expect(encodeStructural(schema)).toEqual({
    type: "object",
    required: ["since"],
    properties: {
      cores: { type: "integer", minimum: 1, maximum: 8, default: 2, description: "Processors." },
      since: { type: "string", format: "date-time" },
      labels: { type: "object", additionalProperties: { type: "string", maxLength: 63 }, maxProperties: 4 },
    },
  });
});

test("an object of somebody else's is kept whole, its named fields are checked", () => {
  expect(encodeStructural(openObject({ name: text(9) }))).toEqual({
    type: "object",
    required: ["name"],
    properties: { name: { type: "string", minLength: 1, maxLength: 9 } },
    "x-kubernetes-preserve-unknown-fields": true,
  });
  expect(encodeStructural(openObject({}))).toEqual({ type: "object", "x-kubernetes-preserve-unknown-fields": true });
});

test("a default of {} is spelled out, for the API server applies rules to it as it stands", () => {
  const inner = struct({ size: wholeNumber(1, 9).default(3), name: text(9).optional() });
  const schema = struct({
    outer: struct({ inner: inner.prefault({}), list: sequence(inner, { max: 2 }) })
      .partial()
      .prefault({}),
  });
  expect(schema.parse({})).toEqual({ outer: { inner: { size: 3 } } });
  expect(encodeStructural(schema)).toMatchObject({
    properties: {
      outer: { default: { inner: { size: 3 } }, properties: { inner: { default: { size: 3 } } } },
    },
  });
});

test("a rule is kept by zod and by CEL; rules add up and survive defaults and descriptions", () => {
  const range = struct({ low: wholeNumber(0, 9), high: wholeNumber(0, 9) });
  const inOrder = {
    rule: "self.low <= self.high",
    message: "must not be greater than high",
    fieldPath: ".low",
  } as const;
  const kept = { rule: "self.low == oldSelf.low", message: "cannot change" };
  const schema = withTransitionRule(
    withRule(range, inOrder, ({ low, high }) => low <= high),
    kept,
  );
  const whole = struct({ range: schema.prefault({ low: 0, high: 1 }).describe("A range.") });
  expect(encodeStructural(whole)).toMatchObject({
    properties: { range: { description: "A range.", "x-kubernetes-validations": [inOrder, kept] } },
  });
  const [issue] = whole.safeParse({ range: { low: 2, high: 1 } }).error?.issues ?? [];
  expect(issue).toMatchObject({ path: ["range", "low"], message: "must not be greater than high" });
});

test("lists say how several writers share them", () => {
  const item = struct({ node: text(63) });
  expect(
    encodeStructural(struct({ order: sequence(item, { max: 2 }), sides: listByKey(item, "node", { max: 2 }) })),
  ).toMatchObject({
    properties: {
      order: { "x-kubernetes-list-type": "atomic", maxItems: 2 },
      sides: { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["node"] },
    },
  });
  const twice = [{ node: "a" }, { node: "a" }];
  expect(listByKey(item, "node", { max: 2 }).safeParse(twice).error?.issues).toMatchObject([
    { message: "must not hold the same node twice" },
  ]);
});

describe("what the API server would refuse or drop without a word is found here, with its path", () => {
  test.each<{ when: string; schema: z.ZodType; says: string }>([
    { when: "a text has no greatest length", schema: z.string(), says: "/list/items: needs a greatest length" },
    { when: "a union", schema: z.union([z.int(), z.boolean()]), says: "/list/items: has a keyword" },
    { when: "a nullable field", schema: wholeNumber(0, 1).nullable(), says: "/list/items: has a keyword" },
    { when: "anything goes", schema: z.unknown(), says: "/list/items: needs a type" },
    { when: "two patterns", schema: text(9).regex(/a/).regex(/b/), says: "/list/items: has a keyword" },
    { when: "look-ahead", schema: text(9).regex(/^(?!a)/), says: "/list/items: has a pattern with look-around" },
    { when: "an unbounded map", schema: z.record(z.string(), text(9)), says: "/list/items: needs a greatest length" },
    { when: "a list without a type", schema: z.array(text(9)).max(2), says: "/list/items: needs a list type" },
    {
      when: "a struct with a catch-all",
      schema: z.object({ a: text(9) }).catchall(text(9)),
      says: "/list/items: is a struct and a map at once",
    },
  ])("$when", ({ schema, says }) => {
    expect(() => encodeStructural(struct({ list: sequence(schema, { max: 3 }) }))).toThrow(says);
  });

  test("what JSON cannot hold", () => {
    expect(() => encodeStructural(struct({ at: z.date() }))).toThrow();
  });
});
