import { describe, expect, test } from "@jest/globals";
import { type Fault, type SeenFault } from "../api/fault.ts";
import {
  COMPONENT_FAULTS_MAX,
  type FaultSide,
  findIsolation,
  isMeantBy,
  listIsolatedLinks,
  listIsolatedNodes,
  mergeFaults,
} from "./component-faults.ts";

const startMs = Date.parse("2026-01-31T08:00:00Z");
const at = (seconds: number): string => new Date(startMs + seconds * 1_000).toISOString().replace(".000Z", "Z");

function buildSeen(difference: Partial<SeenFault> = {}): SeenFault {
  return {
    ...{ node: "node-a", component: "disk/system", code: "DiskFailed", message: "write failed: EIO" },
    ...{ state: "OutOfService", firstAt: at(0), lastAt: at(0), count: 1, incidents: [at(0)], done: "d", remedy: "r" },
    ...difference,
  };
}

/** With the times at which the component failed, each repaired at once. */
const failedAt = (seconds: readonly number[], difference: Partial<SeenFault> = {}): SeenFault =>
  buildSeen({
    ...{ state: "InService", repairedAt: at((seconds.at(-1) ?? 0) + 1) },
    ...{ lastAt: at(seconds.at(-1) ?? 0), incidents: seconds.map(at), count: seconds.length },
    ...difference,
  });

const sideOf = (node: string, seen: readonly SeenFault[] | undefined = []): FaultSide => ({
  node,
  seen,
  lostSinceMs: undefined,
  isCordoned: false,
  isMaintained: false,
});

type Given = {
  readonly a?: Partial<FaultSide>;
  readonly b?: Partial<FaultSide>;
  readonly clear?: string;
  readonly limit?: number;
  readonly seconds?: number;
  readonly sides?: readonly FaultSide[];
  readonly ready?: readonly string[];
};

function merge(previous: readonly Fault[], given: Given): readonly Fault[] {
  const { a, b, clear, limit = 3, seconds = 60, ready = [] } = given;
  return mergeFaults({
    ...{ previous, clear, limit, nowMs: startMs + seconds * 1_000 },
    sides: given.sides ?? [
      { ...sideOf("node-a"), ...a },
      { ...sideOf("node-b"), ...b },
    ],
    isReady: (node) => ready.includes(node),
  });
}

describe("a component", () => {
  test("is out of service while its agent says so, and in service afterwards", () => {
    const out = merge([], { a: { seen: [buildSeen()] } });
    expect(out).toMatchObject([{ node: "node-a", state: "OutOfService", count: 1 }]);
    const back = merge(out, { a: { seen: [buildSeen({ state: "InService", repairedAt: at(30) })] } });
    expect(back).toMatchObject([{ state: "InService", repairedAt: at(30) }]);
  });

  test("that failed three times within an hour is isolated until it is cleared, however well it works", () => {
    expect(merge([], { a: { seen: [failedAt([0, 600])] } })).toMatchObject([{ state: "InService" }]);
    const isolated = merge([], { a: { seen: [failedAt([0, 600, 3_000])] } });
    expect(isolated).toMatchObject([{ state: "Isolated" }]);
    const dayAfter = merge(isolated, { a: { seen: [failedAt([0, 600, 3_000])] }, seconds: 90_000 });
    expect(dayAfter).toMatchObject([{ state: "Isolated" }]);
    const cleared = merge(dayAfter, {
      a: { seen: [failedAt([0, 600, 3_000])] },
      clear: "disk/system",
      seconds: 90_001,
    });
    expect(cleared).toMatchObject([{ state: "InService", clearedAt: at(90_001) }]);
    const later = merge(cleared, { a: { seen: [failedAt([0, 600, 3_000])] }, seconds: 90_100 });
    expect(later).toMatchObject([{ state: "InService", clearedAt: at(90_001) }]);
  });

  test("that failed three times in more than an hour is not isolated", () => {
    expect(merge([], { a: { seen: [failedAt([0, 1_800, 3_600])] } })).toMatchObject([{ state: "InService" }]);
  });

  test("is isolated by all the ways in which it failed together, and by another number where that is asked for", () => {
    const seen = [failedAt([0, 100]), failedAt([200], { code: "DiskSlow" })];
    expect(merge([], { a: { seen } })).toMatchObject([{ code: "DiskSlow", state: "Isolated" }, { state: "InService" }]);
    expect(merge([], { a: { seen }, limit: 4 })).toMatchObject([{ state: "InService" }, { state: "InService" }]);
  });

  test("that is cleared while it is out of service is still out of service, and counts anew", () => {
    const seen = [failedAt([0, 100, 200], { state: "OutOfService", repairedAt: undefined })];
    const isolated = merge([], { a: { seen } });
    const cleared = merge(isolated, { a: { seen }, clear: "all", seconds: 300 });
    expect(cleared).toMatchObject([{ state: "OutOfService", clearedAt: at(300) }]);
    const again = [failedAt([100, 200, 400], { firstAt: at(0), count: 4 })];
    expect(merge(cleared, { a: { seen: again }, seconds: 401 })).toMatchObject([{ state: "InService", count: 4 }]);
  });

  test("asked for again a clearance changes nothing more", () => {
    const seen = [failedAt([0, 100, 200])];
    const cleared = merge(merge([], { a: { seen } }), { a: { seen }, clear: "all", seconds: 300 });
    expect(merge(cleared, { a: { seen }, clear: "all", seconds: 305 })).toEqual(cleared);
  });
});

