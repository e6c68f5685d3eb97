import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Machine, type MachineDisk } from "../qemu/machine.ts";
import { type QmpClient } from "../qemu/qmp-client.ts";
import { makeDisksRaw, type RawDisks } from "./raw-disks.ts";

const BYTES = 1 << 20;
let root: string;
let commands: string[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "twinrun-raw-"));
  writeFileSync(join(root, "disk.qcow2"), "");
  commands = [];
});

afterEach(() => {
  rmSync(root, { recursive: true });
});

const image: MachineDisk = {
  ...{ device: "libvirt-1-format", node: "libvirt-1-format", qdev: "/machine/peripheral/ua-root/virtio-backend" },
  ...{ driver: "qcow2", path: "/disk.qcow2", bytes: BYTES },
  ...{ isReadOnly: false, isDirect: true, isFirmware: false },
};

/** With a QEMU (test/contract/qemu-raw-node.test.ts has real ones) that has no jobs, no nodes, and refuses one command. */
function makeRaw(disk: Partial<MachineDisk>, runState: Machine["runState"], refused = ""): Promise<RawDisks> {
  const qmp = {
    onEvent: () => () => undefined,
    closed: new Promise(() => undefined),
    execute: (command: string) => {
      commands.push(command);
      return command === refused ? Promise.reject(new Error("refused")) : Promise.resolve([]);
    },
  };
  return makeDisksRaw([{ id: "root", device: "ua-root", isOfPod: true }], {
    qmp: qmp as unknown as QmpClient,
    machine: { runState, disks: [{ ...image, ...disk }] } as unknown as Machine,
    files: { own: (path) => `${root}${path}` },
    onProgress: () => undefined,
  });
}

test("a standby's image is swapped for an empty raw one of its size and owner", async () => {
  expect(await makeRaw({}, "inmigrate")).toEqual({ isChanged: true, failed: [] });
  expect(commands).toEqual(["query-block-jobs", "query-named-block-nodes", "blockdev-add", "qom-set"]);
  const [made, model] = [statSync(join(root, "disk.qcow2.twinrun")), statSync(join(root, "disk.qcow2"))];
  expect([made.size, made.uid, made.gid]).toEqual([BYTES, model.uid, model.gid]);
});

test.each([
  { when: "is raw", disk: { driver: "raw" } },
  { when: "is only read", disk: { isReadOnly: true } },
])("an image is left alone that $when", async ({ disk }) => {
  expect(await makeRaw(disk, "inmigrate")).toEqual({ isChanged: false, failed: [] });
  expect(commands).toEqual([]);
});

test.each([
  { when: "QEMU refuses", runState: "inmigrate", disk: {}, refused: "qom-set", says: "refused" },
  {
    when: "the folder is gone",
    runState: "prelaunch",
    disk: { path: "/gone/disk.qcow2" },
    refused: "",
    says: "ENOENT",
  },
  { when: "the guest runs", runState: "running", disk: {}, refused: "", says: "its guest runs already" },
] as const)("what stands in the way is told, and nothing stays behind: $when", async (row) => {
  const { isChanged, failed } = await makeRaw(row.disk, row.runState, row.refused);
  expect(isChanged).toBe(false);
  expect(failed).toEqual([expect.stringMatching(`^disk root lives in the pod and was not made raw: .*${row.says}`)]);
  expect(existsSync(join(root, "disk.qcow2.twinrun"))).toBe(false);
});
