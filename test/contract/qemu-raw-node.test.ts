/**
 * A qcow2 disk is made raw under a guest that stands still, and under a standby that waits for its state: against real QEMUs.
 */
import { afterEach, describe, expect, test } from "@jest/globals";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Checkpointer } from "../../src/qemu/device-state.ts";
import { readMachine } from "../../src/qemu/machine.ts";
import { addRawNode, copyToRawNode, removeRawNode, swapRawNode } from "../../src/qemu/raw-node.ts";
import { Standby } from "../../src/qemu/standby.ts";
import { COUNT_DISK_OFFSET, copyBlocks, copyMemory, GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const STATE_BYTES_MAX = 2 << 20;
const MIB = 1 << 20;
const builds = await provideQemuBuilds();
const cleanUps: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

type Bus = "virtio" | "scsi" | "sata";

async function start(build: (typeof builds)[number], bus: Bus): Promise<GuestQemu> {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-raw-"));
  cleanUps.push(() => {
    rmSync(directory, { recursive: true });
  });
  const options = { build, directory: join(directory, "guest"), machine: "q35" } as const;
  const guest = await GuestQemu.start({ ...options, disk: { format: "qcow2", bus } });
  cleanUps.push(() => guest.kill());
  return guest;
}

const rawPath = (guest: GuestQemu): string => join(guest.directory, "disk.twinrun");

/** An empty raw image as large as the guest's disk, known to QEMU. */
async function addRaw(guest: GuestQemu, path = rawPath(guest)): Promise<void> {
  const disk = (await readMachine(guest.qmp)).disks[0];
  writeFileSync(path, "");
  truncateSync(path, disk?.bytes ?? 0);
  await addRawNode(guest.qmp, { index: 0, path, isDirect: false });
}

async function makeRaw(guest: GuestQemu): Promise<void> {
  await guest.qmp.execute("stop", {});
  await addRaw(guest);
  await copyToRawNode(guest.qmp, { index: 0, node: "disk0" }, () => undefined);
  await guest.qmp.execute("cont", {});
}

async function readDisk(guest: GuestQemu): Promise<unknown> {
  const [disk] = (await readMachine(guest.qmp)).disks;
  return { driver: disk?.driver, path: disk?.path, bytes: disk?.bytes };
}

/** What the guest has counted to, as its disk says. */
function readCount(path: string): number {
  const descriptor = openSync(path, "r");
  const count = Buffer.alloc(4);
  readSync(descriptor, count, 0, 4, COUNT_DISK_OFFSET);
  closeSync(descriptor);
  return count.readUInt32LE(0);
}

describe.each(builds)("$name", (build) => {
  test.each<Bus>(["virtio", "scsi", "sata"])("a %s disk is made raw, and its guest goes on in it", async (bus) => {
    const guest = await start(build, bus);
    await guest.waitForTick(5);
    const { bytes } = (await readDisk(guest)) as { readonly bytes: number };
    await makeRaw(guest);
    expect(await readDisk(guest)).toEqual({ driver: "raw", path: rawPath(guest), bytes });
    // The boot sector came along, and what is counted from now on goes into the raw image.
    expect(readFileSync(rawPath(guest)).subarray(0, 512)).toEqual(readFileSync(guest.diskPath).subarray(0, 512));
    const count = guest.lastTick();
    await guest.waitForTick(count + 5);
    expect(readCount(rawPath(guest))).toBeGreaterThanOrEqual(count + 4);
  });

  test.each<Bus>(["virtio", "scsi", "sata"])(
    "a standby's %s disk is swapped, and has the primary's size",
    async (bus) => {
      const guest = await start(build, bus);
      await makeRaw(guest);
      await guest.waitForTick(5);
      const standbyQemu = await guest.startStandby();
      cleanUps.push(() => standbyQemu.kill());
      await addRaw(standbyQemu);
      await swapRawNode(standbyQemu.qmp, { index: 0, device: "disk0-device" });
      expect(await readDisk(standbyQemu)).toMatchObject({ driver: "raw", path: rawPath(standbyQemu) });
      const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
      await copyBlocks(guest, standbyQemu);
      const checkpointer = await Checkpointer.open(guest.qmp, join(guest.directory, "fifo"));
      cleanUps.push(() => checkpointer.close());
      const state = Buffer.alloc(STATE_BYTES_MAX);
      const { stateBytes } = await checkpointer.capture(() => {
        copyMemory(guest, standbyQemu);
        writeFileSync(rawPath(standbyQemu), readFileSync(rawPath(guest)));
      }, state);
      await guest.kill();
      const bytes = 40 * MIB;
      truncateSync(rawPath(standbyQemu), bytes);
      await standby.activate(state.subarray(0, stateBytes));
      await standby.tellSizes([{ node: "twinrun-raw-0", bytes }]);
      const count = standbyQemu.lastTick();
      await standbyQemu.waitForTick(count + 5);
      expect(readCount(rawPath(standbyQemu))).toBeGreaterThanOrEqual(count + 4);
      expect(await readDisk(standbyQemu)).toEqual({ driver: "raw", path: rawPath(standbyQemu), bytes });
    },
  );

  test("a full volume is told, and the disk stays as it was", async () => {
    const guest = await start(build, "virtio");
    const volume = join(guest.directory, "volume");
    mkdirSync(volume);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k", "twinrun-test", volume]);
    cleanUps.push(() => {
      execFileSync("umount", ["--lazy", volume]);
    });
    await guest.waitForTick(3);
    await guest.qmp.execute("stop", {});
    const before = await readDisk(guest);
    await addRaw(guest, join(volume, "disk.twinrun"));
    const copy = copyToRawNode(guest.qmp, { index: 0, node: "disk0" }, () => undefined);
    await expect(copy).rejects.toThrow("No space left on device");
    expect(await readDisk(guest)).toEqual(before);
    await removeRawNode(guest.qmp, 0);
    await makeRaw(guest);
    expect(await readDisk(guest)).toMatchObject({ driver: "raw" });
    await guest.waitForTick(guest.lastTick() + 5);
  });

  test("what an engine left that died over it is removed", async () => {
    const guest = await start(build, "virtio");
    await guest.qmp.execute("stop", {});
    await addRaw(guest);
    const names = { "job-id": "twinrun-raw-0", device: "disk0", target: "twinrun-raw-0" };
    await guest.qmp.execute("blockdev-mirror", { ...names, sync: "full", speed: 1 } as never);
    await sleep(100);
    await removeRawNode(guest.qmp, 0);
    expect(await guest.qmp.execute("query-block-jobs", {})).toEqual([]);
    await makeRaw(guest);
    expect(await readDisk(guest)).toMatchObject({ driver: "raw" });
  });
});
