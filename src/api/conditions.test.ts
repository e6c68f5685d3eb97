import { readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { type EngineConditionType } from "../protocol/assignment.ts";
import {
  condition,
  GUEST_CONDITION_TYPES,
  type GuestConditionType,
  PROTECTED_VM_CONDITION_TYPES,
} from "./conditions.ts";

test("the types of the engine are ours, in the same spelling", () => {
  const ofEngine: readonly EngineConditionType[] = GUEST_CONDITION_TYPES;
  const ours: readonly GuestConditionType[] = ofEngine; // The compiler is the test.
  expect(new Set(ours).size).toBe(5);
  expect(PROTECTED_VM_CONDITION_TYPES.slice(0, 3)).toEqual(["Ready", "Reconciling", "Stalled"]);
});

/** The engine's reasons are texts to its protocol, which does not know this folder; so the two files are compared. */
test("every reason that the engine gives is explained", () => {
  const read = (path: string): string => readFileSync(new URL(path, import.meta.url), "utf8");
  const [, union = ""] = /export type GuestReason =(.*?)\n\n/s.exec(read("conditions.ts")) ?? [];
  const given = [...read("../engine/report.ts").matchAll(/reason: [^,\n]*/g)].flatMap(
    ([text]) => text.match(/"[A-Z]\w+"/g) ?? [],
  );
  expect(given.length).toBeGreaterThan(9);
  expect(given.filter((reason) => !union.includes(`| ${reason}`))).toEqual([]);
});

test.each<{ when: string; difference: object; valid: boolean }>([
  { when: "an empty message", difference: { message: "" }, valid: true },
  { when: "a time with an offset", difference: { lastTransitionTime: "2026-01-31T09:30:00+01:00" }, valid: true },
  { when: "a time without a zone", difference: { lastTransitionTime: "2026-01-31T09:30:00" }, valid: false },
  { when: "a reason with spaces", difference: { reason: "Not ready" }, valid: false },
  { when: "a reason that is missing", difference: { reason: "" }, valid: false },
  { when: "a status that is none", difference: { status: "Maybe" }, valid: false },
])("a condition with $when", ({ difference, valid }) => {
  const calm = { type: "Ready", status: "True", lastTransitionTime: "2026-01-31T08:30:00Z", reason: "Protected" };
  expect(condition.safeParse({ ...calm, message: "all is well", ...difference }).success).toBe(valid);
});
