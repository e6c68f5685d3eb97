/**
 * The hook takes the link of a standby's network card down and nobody takes it up again: QEMU does, with the state that it
 * loads. The guest numbers its datagrams, and they come out of QEMU as UDP (a socket netdev).
 */
import { afterEach, expect, test } from "@jest/globals";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Checkpointer } from "../../src/qemu/device-state.ts";
import { Standby } from "../../src/qemu/standby.ts";
import { copyBlocks, copyMemory, GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const builds = await provideQemuBuilds();
const PATIENCE_MS = 60_000;
const STATE_BYTES_MAX = 2 << 20;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

async function until(what: string, holds: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  while (!holds()) {
    if (performance.now() > deadlineMs) {
      throw new Error(`never: ${what}`);
    }
    await sleep(10);
  }
}

test.each(builds)(
  "$name: a guest that was taken over sends, though its standby's link was down",
  async (build) => {
    const directory = mkdtempSync(join(tmpdir(), "twinrun-link-"));
    cleanUps.push(() => {
      rmSync(directory, { recursive: true });
    });
    const network = createSocket("udp4").bind(0, "127.0.0.1");
    cleanUps.push(() => network.close());
    await once(network, "listening");
    let lastPacket = 0;
    network.on("message", (frame) => {
      lastPacket = Number(/packet (\d+)[.]/.exec(frame.toString("latin1"))?.[1] ?? lastPacket);
    });
    const extra = [
      ...["-netdev", `socket,id=net0,udp=127.0.0.1:${network.address().port},localaddr=127.0.0.1:0`],
      ...["-device", "virtio-net-pci,netdev=net0,id=nic0,romfile="],
    ];
    const guest = await GuestQemu.start({ build, directory: join(directory, "guest"), load: ["net"], extra });
    cleanUps.push(() => guest.kill());
    await until("the guest sends", () => lastPacket >= 3);

    const standbyQemu = await guest.startStandby();
    cleanUps.push(() => standbyQemu.kill());
    await standbyQemu.qmp.execute("human-monitor-command", { "command-line": "set_link nic0 off" });
    const standby = await Standby.prepare(standbyQemu.qmp, join(directory, "incoming"));
    await copyBlocks(guest, standbyQemu);
    const checkpointer = await Checkpointer.open(guest.qmp, join(directory, "state"));
    cleanUps.push(() => checkpointer.close());
    const state = Buffer.alloc(STATE_BYTES_MAX);
    const { stateBytes } = await checkpointer.capture(() => {
      copyMemory(guest, standbyQemu);
    }, state);
    await guest.kill();
    const before = lastPacket;
    await standby.activate(state.subarray(0, stateBytes));
    await until("the guest goes on to send", () => lastPacket > before + 5);
    expect(standbyQemu.process.exitCode).toBeNull();
  },
  180_000,
);
