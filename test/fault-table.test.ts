import { expect, test } from "@jest/globals";
import { judgeFault } from "./fault-table.ts";

const row = { fault: "it rains", answer: "an umbrella", tests: ["outside it rains", "outside it pours"] };
const passed = { name: "outside it rains, and nobody gets wet", status: "passed" } as const;
const alsoPassed = { name: "outside it pours", status: "passed" } as const;

test.each([
  ["all its tests have passed", [passed, alsoPassed], true, "pass"],
  ["one has failed", [passed, { ...alsoPassed, status: "failed" }], true, "FAIL"],
  ["one has failed of two of a name", [passed, alsoPassed, { ...passed, status: "failed" }], false, "FAIL"],
  ["one is missing of a whole run", [passed], true, "FAIL"],
  ["one was not asked for", [passed], false, "not run"],
  ["one cannot run here", [passed, { ...alsoPassed, status: "skipped" }], true, "not run"],
] as const)("a row of which %s", (_, seen, isWhole, verdict) => {
  expect(judgeFault(row, seen, isWhole)).toBe(verdict);
});
