import { describe, expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildGuestPair } from "../../test/build/resources.ts";
import { parseGuestPair } from "../api/guest-pair.ts";
import { assert } from "../lib/assert.ts";
import { type FaultEvent, stepFaults } from "./fault-log.ts";
import { decideWrite, planSideStatus, type SideStatus, type SideView } from "./side-status.ts";

const EARLY = "2026-01-31T08:30:00Z";
const LATE = "2026-01-31T08:30:30Z";
const calm: SideView = {
  node: "node-a",
  observedGeneration: 4,
  supervision: "running",
  wantedShape: null,
  trouble: null,
  disks: ["disk0"],
  links: ["direct"],
  report: buildReport(),
  faults: [],
  takeovers: { count: 0, last: undefined },
};
const plan = (difference: Partial<SideView> = {}, before?: SideStatus, now = EARLY): SideStatus =>
  planSideStatus({ ...calm, ...difference }, before, now);

test("term and primary that were known stay known while a new engine has not read the record", () => {
  const before = plan();
  const view = { report: buildReport({ role: "starting", state: "starting", term: 0, primaryNode: "" }) };
  expect(plan(view, before)).toMatchObject({
    state: "starting",
    term: before.term,
    primaryNode: before.primaryNode ?? "none",
  });
});

describe("faults", () => {
  const failed: FaultEvent = {
    ...{ tag: "faulted", node: "node-a", component: "disk/disk0", code: "DiskFailed", message: "write failed: EIO" },
  };
  const { records } = stepFaults([], failed, Date.parse(EARLY));

  test("stand in the status as the API takes them, and are left out while there are none", () => {
    const side = plan({ faults: records });
    const parsed = parseGuestPair({ ...buildGuestPair({}, { sides: [side] }) }, "status").status?.sides?.[0];
    expect(parsed?.faults).toEqual(records);
    expect(plan()).not.toHaveProperty("faults");
  });

  test("are written at once when there is a new one or a repair, and with the figures when one is only counted", () => {
    const before = plan({ faults: records });
    const again = stepFaults(records, failed, Date.parse(LATE)).records;
    const repaired = stepFaults(records, { ...failed, tag: "repaired" }, Date.parse(LATE)).records;
    expect(decideWrite(before, plan(), { sinceMs: 0 })).toBe("atOnce");
    expect(decideWrite(plan({ faults: again }, before), before, { sinceMs: 0 })).toBe("no");
    expect(decideWrite(plan({ faults: repaired }, before), before, { sinceMs: 0 })).toBe("atOnce");
  });
});

test("a guest that is held to its share of the links is news, what its share is no more than a figure", () => {
  const traffic = { bytesPerSecond: 40 * 2 ** 20, nodePeakBytesPerSecond: 90 * 2 ** 20 };
  const held = (mib: number, isHeldTo = true): SideStatus =>
    plan({ traffic, report: buildReport({ linkShare: { bytesPerSecond: mib * 2 ** 20, isHeldTo } }) });
  expect(held(45).traffic).toEqual({ mibPerSecond: 40, nodePeakMiBPerSecond: 90, heldToMiBPerSecond: 45 });
  expect(held(45, false).traffic).toEqual({ mibPerSecond: 40, nodePeakMiBPerSecond: 90 });
  expect(decideWrite(held(45), held(45, false), { sinceMs: 0 })).toBe("atOnce");
  expect(decideWrite(held(40), held(45), { sinceMs: 0 })).toBe("no");
});

