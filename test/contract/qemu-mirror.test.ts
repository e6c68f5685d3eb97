/**
 * The mirror and the dirty bitmap against real QEMUs, with the engine's own mirror target at the other end. What matters
 * most is that the guest lives through whatever happens to the target.
 */
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MirrorTarget, type MirrorSink } from "../../src/engine/mirror-target.ts";
import { Checkpointer } from "../../src/qemu/device-state.ts";
import { DirtyBitmap } from "../../src/qemu/dirty-bitmap.ts";
import { watchGuest } from "../../src/qemu/guest-events.ts";
import { DiskMirror, removeLeftoverMirrors } from "../../src/qemu/mirror.ts";
import { connectWithRetry } from "../../src/qemu/qmp-client.ts";
import { COUNT_DISK_OFFSET, GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const builds = await provideQemuBuilds();

/** A standby's disk in memory, that can be told to take nothing for a while. */
class Sink implements MirrorSink {
  readonly bytes: Buffer;
  writes = 0;
  full: Promise<void> | undefined;
  /** Set, writes wait for it. */
  unheard: Promise<void> | undefined;

  constructor(bytes: number) {
    this.bytes = Buffer.alloc(bytes);
  }

  writeDisk(_disk: number, offset: number, data: Buffer): void {
    this.writes += 1;
    data.copy(this.bytes, offset);
  }

  zeroDisk(_disk: number, offset: number, bytes: number): void {
    this.bytes.fill(0, offset, offset + bytes);
  }

  acknowledged(): Promise<void> | undefined {
    return this.unheard;
  }

  room(): Promise<void> | undefined {
    return this.full;
  }
}

describe.each(builds)("$name", (build) => {
  let directory: string;
  let guest: GuestQemu;
  let sink: Sink;
  let target: MirrorTarget | undefined;

  const listen = async (): Promise<MirrorTarget> => {
    const exports = [{ name: "disk0", bytes: sink.bytes.length }];
    target = await MirrorTarget.listen(join(directory, "nbd"), exports, sink);
    return target;
  };
  const startMirror = (): Promise<DiskMirror> =>
    DiskMirror.start(guest.qmp, { device: "disk0", index: 0, socketPath: join(directory, "nbd"), exportName: "disk0" });
  const listRemains = async (): Promise<readonly string[]> => {
    const jobs = (await guest.qmp.execute("query-block-jobs", {})).map(({ device }) => device);
    const nodes = await guest.qmp.execute("query-named-block-nodes", { flat: true });
    return [...jobs, ...nodes.map((node) => node["node-name"] ?? "").filter((name) => name.startsWith("twinrun"))];
  };

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-mirror-"));
    guest = await GuestQemu.start({ build, directory: join(directory, "guest") });
    sink = new Sink(readFileSync(guest.diskPath).length);
    await guest.waitForTick(5);
  });

  afterEach(async () => {
    await guest.kill();
    target?.close();
    rmSync(directory, { recursive: true });
  });

  test("at every stop the target has what the disk has", async () => {
    await listen();
    const mirror = await startMirror();
    const checkpointer = await Checkpointer.open(guest.qmp, join(directory, "fifo"));
    const state = Buffer.alloc(1 << 20);
    const counts = new Set<number>();
    for (let round = 0; round < 50; round++) {
      await sleep(Math.random() * 20);
      const writesBefore = sink.writes;
      await checkpointer.capture(() => {
        const onDisk = readFileSync(guest.diskPath).readUInt32LE(COUNT_DISK_OFFSET);
        if (sink.writes > 0) {
          expect(sink.bytes.readUInt32LE(COUNT_DISK_OFFSET)).toBe(onDisk);
        }
        counts.add(onDisk);
      }, state);
      expect(sink.writes).toBeGreaterThanOrEqual(writesBefore);
    }
    expect(counts.size).toBeGreaterThan(10);
    await mirror.stop();
    expect(await mirror.ended).toEqual({ tag: "stopped" });
    expect(await listRemains()).toEqual([]);
    await checkpointer.close();
  });

  test("a target that goes away, and mirrors that end with writes under way, cost the guest nothing", async () => {
    const events: string[] = [];
    watchGuest(guest.qmp, ({ tag }) => events.push(tag));
    for (let round = 0; round < 15; round++) {
      const server = await listen();
      const mirror = await startMirror();
      await sleep(20 + Math.random() * 40);
      if (round % 3 === 0) {
        server.close();
        expect(await mirror.ended).toMatchObject({ tag: "failed" });
      } else if (round % 3 === 1) {
        server.close();
      }
      await mirror.stop();
      server.close();
      expect(await listRemains()).toEqual([]);
    }
    expect(events).toEqual([]); // Neither an error of the disk nor a stop that is not ours.
    await guest.waitForTick(guest.lastTick() + 5);
  });

  test("a target that takes nothing blocks the guest until it is closed", async () => {
    const server = await listen();
    const mirror = await startMirror();
    sink.full = new Promise(() => undefined);
    await sleep(300);
    const tick = guest.lastTick();
    await sleep(200);
    expect(guest.lastTick()).toBe(tick);
    server.close();
    await mirror.stop({ cut: true });
    expect(await listRemains()).toEqual([]);
    await guest.waitForTick(tick + 5);
  });

  test("what a dead process left is removed, and the guest runs on", async () => {
    await listen();
    await startMirror();
    guest.qmp.close();
    target?.close();
    const next = await connectWithRetry(join(guest.directory, "qmp"), { withinMs: 5_000 });
    expect(await removeLeftoverMirrors(next)).toBe(1);
    expect(await removeLeftoverMirrors(next)).toBe(0);
    expect((await next.execute("query-status", {})).running).toBe(true);
    await guest.waitForTick(guest.lastTick() + 5);
    next.close();
  });

  test("a target of another size is refused by name, and nothing stays", async () => {
    sink = new Sink(sink.bytes.length / 2);
    await listen();
    await expect(startMirror()).rejects.toMatchObject({ detail: { code: "MirrorNotStarted", device: "disk0" } });
    expect(await listRemains()).toEqual([]);
    await guest.waitForTick(guest.lastTick() + 5);
  });

  test("a paused guest stays paused when its mirror ends", async () => {
    await listen();
    const mirror = await startMirror();
    await guest.qmp.execute("stop", {});
    await mirror.stop();
    expect((await guest.qmp.execute("query-status", {})).status).toBe("paused");
  });

  test("a dirty bitmap notes writes, is found again by the next process, and goes", async () => {
    const bitmap = await DirtyBitmap.open(guest.qmp, "disk0", "resync");
    await guest.waitForTick(guest.lastTick() + 3);
    expect(await bitmap.dirtyBytes()).toBe(64 * 1024);
    const found = await DirtyBitmap.open(guest.qmp, "disk0", "resync");
    await guest.qmp.execute("stop", {});
    expect(await found.dirtyBytes()).toBe(64 * 1024);
    await found.clear();
    expect(await bitmap.dirtyBytes()).toBe(0);
    await found.remove();
    await expect(bitmap.clear()).rejects.toMatchObject({ detail: { code: "QmpRejected" } });
  });
});
