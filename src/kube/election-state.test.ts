import { describe, expect, test } from "@jest/globals";
import { claim, disclaim, type LeaseSpec, mayHold, observe } from "./election-state.ts";

const timing = { leaseMs: 15_000, renewMs: 10_000, retryMs: 2_000 };
const held: LeaseSpec = { holderIdentity: "b", leaseDurationSeconds: 15, acquireTime: "then", leaseTransitions: 3 };
const candidate = { identity: "a", timing };

describe("a lease", () => {
  test("that is not there, or nobody's, or ours may be held", () => {
    expect(mayHold(undefined, undefined, { ...candidate, nowMs: 0 })).toBe(true);
    expect(mayHold({ ...held, holderIdentity: "" }, undefined, { ...candidate, nowMs: 0 })).toBe(true);
    expect(mayHold({ ...held, holderIdentity: "a" }, undefined, { ...candidate, nowMs: 0 })).toBe(true);
  });

  test("of another may be held when we saw it unchanged for its whole time, whatever its renewTime says", () => {
    const first = observe(undefined, "7", 1_000);
    expect(mayHold(held, first, { ...candidate, nowMs: 15_999 })).toBe(false);
    expect(mayHold(held, observe(first, "7", 16_000), { ...candidate, nowMs: 16_000 })).toBe(true);
    expect(mayHold(held, observe(first, "8", 16_000), { ...candidate, nowMs: 16_000 })).toBe(false);
    expect(mayHold({ ...held, leaseDurationSeconds: 60 }, first, { ...candidate, nowMs: 30_000 })).toBe(false);
    expect(mayHold({ ...held, leaseDurationSeconds: 1 }, first, { ...candidate, nowMs: 3_000 })).toBe(false);
  });

  test("is written so that others and people see who has it since when", () => {
    expect(claim(undefined, candidate, "now")).toMatchObject({ acquireTime: "now", leaseTransitions: 0 });
    expect(claim(held, candidate, "now")).toMatchObject({
      holderIdentity: "a",
      acquireTime: "now",
      leaseTransitions: 4,
    });
    const ours = claim(held, candidate, "now");
    expect(claim(ours, candidate, "later")).toEqual({ ...ours, renewTime: "later" });
    expect(disclaim(ours, "end")).toMatchObject({ holderIdentity: "", leaseTransitions: 4 });
  });
});
