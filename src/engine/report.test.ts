/** What a person is told of a guest that nobody runs, or that nobody may go on with. */
import { describe, expect, test } from "@jest/globals";
import { type EngineReport } from "../protocol/assignment.ts";
import { type QuorumRecord } from "../protocol/quorum-record.ts";
import { startSide } from "../protocol/side.ts";
import { type Side } from "../protocol/side-state.ts";
import { Figures } from "./figures.ts";
import { type EngineSnapshot, planReport } from "./report.ts";

const record: QuorumRecord = {
  ...{ guest: "web", term: 3, owner: "host-a", peer: "host-b", peerState: "Stale", epoch: 7 },
  ...{ version: 9, lastRequestId: "r" },
};
const fresh = startSide({
  ...{ guest: "web", node: "host-b", peer: "host-a", createsRecord: false, mode: "FaultTolerant", nonce: "n" },
});
const holding = {
  tag: "holding",
  expectsGuest: false,
  role: "standby",
  session: "3.n.1",
  term: 3,
  epoch: 7,
  link: null,
} as const;
const waiting = { tag: "waiting", role: "standby", ready: true } as const;

function conditionOf(type: string, change: Partial<Side>, more: Partial<EngineSnapshot> = {}): unknown {
  const side = { ...fresh, record, ...change };
  const snapshot: EngineSnapshot = {
    ...{ side, role: "standby", state: side.state.tag, nowMs: 0, figures: new Figures() },
    contract: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1000 },
    ...{
      isThrottled: false,
      linkShare: undefined,
      isHeldToShare: false,
      syncPercent: 0,
      disks: [],
      resync: undefined,
      oldestUnacknowledgedMs: undefined,
    },
    ...{ heldPacketsCount: 0, outputMode: "closed", tracker: "none", quorums: [], quorumProblem: undefined },
    links: [{ name: "one", alive: false } as EngineReport["links"][number]],
    ...{ takeoversCount: 0, problems: new Map(), diskFaults: [], slowDisks: [] },
    ...more,
  };
  return planReport(snapshot).conditions.find((condition) => condition.type === type);
}

const awayMessage = /the guest belongs to host-a, which cannot be reached; .* bring host-a back$/;

describe("a standby whose primary is away", () => {
  test("is in sync as long as the record says so", () => {
    const change: Partial<Side> = { state: holding, record: { ...record, peerState: "InSync" } };
    expect(conditionOf("InSync", change)).toMatchObject({ status: "True" });
  });

  test("is not once that one has gone on alone, and says who is to come back", () => {
    expect(conditionOf("InSync", { state: holding })).toMatchObject({
      status: "False",
      message: expect.stringMatching(awayMessage),
    });
  });

  test("says so as well when it has nothing yet", () => {
    expect(conditionOf("InSync", { state: waiting })).toMatchObject({
      status: "False",
      message: expect.stringMatching(awayMessage),
    });
  });

  test("says nothing of it while a link is up", () => {
    const links = [{ name: "one", alive: true } as EngineReport["links"][number]];
    expect(conditionOf("InSync", { state: waiting }, { links })).toMatchObject({ message: "this side is waiting" });
    const change: Partial<Side> = { state: { ...holding, link: "one" } };
    expect(conditionOf("InSync", change, { links })).toMatchObject({ status: "True" });
  });
});

describe("the latency that protection adds", () => {
  test.each([
    { when: "nothing was held yet", outputMode: "held", addedMs: [], status: "Unknown" },
    { when: "packets waited a little", outputMode: "held", addedMs: [3, 5], status: "True" },
    { when: "packets waited longer than allowed", outputMode: "held", addedMs: [3, 51], status: "False" },
    { when: "output passes", outputMode: "leased", addedMs: [], status: "True" },
    { when: "output passes, and what waited before took long", outputMode: "leased", addedMs: [51], status: "True" },
  ] as const)("is judged when $when: $status", ({ outputMode, addedMs, status }) => {
    const figures = new Figures();
    addedMs.forEach((ms) => {
      figures.addLatency(ms);
    });
    expect(conditionOf("LatencyWithinBound", {}, { outputMode, figures })).toMatchObject({ status });
  });
});
