import { describe, expect, test } from "@jest/globals";
import { expectAccepted, expectChange, expectRefused } from "../../test/build/judge.ts";
import { buildSplitSitePair } from "../../test/build/resources.ts";
import { splitSitePairRows } from "../../test/build/split-site-pair-rows.ts";
import { parseSplitSitePair, splitSitePairResource } from "./split-site-pair.ts";

describe("zod and the CRD take", () => {
  test.each(splitSitePairRows.taken)("$when", ({ object }) => {
    expectAccepted(splitSitePairResource, parseSplitSitePair, object);
  });
});

describe("zod and the CRD refuse", () => {
  test.each(splitSitePairRows.refused)("$when", ({ spec, status, path, says }) => {
    expectRefused(splitSitePairResource, parseSplitSitePair, buildSplitSitePair(spec, status), { path, says });
  });
});

describe("the CRD, which sees what was there before,", () => {
  test.each(splitSitePairRows.changes)("$when", ({ before, after, refused }) => {
    expectChange(splitSitePairResource, {
      before: buildSplitSitePair(before),
      after: buildSplitSitePair(after),
      refused,
    });
  });
});

test("ten milliseconds are allowed when nothing is said", () => {
  expect(parseSplitSitePair(buildSplitSitePair(), "object").spec.maxRoundTripMs).toBe(10);
});
