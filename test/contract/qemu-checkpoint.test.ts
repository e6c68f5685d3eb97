/**
 * The checkpoint primitive, the standby and their promises, against real QEMUs.
 */
import { afterEach, describe, expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Checkpointer, readLastSection } from "../../src/qemu/device-state.ts";
import { watchGuest } from "../../src/qemu/guest-events.ts";
import { releaseWriter } from "../../src/qemu/held-pipe.ts";
import { describeDeviceChange, readDevices } from "../../src/qemu/machine.ts";
import { connectWithRetry } from "../../src/qemu/qmp-client.ts";
import { announceGuest, readMachineType, Standby } from "../../src/qemu/standby.ts";
import { copyBlocks, copyMemory, GuestQemu, provideQemuBuilds, readMemory } from "../build/guest-qemu.ts";

const STATE_BYTES_MAX = 2 << 20;
const builds = await provideQemuBuilds();
const cleanUps: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

function makeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-checkpoint-"));
  cleanUps.push(() => {
    rmSync(directory, { recursive: true });
  });
  return directory;
}

async function start(options: Omit<Parameters<typeof GuestQemu.start>[0], "directory">): Promise<GuestQemu> {
  const guest = await GuestQemu.start({ ...options, directory: join(makeDirectory(), "guest") });
  cleanUps.push(() => guest.kill());
  return guest;
}

async function startStandby(guest: GuestQemu): Promise<GuestQemu> {
  const standby = await guest.startStandby();
  cleanUps.push(() => standby.kill());
  return standby;
}

async function openCheckpointer(guest: GuestQemu): Promise<Checkpointer> {
  const checkpointer = await Checkpointer.open(guest.qmp, join(guest.directory, "fifo"));
  cleanUps.push(() => checkpointer.close());
  return checkpointer;
}

async function untilIdle(checkpointer: Checkpointer): Promise<void> {
  while (checkpointer.isCapturing) {
    await sleep(5);
  }
}

