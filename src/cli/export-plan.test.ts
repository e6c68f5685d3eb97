import { describe, expect, test } from "@jest/globals";
import { buildShownVm, condition } from "../../test/build/shown-vms.ts";
import { sideMark } from "../decide/guest-names.ts";
import { type Json } from "../lib/json-merge.ts";
import { CliFailure } from "./cli-failure.ts";
import { chooseDisks, type CurrentSide, decideCurrentSide, listGuestDisks, parseExportFormat } from "./export-plan.ts";
import { known, type Known } from "./kube-objects.ts";
import { type ShownPair, type ShownVm } from "./protected-vms.ts";

const first = { node: "node-a", vmi: { namespace: "shop", name: "web" } };
const second = { node: "node-b", vmi: { namespace: "twinrun-guests", name: "web-abcdef" } };

type Report = { readonly role: string; readonly term: number; readonly primaryNode?: string };

function buildPair(reports: readonly [Report, Report], notes?: Json): ShownPair {
  return {
    ...{ apiVersion: "twinrun.dev/v1alpha1", kind: "GuestPair" },
    metadata: {
      ...{ name: "web-0a1b2c3d", namespace: "twinrun" },
      ...(notes === undefined ? {} : { annotations: { "twinrun.dev/notes": JSON.stringify(notes) } }),
    },
    spec: { sides: [first, second] },
    status: {
      sides: [
        { node: "node-a", ...reports[0] },
        { node: "node-b", ...reports[1] },
      ],
    },
  } as unknown as ShownPair;
}

const ended = (term: number, primaryNode: string): Report => ({ role: "ended", term, primaryNode });
const resting = buildShownVm({
  status: { primary: undefined, standby: undefined },
  conditions: [condition("Ready", "False", "NotRunning", "the guest shut itself down")],
});

function said(vm: ShownVm, pair: Known<ShownPair>, isLive: boolean): string {
  try {
    const { node, isRunning } = decideCurrentSide(vm, pair, isLive);
    return `${node} ${isRunning ? "runs" : "rests"}`;
  } catch (error) {
    if (error instanceof CliFailure) {
      return `${error.detail.code}: ${error.message}`;
    }
    throw error;
  }
}

describe("the side whose disk counts", () => {
  test.each<{ when: string; vm: ShownVm; pair: Known<ShownPair>; isLive: boolean; says: RegExp }>([
    {
      when: "it runs",
      vm: buildShownVm(),
      pair: { tag: "absent" },
      isLive: false,
      says: /^Refused: web runs on node-a.*--live/,
    },
    {
      when: "it runs and that is meant",
      vm: buildShownVm(),
      pair: { tag: "absent" },
      isLive: true,
      says: /^node-a runs$/,
    },
    {
      when: "it was shut down on its second side",
      ...{ vm: resting, pair: known(buildPair([ended(4, "node-b"), ended(4, "node-b")])), isLive: false },
      says: /^node-b rests$/,
    },
    {
      when: "one side has not heard of the end",
      ...{ vm: resting, pair: known(buildPair([{ role: "standby", term: 3 }, ended(4, "node-b")])), isLive: false },
      says: /^node-b rests$/,
    },
    {
      when: "a side ended, but in an earlier term",
      ...{ vm: resting, pair: known(buildPair([ended(3, "node-a"), { role: "starting", term: 4 }])), isLive: true },
      says: /^Refused: web neither runs nor was shut down in order \(the guest shut itself down\)/,
    },
    {
      when: "the pair may not be seen",
      ...{ vm: resting, pair: { tag: "unknown", why: "forbidden" }, isLive: false },
      says: /^Refused: .*you may not read \(forbidden\): let an administrator/,
    },
    {
      when: "there is no pair",
      vm: resting,
      pair: { tag: "absent" },
      isLive: false,
      says: /^Refused: web neither runs/,
    },
  ])("$when", ({ vm, pair, isLive, says }) => {
    expect(said(vm, pair, isLive)).toMatch(says);
  });
});

const machine = {
  dataVolumeTemplates: [{ metadata: { name: "web-system" } }],
  template: {
    spec: {
      domain: {
        devices: { disks: [{ name: "system" }, { name: "data" }, { name: "iso", cdrom: {} }, { name: "scratch" }] },
      },
      volumes: [
        { name: "system", dataVolume: { name: "web-system" } },
        { name: "data", persistentVolumeClaim: { claimName: "archive" } },
        { name: "iso", persistentVolumeClaim: { claimName: "images" } },
        { name: "scratch", emptyDisk: { capacity: "1Gi" } },
      ],
    },
  },
};
const vm = buildShownVm({ spec: { virtualMachineTemplate: { spec: machine } } });
const adopted = buildShownVm();
const list = (side: Omit<CurrentSide, "isRunning">, of: ShownVm, pair?: ShownPair): readonly string[] =>
  listGuestDisks({ vm: of, pair, side: { ...side, isRunning: true }, machine }).map(
    ({ disk, namespace, claim }) => `${disk} ${namespace}/${claim}`,
  );
const [markA, markB] = ["node-a", "node-b"].map((node) => sideMark("u-1", node));

describe("the volumes of its disks", () => {
  test("on the side it was started from: those made for it, and those that were there", () => {
    expect(list(first, vm)).toEqual([`system shop/system-${markA ?? ""}`, "data shop/archive"]);
  });

  test("on the other side all were made", () => {
    expect(list(second, vm)).toEqual([
      `system twinrun-guests/system-${markB ?? ""}`,
      `data twinrun-guests/data-${markB ?? ""}`,
    ]);
  });

  test("of an adopted VirtualMachine they are its own", () => {
    expect(list(first, adopted)).toEqual(["system shop/web-system", "data shop/archive"]);
  });

  test("a side that replaced a lost one was never the origin, whatever its namespace", () => {
    const pair = buildPair(
      [
        { role: "primary", term: 5 },
        { role: "standby", term: 5 },
      ],
      { first: "node-a" },
    );
    expect(list(first, vm, pair)).toEqual([`system shop/system-${markA ?? ""}`, `data shop/data-${markA ?? ""}`]);
  });

  test("one of them is chosen by name, all of them for an OVA", () => {
    const disks = ["system", "data"].map((disk) => ({ disk, namespace: "shop", claim: disk }));
    expect(chooseDisks(disks, "data", false)).toEqual([disks[1]]);
    expect(chooseDisks(disks, undefined, true)).toEqual(disks);
    expect(() => chooseDisks(disks, undefined, false)).toThrow(/several disks \(system, data\): name one with --disk/);
    expect(() => chooseDisks(disks, "root", false)).toThrow(/--disk must be one of system, data/);
    expect(() => chooseDisks([], undefined, false)).toThrow(/no disk on a volume/);
  });
});

test("the format is that of the file's name, unless told", () => {
  const ends = ["a.img", "a.RAW", "a.qcow2", "a.vmdk", "a.b.ova"].map((path) => parseExportFormat(path, undefined));
  expect(ends).toEqual(["raw", "raw", "qcow2", "vmdk", "ova"]);
  expect(parseExportFormat("disk", "vmdk")).toBe("vmdk");
  expect(() => parseExportFormat("disk", undefined)).toThrow(/--format must be raw or qcow2 or vmdk or ova/);
  expect(() => parseExportFormat("disk.raw", "vdi")).toThrow(/--format must be/);
});