describe("what is written", () => {
  test.each<{ when: string; view: Partial<SideView>; shows: object }>([
    {
      when: "a primary in sync",
      view: {},
      shows: {
        role: "primary",
        state: "protected",
        term: 3,
        outputMode: "held",
      },
    },
    {
      when: "no engine runs yet",
      view: { report: null, supervision: "starting" },
      shows: { role: "starting", state: "starting", term: 0, syncPercent: 0 },
    },
    {
      when: "a standby waits for its pod",
      view: {
        report: buildReport({ role: "standby", state: "waiting" }),
        wantedShape: "standby",
      },
      shows: { role: "standby", state: "waiting", wantedShape: "standby" },
    },
    {
      when: "the guest was released",
      view: { report: null, supervision: "released" },
      shows: { role: "released", outputMode: "open" },
    },
    {
      when: "the guest shut down",
      view: { report: null, supervision: "ended" },
      shows: { role: "ended" },
    },
    {
      when: "something is wrong",
      view: { trouble: "no pod" },
      shows: { trouble: "no pod" },
    },
    {
      when: "the trouble is a long story",
      view: { trouble: "x".repeat(5_000) },
      shows: { trouble: "x".repeat(1_024) },
    },
  ])("$when: and the CRD takes it", ({ view, shows }) => {
    const side = plan(view);
    expect(side).toMatchObject(shows);
    const { status } = parseGuestPair(buildGuestPair({}, { sides: [side] }), "object");
    expect(status?.sides?.[0]).toEqual(side);
    expect(side.conditions.map(({ type }) => type)).toEqual([
      "InSync",
      "QuorumReachable",
      "LatencyWithinBound",
      "DisksHealthy",
      "LinksHealthy",
    ]);
  });

  test("the time of a condition moves with its status only", () => {
    const before = plan();
    const same = plan({ report: buildReport({ epoch: 99 }) }, before, LATE);
    expect(same.conditions[0]?.lastTransitionTime).toBe(EARLY);
    const condition = {
      type: "InSync",
      status: "False",
      reason: "Unprotected",
      message: "alone",
    } as const;
    const lost = plan({ report: buildReport({ conditions: [condition] }) }, before, LATE);
    expect(lost.conditions[0]).toMatchObject({
      status: "False",
      lastTransitionTime: LATE,
    });
  });

  test("every disk and link is in it, also while nobody can say anything of them", () => {
    const none = plan({ report: buildReport({ role: "standby", state: "waiting", disks: [], links: [] }) });
    expect(none).toMatchObject({
      disks: [{ id: "disk0", syncPercent: 0, dirtyBytes: 0 }],
      links: [{ name: "direct", alive: false }],
    });
    expect(plan({ report: null })).toMatchObject({ disks: none.disks, links: none.links });
  });

  test("takeovers add up over agents, and the last one stays", () => {
    const last = {
      cause: "the primary fell silent",
      durationMs: 40,
      term: 4,
      epoch: 41,
      at: EARLY,
    };
    const first = plan({ takeovers: { count: 1, last } });
    const later = plan({ takeovers: { count: 0, last: undefined } }, first, LATE);
    expect(later).toMatchObject({ takeoversCount: 1, lastTakeover: last });
  });

  test("while no engine speaks, what the last one knew of the record stays", () => {
    const side = plan({ report: null, supervision: "waiting" }, plan(), LATE);
    expect(side).toMatchObject({
      role: "starting",
      state: "waiting",
      term: 3,
      epoch: 41,
      primaryNode: "host-a",
    });
  });
});

