import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { diffJson, hasJson, isSameJson, type Json, mergeJson, readObjects, readText } from "./json-merge.ts";

/** Without null, which a merge patch cannot say. */
const value = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 4 },
    fc.integer(),
    fc.string(),
    fc.array(fc.integer()),
    fc.dictionary(fc.constantFrom("a", "b", "c", "d"), tie("any"), { noNullPrototype: true }),
  ),
}));
const object = fc.dictionary(fc.constantFrom("a", "b", "c"), value.any, {
  noNullPrototype: true,
}) as fc.Arbitrary<Json>;

describe("merge patches", () => {
  test("the difference leads from one object to the other, and back", () => {
    fc.assert(
      fc.property(object, object, (one, other) => {
        expect(mergeJson(one, diffJson(one, other))).toEqual(other);
        expect(mergeJson(other, diffJson(other, one))).toEqual(one);
        expect(Object.keys(diffJson(one, one))).toEqual([]);
      }),
    );
  });

  test("an object has all that was merged into it", () => {
    fc.assert(
      fc.property(object, object, (one, other) => {
        expect(hasJson(mergeJson(one, other), other)).toBe(true);
      }),
    );
  });

  test("a field that is undefined is not there", () => {
    expect(isSameJson({ a: 1, b: undefined }, { a: 1 })).toBe(true);
    expect(hasJson({ a: 1 }, { a: 1, b: undefined })).toBe(true);
    expect(hasJson({ a: [1, 2] }, { a: [1] })).toBe(false);
  });
});

describe("reading", () => {
  test("stops where the path breaks off", () => {
    expect(readText({ a: { b: "c" } }, "a", "b")).toBe("c");
    expect(readText({ a: [] }, "a", "b")).toBeUndefined();
    expect(readText({ a: { b: "" } }, "a", "b")).toBeUndefined();
    expect(readObjects({ a: [{ b: 1 }, 2] }, "a")).toEqual([{ b: 1 }]);
  });
});