describe.each(builds)("$name", (build) => {
  test("neither QEMU nor the guest writes memory between the stop and the end of the save", async () => {
    const guest = await start({ build, machine: "q35", load: ["disk", "memory"], extra: ["-device", "VGA"] });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    let before: Buffer = Buffer.alloc(0);
    let during: Buffer = Buffer.alloc(0);
    for (let round = 0; round < 8; round++) {
      await sleep(60);
      let tick = 0;
      await checkpointer.capture(() => {
        before = readMemory(guest);
        tick = guest.lastTick();
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30); // QEMU gathers its state meanwhile.
        during = readMemory(guest);
        expect(guest.lastTick()).toBe(tick);
      }, state);
      expect(during.equals(before)).toBe(true);
      await guest.waitForTick(tick + 2); // It runs again.
      expect(readMemory(guest).equals(before)).toBe(false);
    }
  });

  test("a guest that somebody else resumes during a checkpoint stands still until its end", async () => {
    const path = join(makeDirectory(), "other");
    const monitor = [
      "-chardev",
      `socket,id=other,path=${path},server=on,wait=off`,
      "-mon",
      "chardev=other,mode=control",
    ];
    const guest = await start({ build, machine: "q35", load: ["memory"], extra: monitor });
    await guest.waitForTick(5);
    const other = await connectWithRetry(path, { withinMs: 10_000 });
    cleanUps.push(() => {
      other.close();
    });
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    for (let round = 0; round < 8; round++) {
      const answers: Promise<unknown>[] = [];
      await checkpointer.capture(() => {
        // As virt-launcher does once a user has un-paused the guest: KubeVirt's monitor is another.
        answers.push(other.execute("cont", {}));
        const before = readMemory(guest);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 30);
        expect(readMemory(guest).equals(before)).toBe(true);
      }, state);
      await Promise.all(answers);
      await guest.waitForTick(guest.lastTick() + 2);
    }
  });

  test("a checkpoint shows that a device was plugged in, and QEMU tells which", async () => {
    const guest = await start({ build, machine: "pc" });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    const capture = async (): Promise<number> => {
      const { stateBytes } = await checkpointer.capture(() => undefined, state);
      return readLastSection(state, stateBytes);
    };
    const before = await readDevices(guest.qmp);
    const last = await capture();
    expect(last).toBeGreaterThan(0);
    await guest.waitForTick(guest.lastTick() + 5);
    expect(await capture()).toBe(last);
    const plug = { "command-line": "device_add virtio-balloon-pci,id=plugged" };
    expect(await guest.qmp.execute("human-monitor-command", plug)).toBe("");
    expect(await capture()).toBeGreaterThan(last);
    expect(describeDeviceChange(before, await readDevices(guest.qmp))).toBe(
      "virtio-balloon-pci plugged was plugged in",
    );
  });

  test("300 checkpoints in a row: the guest goes on, own stops are not reported", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    const events: string[] = [];
    watchGuest(guest.qmp, ({ tag }) => events.push(tag));
    const state = Buffer.alloc(STATE_BYTES_MAX);
    for (let round = 0; round < 300; round++) {
      const { stateBytes } = await checkpointer.capture(() => undefined, state);
      expect(stateBytes).toBeGreaterThan(10_000);
    }
    expect(events).toEqual([]);
    await guest.waitForTick(guest.lastTick() + 5);
    await guest.qmp.execute("stop", {});
    await guest.qmp.execute("cont", {});
    expect(events).toEqual(["stopped", "resumed"]);
  });

  test("a paused guest is captured and stays paused", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    await guest.qmp.execute("stop", {});
    const tick = guest.lastTick();
    await checkpointer.capture(() => undefined, Buffer.alloc(STATE_BYTES_MAX));
    expect((await guest.qmp.execute("query-status", {})).running).toBe(false);
    await sleep(200);
    expect(guest.lastTick()).toBe(tick);
  });

  test("a buffer that is too small, or a copy that throws, fails the capture and frees the guest", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    await expect(checkpointer.capture(() => undefined, Buffer.alloc(1000))).rejects.toMatchObject({
      detail: { code: "StateTooLarge", bufferBytes: 1000 },
    });
    const mistake = new Error("mistake");
    const broken = checkpointer.capture(() => {
      throw mistake;
    }, Buffer.alloc(STATE_BYTES_MAX));
    await expect(broken).rejects.toBe(mistake);
    await guest.waitForTick(guest.lastTick() + 5);
    await checkpointer.capture(() => undefined, Buffer.alloc(STATE_BYTES_MAX));
  });

  test("QEMU that dies while it is being captured fails the capture", async () => {
    const guest = await start({ build });
    const checkpointer = await openCheckpointer(guest);
    const killed = checkpointer.capture(() => guest.process.kill("SIGKILL"), Buffer.alloc(STATE_BYTES_MAX));
    await expect(killed).rejects.toMatchObject({ detail: { code: "QmpClosed" } });
  });

  test("a QEMU that stands still fails the capture in time, and the next one when it goes on succeeds", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    guest.process.kill("SIGSTOP");
    const stopTimedOut = checkpointer.capture(() => undefined, state, { timeoutMs: 200 });
    await expect(stopTimedOut).rejects.toMatchObject({ detail: { code: "StopTimedOut" } });
    await expect(checkpointer.capture(() => undefined, state)).rejects.toMatchObject({
      detail: { code: "CheckpointBusy" },
    });
    guest.process.kill("SIGCONT");
    await untilIdle(checkpointer);
    await checkpointer.capture(() => undefined, state);
    const frozen = checkpointer.capture(() => guest.process.kill("SIGSTOP"), state, { timeoutMs: 200 });
    await expect(frozen).rejects.toMatchObject({ detail: { code: "SaveTimedOut" } });
    guest.process.kill("SIGCONT");
    await untilIdle(checkpointer);
    await checkpointer.capture(() => undefined, state);
    await guest.waitForTick(guest.lastTick() + 5);
  });

  test.each(["beforeOpen", "whileStopped"])("an engine that dies %s leaves a guest that goes on", async (when) => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const fifo = join(guest.directory, "fifo");
    guest.qmp.close(); // The monitor takes one client.
    const engine = spawn(process.execPath, ["--input-type=module", "-e", dyingEngine(guest, fifo, when)], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    const signal = await new Promise((resolve) =>
      engine.once("exit", (_code, killer) => {
        resolve(killer);
      }),
    );
    expect(signal).toBe("SIGKILL");
    if (when === "beforeOpen") {
      guest.process.kill("SIGCONT");
      await sleep(300);
      expect(existsSync(fifo)).toBe(true);
    }
    releaseWriter(fifo);
    expect(existsSync(fifo)).toBe(false);
    const next = await connectWithRetry(join(guest.directory, "qmp"), { withinMs: 5_000 });
    expect((await next.execute("query-status", {})).running).toBe(true);
    await guest.waitForTick(guest.lastTick() + 5);
    next.close();
  });

  test("takes over: the guest goes on at the standby from the captured instant", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const standbyQemu = await startStandby(guest);
    const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
    await Standby.prepare(standbyQemu.qmp, "never used: the first one holds"); // What a restarted engine does.
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    copyMemory(guest, standbyQemu); // The first pass makes the second, in the pause, quick.
    let captured = 0;
    const { stateBytes } = await checkpointer.capture(() => {
      copyMemory(guest, standbyQemu);
      captured = guest.lastTick();
    }, state);
    await guest.waitForTick(captured + 10); // What the guest does after the capture is lost, rightly.
    await guest.kill();
    const startedAtMs = performance.now();
    await standby.activate(state.subarray(0, stateBytes));
    const tookMs = performance.now() - startedAtMs;
    await announceGuest(standbyQemu.qmp);
    await standbyQemu.waitForTick(captured + 5);
    // From one dot for each count, the first at most one before the capture.
    const dots = standbyQemu.serialText().length;
    expect(Math.abs(standbyQemu.lastTick() - captured - dots)).toBeLessThanOrEqual(1);
    expect(tookMs).toBeLessThan(1000); // 6 ms on a machine that has nothing else to do.
    const again = Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
    await expect(again).rejects.toMatchObject({ detail: { code: "NotIncoming" } });
  });

  test.each(["while the firmware starts", "while it restarts"])("takes over %s", async (when) => {
    // All blocks are copied once, as a first copy does, and guest memory again while stopped.
    for (const afterMs of [0, 40, 80, 120, 160]) {
      const guest = await start({ build, machine: "q35" });
      const standbyQemu = await startStandby(guest);
      const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
      const checkpointer = await openCheckpointer(guest);
      if (when === "while it restarts") {
        await guest.waitForTick(3);
        await guest.qmp.execute("system_reset", {});
      }
      await sleep(afterMs);
      await copyBlocks(guest, standbyQemu);
      const state = Buffer.alloc(STATE_BYTES_MAX);
      const { stateBytes } = await checkpointer.capture(() => {
        copyMemory(guest, standbyQemu);
      }, state);
      await guest.kill();
      await standby.activate(state.subarray(0, stateBytes));
      const dots = standbyQemu.serialText().length;
      await until(() => standbyQemu.serialText().length >= dots + 5);
      await standbyQemu.qmp.execute("system_reset", {}); // And the firmware of the standby finds its tables.
      const again = standbyQemu.serialText().length;
      await until(() => standbyQemu.serialText().length >= again + 5);
      await standbyQemu.kill();
    }
  });

  test("a QEMU that expects a configuration section gets one", async () => {
    const guest = await start({ build, extra: ["-global", "migration.send-configuration=on"] });
    await guest.waitForTick(5);
    const standbyQemu = await startStandby(guest);
    const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    const { stateBytes } = await checkpointer.capture(() => {
      copyMemory(guest, standbyQemu);
    }, state);
    const machineType = await readMachineType(guest.qmp);
    expect(machineType).toMatch(/^pc-i440fx-\d/);
    await standby.activate(state.subarray(0, stateBytes), { machineType });
    await standbyQemu.waitForTick(guest.lastTick() + 5);
  });

  test("a state that does not fit fails with the reason, and QEMU ends", async () => {
    const guest = await start({ build });
    const standbyQemu = await startStandby(guest);
    const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
    const activation = standby.activate(Buffer.from("this is no device state at all"));
    await expect(activation).rejects.toMatchObject({ detail: { code: "LoadFailed" } });
  });

  test("the standby's disk can be written from outside until the takeover, and is locked after it", async () => {
    const guest = await start({ build });
    await guest.waitForTick(5);
    const standbyQemu = await startStandby(guest);
    const standby = await Standby.prepare(standbyQemu.qmp, join(standbyQemu.directory, "incoming"));
    expect(await canLock(standbyQemu.diskPath)).toBe(true);
    expect(await canLock(guest.diskPath)).toBe(false);
    const checkpointer = await openCheckpointer(guest);
    const state = Buffer.alloc(STATE_BYTES_MAX);
    const { stateBytes } = await checkpointer.capture(() => {
      copyMemory(guest, standbyQemu);
    }, state);
    await standby.activate(state.subarray(0, stateBytes));
    expect(await canLock(standbyQemu.diskPath)).toBe(false);
  });
});

