import { describe, expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { type EngineReport } from "../protocol/assignment.ts";
import { type FaultCode } from "../protocol/faults.ts";
import { type FaultEvent, type FaultRecord, FAULTS_MAX, listRepairs, stepFaults } from "./fault-log.ts";

const startMs = Date.parse("2026-01-31T08:00:00Z");
const at = (seconds: number): string => new Date(startMs + seconds * 1_000).toISOString().replace(".000Z", "Z");

const disk = { node: "node-a", component: "disk/system" } as const;
const failed = (code: FaultCode = "DiskFailed", message = "write failed: EIO"): FaultEvent => ({
  ...{ tag: "faulted", ...disk },
  ...{ code, message },
});
const repaired: FaultEvent = { tag: "repaired", ...disk };

/** Each event with the second in which it happens. */
function follow(events: readonly (readonly [seconds: number, event: FaultEvent])[]): readonly FaultRecord[] {
  return events.reduce<readonly FaultRecord[]>(
    (records, [seconds, event]) => stepFaults(records, event, startMs + seconds * 1_000).records,
    [],
  );
}

describe("a fault", () => {
  test("gets a record with what, where, when, how often, what is done and what to do", () => {
    const [record, ...others] = follow([
      [0, failed()],
      [7, failed()],
    ]);
    expect(others).toEqual([]);
    expect(record).toMatchObject({
      ...{ node: "node-a", component: "disk/system", code: "DiskFailed", message: "write failed: EIO" },
      ...{ state: "OutOfService", firstAt: at(0), lastAt: at(7), count: 2, incidents: [at(0)] },
    });
    expect(record?.done).toMatch(/the other side's disk/);
    expect(record?.remedy).toMatch(/see to the volume/);
    expect(record?.repairedAt).toBeUndefined();
  });

  test("that is seen again before it is repaired is the same incident, after that another one", () => {
    const [record] = follow([
      [0, failed()],
      [5, failed()],
      [60, repaired],
      [90, failed()],
      [120, repaired],
    ]);
    expect(record).toMatchObject({ state: "InService", count: 3, incidents: [at(0), at(90)], repairedAt: at(120) });
  });

  test("of another kind on a component that is out of service has a record of its own, but is no incident of its own", () => {
    const records = follow([
      [0, failed()],
      [5, failed("DiskSlow", "1.2 s a write")],
    ]);
    expect(records.map(({ code, incidents }) => [code, incidents.length])).toEqual([
      ["DiskSlow", 0],
      ["DiskFailed", 1],
    ]);
    const [, after] = follow([
      [0, failed()],
      [5, failed("DiskSlow", "1.2 s a write")],
      [9, { ...repaired, code: "DiskFailed" }],
    ]);
    expect(after).toMatchObject({ code: "DiskFailed", state: "InService" });
  });

  test("of an hour ago does not count as an incident any more", () => {
    const [record] = follow([
      [0, failed()],
      [60, repaired],
      [3_600, failed()],
    ]);
    expect(record).toMatchObject({ firstAt: at(0), count: 2, incidents: [at(3_600)] });
  });

  test("on another node is another component's", () => {
    const records = follow([
      [0, failed()],
      [1, { ...failed(), node: "node-b" }],
      [2, repaired],
    ]);
    expect(records.map(({ node, state }) => [node, state])).toEqual([
      ["node-b", "OutOfService"],
      ["node-a", "InService"],
    ]);
  });
});

describe("what is told of a change", () => {
  test.each<[string, readonly FaultRecord[], FaultEvent, readonly string[]]>([
    ["a first fault", [], failed(), ["outOfService"]],
    ["the same again", follow([[0, failed()]]), failed(), ["countedAgain"]],
    ["a repair", follow([[0, failed()]]), repaired, ["backInService"]],
    ["a repair of what works", [], repaired, []],
    ["a repair of another kind", follow([[0, failed()]]), { ...repaired, code: "DiskSlow" }, []],
    [
      "a fault after a repair",
      follow([
        [0, failed()],
        [1, repaired],
      ]),
      failed(),
      ["outOfService"],
    ],
  ])("%s", (_, records, event, tags) => {
    const step = stepFaults(records, event, startMs + 60_000);
    expect(step.effects.map(({ tag }) => tag)).toEqual(tags);
    if (tags.length === 0) {
      expect(step.records).toBe(records);
    }
  });
});

test("of too many records the one goes that has been repaired for longest, never one that is open before one that is not", () => {
  const records = Array.from({ length: FAULTS_MAX }, (_, index) => index).reduce<readonly FaultRecord[]>(
    (known, index) => {
      const component = `disk/d${index}` as const;
      const open = stepFaults(known, { ...failed(), component }, startMs + index * 1_000).records;
      const isRepaired = index === 3 || index === 5;
      return isRepaired ? stepFaults(open, { ...repaired, component }, startMs).records : open;
    },
    [],
  );
  const names = (all: readonly FaultRecord[]): readonly string[] => all.map(({ component }) => component);
  const first = stepFaults(records, failed(), startMs + 99_000).records;
  expect(first).toHaveLength(FAULTS_MAX);
  expect(names(first)).not.toContain("disk/d3");
  const second = stepFaults(first, failed("DiskSlow", "slow"), startMs + 99_000).records;
  expect(names(second)).not.toContain("disk/d5");
  const third = stepFaults(second, failed("DiskFull", "full"), startMs + 99_000).records;
  expect(names(third)).not.toContain("disk/d0");
});

describe("by what its engine reports", () => {
  const alone: Partial<EngineReport> = { state: "alone", conditions: [] };
  test.each<[string, FaultCode, Partial<EngineReport>, number, boolean]>([
    ["a disk is repaired once the side is in sync", "DiskFailed", {}, 10, true],
    ["not at once: that it was in sync may be old news", "DiskFailed", {}, 9, false],
    ["a disk is not while the side is alone", "DiskFailed", alone, 60, false],
    ["a QEMU is while the side runs the guest alone", "QemuDied", alone, 10, true],
    [
      "a QEMU is not while the side only waits for one",
      "QemuDied",
      { ...alone, role: "standby", state: "waiting" },
      60,
      false,
    ],
    [
      "a QEMU is not before the record is read",
      "QemuDied",
      { ...alone, role: "starting", state: "starting" },
      60,
      false,
    ],
    ["a slow disk is whenever somebody says so", "DiskSlow", {}, 60, false],
  ])("%s", (...[, code, difference, seconds, isRepaired]) => {
    const records = follow([[0, failed(code)]]);
    const seen = { node: "node-a", report: buildReport(difference), nowMs: startMs + seconds * 1_000 };
    expect(listRepairs(records, seen)).toEqual(isRepaired ? [{ tag: "repaired", ...disk, code }] : []);
  });

  test("nothing is said of another node's components", () => {
    const records = follow([[0, failed()]]);
    expect(listRepairs(records, { node: "node-b", report: buildReport(), nowMs: startMs + 60_000 })).toEqual([]);
  });
});