describe("a record outlives", () => {
  const known = merge([], { a: { seen: [failedAt([0, 600], { count: 7 })] } });

  test("the memory of its agent: what that counts from now on is added", () => {
    expect(merge(known, {})).toMatchObject([{ state: "InService", count: 7 }]);
    const afresh = [failedAt([900], { firstAt: at(900) })];
    const again = merge(known, { a: { seen: afresh } });
    expect(again).toMatchObject([
      { state: "Isolated", count: 8, firstAt: at(0), incidents: [at(0), at(600), at(900)] },
    ]);
    expect(merge(again, { a: { seen: afresh } })).toEqual(again);
  });

  test("an agent that is silent: it stays as it was", () => {
    const out = merge([], { a: { seen: [buildSeen()] } });
    expect(merge(out, { a: { seen: undefined } })).toEqual(out);
    expect(merge(out, {})).toMatchObject([{ state: "InService", repairedAt: at(60) }]);
  });

  test("a side that moved to another node only where it is isolated, or about the node itself", () => {
    const host = buildSeen({ component: "host", code: "HostSilent" });
    const disk = buildSeen();
    const bad = failedAt([0, 10, 20], { component: "disk/data" });
    const before = merge([], { a: { seen: [disk, bad] }, b: { seen: [host] } });
    const sides = [sideOf("node-c"), sideOf("node-b")];
    expect(merge(before, { sides }).map(({ component, state }) => [component, state])).toEqual([
      ["disk/data", "Isolated"],
      ["host", "OutOfService"],
    ]);
    const [, back] = merge(before, { sides, ready: ["node-a"] });
    expect(back).toMatchObject({ component: "host", state: "InService" });
  });
});

