/** When a soak has passed, and what it says of each kind of fault. */
import { describe, expect, test } from "@jest/globals";
import { type ConversationResult } from "../lab/clients/conversation.ts";
import { type WitnessResult } from "../lab/load.ts";
import { listLines, planReport, type SoakReport } from "./report.ts";
import { type Kill, type SoakOutcome } from "./soak.ts";

const kill = (change: Partial<Kill>): Kill => ({
  ...{ number: 1, round: "killPrimaryQemu", faults: ["killPrimaryQemu"], guest: "plain", says: "", atMs: 10_000 },
  ...{ survival: "taken over", takeover: { detectionMs: 5, totalMs: 90, epoch: 7 }, protectedAfterMs: 2_000 },
  ...change,
});
const good: SoakOutcome = { kills: [kill({})], faultsCount: 1, violation: undefined, disksComparedCount: 3 };
const noFaults = { lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 };
const served: WitnessResult = {
  name: "synced requests",
  guest: "plain",
  result: {
    ...{ connectionsCount: 4, connectionsSurvived: 4, repliesCount: 80, faults: [], faultsCount: noFaults },
    gaps: [{ connection: 0, startedAtMs: 10_100, ms: 1_234 }],
  } as unknown as ConversationResult,
};
const rest = { seed: 1, seconds: 9, missingOnDisk: [], traces: { accepted: true, lines: [] } } as const;

describe("a soak", () => {
  test("has passed when nobody has anything to complain of", () => {
    expect(planReport(good, [served], rest)).toMatchObject({ passed: true, faultsInjected: 1, violation: null });
  });

  const lost = { ...noFaults, lost: 1 };
  const fault = { kind: "lost", connection: 0, number: 3, detail: "no reply", atMs: 1 } as const;
  const hurt = { ...served.result, connectionsSurvived: 3, faults: [fault], faultsCount: lost };
  test.each([
    ["something was violated", { ...good, violation: { afterKill: 1, what: "disks differ" } }, [served], {}],
    ["a client saw a fault", good, [{ ...served, result: hurt }], {}],
    ["something is missing on a disk", good, [served], { missingOnDisk: ["number 3"] }],
    ["a trace is refused", good, [served], { traces: { accepted: false, lines: [] } }],
  ])("has failed when %s", (_, outcome, results, change: Partial<SoakReport>) => {
    expect(planReport(outcome, results, { ...rest, ...change }).passed).toBe(false);
  });
});

describe("the table", () => {
  const linesOf = (kills: readonly Kill[]): readonly string[] =>
    listLines(planReport({ ...good, kills }, [served], rest), [served]);

  test("says how often each kind came, how it was survived, and the longest wait", () => {
    const lines = linesOf([kill({}), kill({ survival: "unnoticed", atMs: 90_000 })]);
    expect(lines).toEqual([
      expect.stringMatching(/^killPrimaryQemu +2 x {2}unnoticed 1, taken over 1 +longest wait 1[.]2 s$/),
    ]);
  });

  test("holds no wait against a fault that the next one brought about", () => {
    const next = kill({ round: "switchOver", atMs: 10_060 });
    expect(linesOf([kill({ atMs: 8_000 }), next])).toEqual([
      expect.stringMatching(/^killPrimaryQemu .* longest wait below 300 ms$/),
      expect.stringMatching(/^switchOver .* longest wait 1[.]2 s$/),
    ]);
  });

  test("tells deaths at steps of the protocol together", () => {
    const steps = ["at-primary-captured-engine", "at-standby-send-both"].map((round) => kill({ round }));
    expect(linesOf(steps)).toEqual([expect.stringMatching(/^2 steps of the protocol +2 x {2}taken over 2 /)]);
  });

  test("counts no wait of clients that were to lose their guest", () => {
    expect(linesOf([kill({ round: "powerOffBoth", survival: "booted" })])).toEqual([
      expect.stringMatching(/^powerOffBoth +1 x {2}booted 1 +its clients are others$/),
    ]);
  });
});