describe("when it is written", () => {
  const written = plan();
  const [link] = buildReport().links;
  assert(link !== undefined, "a report has a link");
  const figures = buildReport({
    epoch: 99,
    lagMs: 3,
    links: [{ ...link, rttMs: 9 }],
  });
  const standby = { role: "standby", state: "holding" } as const;

  test.each<{
    when: string;
    view: Partial<SideView>;
    sinceMs: number;
    decision: string;
  }>([
    { when: "nothing changes", view: {}, sinceMs: 59_000, decision: "no" },
    {
      when: "figures change, a moment ago",
      view: { report: figures },
      sinceMs: 5_000,
      decision: "no",
    },
    {
      when: "figures change, a while ago",
      view: { report: figures },
      sinceMs: 15_000,
      decision: "withFigures",
    },
    {
      when: "the state changes",
      view: { report: buildReport({ state: "alone" }) },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "the term changes",
      view: { report: buildReport({ term: 4 }) },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "a shape is waited for",
      view: { wantedShape: "standby" },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "trouble comes",
      view: { trouble: "no pod" },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "the spec was taken up",
      view: { observedGeneration: 5 },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "a link dies",
      view: { report: buildReport({ links: [{ ...link, alive: false }] }) },
      sinceMs: 0,
      decision: "atOnce",
    },
    {
      when: "only the words of a condition change",
      view: {
        report: buildReport({
          conditions: [
            {
              type: "InSync",
              status: "True",
              reason: "Protected",
              message: "else",
            },
          ],
        }),
      },
      sinceMs: 0,
      decision: "no",
    },
  ])("$when => $decision", ({ view, sinceMs, decision }) => {
    expect(decideWrite(plan(view, written, LATE), written, { sinceMs })).toBe(decision);
  });

  test("who runs the guest says so once a minute, though nothing of it has changed", () => {
    const before = plan();
    expect(decideWrite(plan({}, before), before, { sinceMs: 59_000 })).toBe("no");
    expect(decideWrite(plan({}, before), before, { sinceMs: 60_000 })).toBe("withFigures");
    const waiting = plan({ report: buildReport(standby) });
    expect(decideWrite(plan({ report: buildReport(standby) }, waiting), waiting, { sinceMs: 600_000 })).toBe("no");
  });

  test("a side that does not run the guest is in no hurry with figures", () => {
    const before = plan({ report: buildReport(standby) });
    const now = plan({ report: buildReport({ ...standby, epoch: 50 }) }, before, LATE);
    expect(decideWrite(now, before, { sinceMs: 61_000 })).toBe("no");
    expect(decideWrite(now, before, { sinceMs: 301_000 })).toBe("withFigures");
  });

  const { checkpoint } = buildReport();
  test.each<{ when: string; report: Parameters<typeof buildReport>[0]; decision: string }>([
    { when: "a figure doubles", report: { checkpoint: { ...checkpoint, perSecond: 50 } }, decision: "withFigures" },
    {
      when: "a figure falls to half",
      report: { checkpoint: { ...checkpoint, perSecond: 12 } },
      decision: "withFigures",
    },
    {
      when: "only a p99 doubles",
      report: { addedLatency: { ...buildReport().addedLatency, p99Ms: 90 } },
      decision: "no",
    },
    { when: "a figure wavers", report: { checkpoint: { ...checkpoint, perSecond: 30 } }, decision: "no" },
    { when: "a round trip doubles that is none", report: { links: [{ ...link, rttMs: 0.9 }] }, decision: "no" },
    { when: "a copy comes along", report: { syncPercent: 98 }, decision: "withFigures" },
    { when: "only the epoch moves", report: { epoch: 99 }, decision: "no" },
  ])("when $when it is written after 12 s: $decision; after a minute in any case", ({ report, decision }) => {
    const before = plan();
    const now = plan({ report: buildReport(report) }, before, LATE);
    expect(decideWrite(now, before, { sinceMs: 11_000 })).toBe("no");
    expect(decideWrite(now, before, { sinceMs: 13_000 })).toBe(decision);
    expect(decideWrite(now, before, { sinceMs: 61_000 })).toBe("withFigures");
  });

  test("a state that is only passed is written when it lasts", () => {
    const before = plan({ report: buildReport(standby) });
    const asking = plan({ report: buildReport({ ...standby, state: "asking" }) }, before);
    const alone = plan({ report: buildReport({ state: "alone", term: 4 }) }, before);
    expect(decideWrite(asking, before, { sinceMs: 5_000, passingMs: 0 })).toBe("no");
    expect(decideWrite(asking, before, { sinceMs: 5_000, passingMs: 1_000 })).toBe("atOnce");
    expect(decideWrite(alone, before, { sinceMs: 5_000 })).toBe("atOnce");
  });

  test("the first time it is written at once", () => {
    expect(decideWrite(plan(), undefined, { sinceMs: 0 })).toBe("atOnce");
  });
});