describe("a node", () => {
  const silent = buildSeen({
    component: "host",
    code: "HostSilent",
    lastAt: at(5),
    firstAt: at(5),
    incidents: [at(5)],
  });

  test("that its peer does not hear, and Kubernetes holds for lost, failed once", () => {
    const first = merge([], { b: { seen: [silent] } });
    const both = merge(first, { a: { seen: undefined, lostSinceMs: startMs + 40_000 }, b: { seen: [silent] } });
    expect(both.map(({ code, incidents }) => [code, incidents])).toEqual([
      ["NodeAway", []],
      ["HostSilent", [at(5)]],
    ]);
    expect(merge(both, { a: { seen: undefined, lostSinceMs: startMs + 40_000 }, b: { seen: [silent] } })).toEqual(both);
    const heard = [{ ...silent, state: "InService" as const, repairedAt: at(90) }];
    expect(merge(both, { b: { seen: heard }, seconds: 90 }).map(({ state }) => state)).toEqual([
      "InService",
      "InService",
    ]);
  });

  test("that somebody cordoned may come and go as often as he likes, but its disks may not", () => {
    const restarted = failedAt([0, 100, 200], { component: "host", code: "HostSilent" });
    const cordoned = merge([], { a: { isCordoned: true }, b: { seen: [restarted] }, seconds: 210 });
    expect(cordoned).toMatchObject([{ state: "InService", clearedAt: at(210) }]);
    expect(merge(cordoned, { b: { seen: [restarted] }, seconds: 300 })).toEqual(cordoned);
    const worn = merge([], { a: { isCordoned: true, seen: [failedAt([0, 100, 200])] } });
    expect(worn).toMatchObject([{ state: "Isolated" }]);
    const isolated = merge([], { b: { seen: [restarted] }, seconds: 210 });
    expect(merge(isolated, { a: { isCordoned: true }, b: { seen: [restarted] }, seconds: 300 })).toEqual(isolated);
  });

  test("that is in maintenance has not failed, and what it did meanwhile does not count afterwards", () => {
    const off = buildSeen({ component: "host", code: "HostSilent", incidents: [at(0), at(20), at(40)], count: 3 });
    const given = { isMaintained: true, isCordoned: true, seen: undefined, lostSinceMs: startMs };
    const resting = merge([], { a: given, b: { seen: [off] } });
    expect(resting.map(({ code, state }) => [code, state])).toEqual([
      ["HostSilent", "InService"],
      ["NodeAway", "InService"],
    ]);
    expect(merge(resting, { a: given, b: { seen: [off] }, seconds: 90 })).toEqual(resting);
    const after = merge(resting, { b: { seen: [off] }, seconds: 120 });
    expect(after[0]).toMatchObject({ code: "HostSilent", state: "OutOfService" });
  });

  test("that is gone altogether is lost since it was missed first", () => {
    const first = merge([], { a: { seen: undefined, lostSinceMs: 0 }, seconds: 60 });
    expect(first).toMatchObject([{ code: "NodeAway", firstAt: at(60), incidents: [at(60)], count: 1 }]);
    expect(merge(first, { a: { seen: undefined, lostSinceMs: 0 }, seconds: 90 })).toEqual(first);
  });
});

test("of too many records those stay that are isolated or out of service, then the latest", () => {
  const seen = Array.from({ length: 40 }, (_, index) =>
    failedAt([index], {
      component: `disk/d${index}`,
      ...(index < 2 ? { state: "OutOfService", repairedAt: undefined } : {}),
    }),
  );
  const kept = merge([], { a: { seen } });
  expect(kept).toHaveLength(COMPONENT_FAULTS_MAX);
  expect(kept.slice(0, 3).map(({ component }) => component)).toEqual(["disk/d1", "disk/d0", "disk/d39"]);
});

describe("what is isolated", () => {
  const isolate = (component: string, node = "node-a"): Fault => ({
    ...failedAt([0]),
    node,
    component,
    state: "Isolated",
  });

  test.each([
    { component: "host", keepsOut: true, isNode: true },
    { component: "agent", keepsOut: true, isNode: true },
    { component: "qemu", keepsOut: true, isNode: false },
    { component: "engine", keepsOut: true, isNode: false },
    { component: "disk/system", keepsOut: true, isNode: false },
    { component: "link/fast", keepsOut: false, isNode: false },
    { component: "uplink/lan", keepsOut: false, isNode: true },
  ])("$component", ({ component, keepsOut, isNode }) => {
    const faults = [isolate(component)];
    expect(findIsolation(faults, "node-a") !== undefined).toBe(keepsOut);
    expect(findIsolation(faults, "node-b")).toBeUndefined();
    expect(listIsolatedNodes(faults).has("node-a")).toBe(isNode);
  });

  test("of links is named as the links are", () => {
    expect(
      listIsolatedLinks([isolate("link/fast"), isolate("disk/fast"), { ...isolate("link/slow"), state: "InService" }]),
    ).toEqual(["fast"]);
  });

  test.each([
    ["all", true],
    ["node-a", true],
    ["disk/system", true],
    ["node-a/disk/system", true],
    ["node-b/disk/system", false],
    ["disk", false],
    ["system", false],
  ])("is meant by %s: %s", (clear, isMeant) => {
    expect(isMeantBy(clear, isolate("disk/system"))).toBe(isMeant);
  });
});
