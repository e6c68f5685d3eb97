/**
 * Output held by QEMU's own filters, against real QEMUs. The guest numbers its datagrams and they come out of QEMU as UDP
 * (a socket netdev), so that order, lateness and loss can be seen.
 */
import { afterEach, expect, test } from "@jest/globals";
import { createSocket, type Socket } from "node:dgram";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { OutputQueues } from "../../src/qemu/output-queues.ts";
import { GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const builds = await provideQemuBuilds();
const PATIENCE_MS = 60_000;
const QUIET_MS = 200;
const TEST_TIMEOUT_MS = 180_000;
const cleanUps: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

/** The network's end: numbers in the order they came. */
async function openNetwork(): Promise<{ readonly port: number; readonly numbers: number[] }> {
  const socket: Socket = createSocket("udp4");
  const numbers: number[] = [];
  socket.on("message", (frame) => {
    const [, number] = /packet (\d+)[.]/.exec(frame.toString("latin1")) ?? [];
    if (number !== undefined) {
      numbers.push(Number(number));
    }
  });
  await new Promise<void>((resolve) => {
    socket.bind(0, "127.0.0.1", resolve);
  });
  cleanUps.push(() => {
    socket.close();
  });
  return { port: socket.address().port, numbers };
}

const isConsecutive = (numbers: readonly number[]): boolean =>
  numbers.every((number, index) => index === 0 || number === (numbers[index - 1] ?? 0) + 1);

/** For what comes in its own time; what must not come is given QUIET_MS. */
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
  "$name holds by epoch, in order, without loss",
  async (build) => {
    const directory = mkdtempSync(join(tmpdir(), "twinrun-queues-"));
    cleanUps.push(() => {
      rmSync(directory, { recursive: true });
    });
    const { port, numbers } = await openNetwork();
    const guest = await GuestQemu.start({
      build,
      directory: join(directory, "guest"),
      load: ["net"],
      extra: [
        ...["-netdev", `socket,id=net0,udp=127.0.0.1:${port},localaddr=127.0.0.1:0`],
        ...["-device", "virtio-net-pci,netdev=net0,romfile="],
      ],
    });
    cleanUps.push(() => guest.kill());
    await until("the guest sends", () => numbers.length >= 3);
    const queues = await OutputQueues.add(guest.qmp, ["net0"], join(directory, "seen"));
    cleanUps.push(() => {
      queues.close();
    });
    let noticed = 0;
    queues.onOutput(() => {
      noticed += 1;
    });
    const atAdd = numbers.length;
    await until("packets pass open queues", () => numbers.length > atAdd + 2);

    await queues.hold();
    await sleep(QUIET_MS);
    const atHold = numbers.length;
    await until("packets are held", () => queues.heldPackets > 5);
    expect(numbers.length).toBe(atHold);
    expect(noticed).toBeGreaterThan(0);

    // Epoch 1. With the filters in the wrong order nothing would leave at its release, but one epoch later.
    const heldAtMark = queues.heldPackets;
    await queues.mark(1);
    await until("more packets are held", () => queues.heldPackets > heldAtMark + 5);
    expect(numbers.length).toBe(atHold);
    expect(await queues.release(1)).toBe(heldAtMark);
    await until("epoch 1 leaves", () => numbers.length >= atHold + heldAtMark);
    await sleep(QUIET_MS);
    // Nothing of epoch 2, but for what was sent in the instant of the mark, before the socket told.
    expect(numbers.length - atHold).toBeLessThanOrEqual(heldAtMark + 2);

    // Two marked: the acknowledgement of the older must not let go of the newer.
    await queues.mark(2);
    await until("epoch 3 has packets", () => queues.heldPackets > 12);
    await queues.mark(3);
    const atMark = numbers.length;
    expect(await queues.release(2)).toBe(0);
    await sleep(QUIET_MS);
    expect(numbers.length).toBe(atMark);
    await queues.release(3);
    await until("both leave", () => numbers.length > atMark + 5);

    await queues.open();
    const atOpen = numbers.length;
    await until("packets pass again", () => numbers.length > atOpen + 5);
    expect(isConsecutive(numbers)).toBe(true); // Through all of it: none lost, none twice, none overtaken.
    expect(queues.takeOverflowed()).toBe(false);

    // The next engine finds what this one left, holding.
    await queues.hold();
    await until("packets are held again", () => queues.heldPackets > 3);
    const left = numbers.length;
    queues.close();
    const next = await OutputQueues.add(guest.qmp, ["net0"], join(directory, "seen-again"));
    await until("what was left behind leaves", () => numbers.length > left + 3);
    expect(isConsecutive(numbers)).toBe(true);
    await next.remove();
    const objects = (await guest.qmp.execute("qom-list", { path: "/objects" })).map(({ name }) => name);
    expect(objects.filter((name) => name.startsWith("twinrun"))).toEqual([]);
  },
  TEST_TIMEOUT_MS,
);