async function until(holds: () => boolean): Promise<void> {
  for (const deadlineMs = performance.now() + 20_000; !holds();) {
    expect(performance.now()).toBeLessThan(deadlineMs);
    await sleep(10);
  }
}

/** An engine that kills itself at the worst moments of a capture. */
function dyingEngine(guest: GuestQemu, fifo: string, when: string): string {
  const source = (name: string): string => JSON.stringify(new URL(`../../src/qemu/${name}`, import.meta.url).pathname);
  const die = "process.kill(process.pid, 'SIGKILL');";
  const beforeOpen = when === "beforeOpen";
  return `
    import { QmpClient } from ${source("qmp-client.ts")};
    import { Checkpointer } from ${source("device-state.ts")};
    const qmp = await QmpClient.connect(${JSON.stringify(join(guest.directory, "qmp"))});
    const checkpointer = await Checkpointer.open(qmp, ${JSON.stringify(fifo)});
    ${beforeOpen ? `process.kill(${guest.pid}, "SIGSTOP"); setTimeout(() => { ${die} }, 100);` : ""}
    await checkpointer.capture(() => { ${die} }, Buffer.alloc(1 << 21));
  `;
}

/** Whether another QEMU could open the disk for writing. */
async function canLock(path: string): Promise<boolean> {
  const command = spawn("qemu-io", ["-f", "raw", "-c", "write 0 512", path], { stdio: "ignore" });
  return (await new Promise((resolve) => command.once("exit", resolve))) === 0;
}
