import { expect, test } from "@jest/globals";
import { observeEpoch, type PacingMoment, type PacingState, planCapture, startPacing } from "./pacing.ts";

const limits = { minIntervalMs: 5, maxIntervalMs: 1000, maxAddedLatencyMs: 50 };
const calm: PacingState = { pauseMs: 2, packetsPerEpoch: 1, silentIntervalMs: 800 };
/** Started at 100, went on at 102, and has just sent something. */
const moment: PacingMoment = {
  ...{ startedAtMs: 100, resumedAtMs: 102, outputSinceMs: 103, isBusy: false },
  linkFreeAtMs: 0,
};

test.each<{
  when: string;
  state?: Partial<PacingState>;
  moment?: Partial<PacingMoment>;
  bound?: number;
  dueMs: number;
}>([
  { when: "a guest with output has nothing else to do", dueMs: 105 },
  { when: "a guest is silent", moment: { outputSinceMs: undefined }, dueMs: 900 },
  { when: "a busy guest talks with one client", moment: { isBusy: true }, state: { packetsPerEpoch: 0 }, dueMs: 108 },
  {
    when: "a busy guest talks with many clients",
    moment: { isBusy: true },
    state: { packetsPerEpoch: 50 },
    dueMs: 118,
  },
  {
    when: "the bound on latency is shorter than the gap",
    moment: { isBusy: true },
    state: { packetsPerEpoch: 50 },
    bound: 12,
    dueMs: 106,
  },
  {
    when: "a busy guest dirties memory faster than it talks",
    moment: { isBusy: true },
    state: { packetsPerEpoch: 50, silentIntervalMs: 9 },
    dueMs: 109,
  },
  { when: "a guest with output has used up its share of the links", moment: { linkFreeAtMs: 340 }, dueMs: 340 },
  {
    when: "a silent guest's share of the links is free again before it is due",
    moment: { outputSinceMs: undefined, linkFreeAtMs: 340 },
    dueMs: 900,
  },
  { when: "a guest's share of the links is used up for very long", moment: { linkFreeAtMs: 60_000 }, dueMs: 10_100 },
])("$when: due at $dueMs", ({ state, moment: change, bound = 50, dueMs }) => {
  const bounded = { ...limits, maxAddedLatencyMs: bound };
  expect(planCapture({ ...calm, ...state }, { ...moment, ...change }, bounded)).toBeCloseTo(dueMs);
});

test("a guest that dirties much is checkpointed more often, one that falls silent ever more rarely", () => {
  const loud = { pauseMs: 5, packetCount: 0, pageCount: 40_000, intervalMs: 100 };
  let state = observeEpoch({ ...calm, silentIntervalMs: 100 }, loud, limits);
  expect(state.silentIntervalMs).toBeLessThan(11);
  for (let epoch = 0; epoch < 20; epoch += 1) {
    state = observeEpoch(
      state,
      { pauseMs: 2, packetCount: 0, pageCount: 20, intervalMs: state.silentIntervalMs },
      limits,
    );
  }
  expect(state.silentIntervalMs).toBe(1000);
  expect(startPacing(limits).silentIntervalMs).toBe(5);
});
