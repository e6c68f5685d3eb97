/** Engine reports for tests: a healthy protected primary, each test spreads one difference. */
import { type DurationFigures, type EngineReport } from "../../src/protocol/assignment.ts";

const duration = (p50Ms: number): DurationFigures => ({
  p50Ms,
  p99Ms: p50Ms * 2,
  maxMs: p50Ms * 3,
  sumMs: p50Ms * 100,
  count: 100,
});

export function buildReport(difference: Partial<EngineReport> = {}): EngineReport {
  return {
    role: "primary",
    state: "protected",
    term: 3,
    epoch: 41,
    primaryNode: "host-a",
    syncPercent: 100,
    disks: [{ id: "disk0", syncPercent: 50, dirtyBytes: 4096 }],
    resync: null,
    checkpoint: {
      count: 100,
      perSecond: 25,
      phases: { pause: duration(4), stop: duration(1), acknowledge: duration(8) },
      dirtyPagesP50: 120,
      dirtyPagesMax: 900,
      dirtyPagesCount: 15_000,
      sentBytes: 1_000_000,
      diskBytes: 5_000,
    },
    addedLatency: duration(10),
    lagMs: 12.5,
    heldPacketsCount: 2,
    links: [{ name: "direct", alive: true, rttMs: 0.2 }],
    tracker: "userfaultfd",
    outputMode: "held",
    takeoversCount: 1,
    conditions: [{ type: "InSync", status: "True", reason: "Protected", message: "the standby is in sync" }],
    ...difference,
  };
}
