import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { FakeGuest } from "./fake-guest.ts";
import { setTimeout as sleep } from "node:timers/promises";
import { type Failure } from "../lib/failure.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { openShim, type Shim } from "./shim.ts";
import { LOCK, RECORD_HEADER_BYTES, SHIM_VERSION, WORD } from "./shim-layout.ts";

let guest: FakeGuest;
let shim: Shim;

async function begin(environment: Readonly<Record<string, string>> = {}): Promise<void> {
  guest = await FakeGuest.start(environment);
  await guest.ask({ tag: "openTap" }, "done");
  shim = openShim(guest.pid);
}

async function send(from: number, count: number, bytes = 64, tap = 0): Promise<readonly number[]> {
  return (await guest.ask({ tag: "send", from, count, bytes, tap }, "sent")).results;
}

async function received(): Promise<readonly number[]> {
  return (await guest.ask({ tag: "listReceived" }, "received")).numbers;
}

function range(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => from + index);
}

function spin(forMs: number): void {
  const endMs = performance.now() + forMs;
  while (performance.now() < endMs) {
    // Waiting in the event loop would be too coarse.
  }
}

function watchDone(promise: Promise<unknown>): () => boolean {
  let done = false;
  void promise.then(() => (done = true));
  return () => done;
}

afterEach(async () => {
  shim.close();
  await guest.stop();
});

describe("modes", () => {
  beforeEach(() => begin());

  test("open passes packets, and QEMU learns the length it wrote", async () => {
    expect(shim.gate.mode).toBe("open");
    expect(await send(0, 3)).toEqual([12 + 42 + 64, 12 + 42 + 64, 12 + 42 + 64]);
    expect(await received()).toEqual([0, 1, 2]);
    expect(shim.gate.heldPackets).toBe(0);
  });

  test("held keeps packets until their epoch is released, in order and once", async () => {
    shim.gate.setMode("held");
    await send(0, 3);
    const first = shim.gate.position();
    await send(3, 2);
    const second = shim.gate.position();
    await send(5, 1);
    expect(await received()).toEqual([]);
    expect(shim.gate.heldPackets).toBe(6);
    expect(shim.gate.releaseThrough(first)).toEqual({ packets: 3, bytes: 3 * 118, dropped: 0 });
    expect(await received()).toEqual([0, 1, 2]);
    expect(shim.gate.releaseThrough(first)).toEqual({ packets: 0, bytes: 0, dropped: 0 });
    expect(shim.gate.releaseThrough(second).packets).toBe(2);
    expect(shim.gate.releaseThrough(first).packets).toBe(0); // An older epoch again changes nothing.
    expect(await received()).toEqual([3, 4]);
    expect(shim.gate.heldPackets).toBe(1);
  });

  test("a lease lets packets pass until its time, holds them from then on, and sends them first when it is renewed", async () => {
    shim.gate.lease(monotonicMs() + 60_000);
    expect(shim.gate.mode).toBe("leased");
    await send(0, 2);
    expect(await received()).toEqual([0, 1]);
    shim.gate.lease(monotonicMs() - 1);
    await send(2, 2);
    expect(await received()).toEqual([]);
    shim.gate.lease(monotonicMs() - 1);
    expect(shim.gate.heldPackets).toBe(2);
    shim.gate.lease(monotonicMs() + 60_000);
    expect(await received()).toEqual([2, 3]);
    await send(4, 1);
    expect(await received()).toEqual([4]);
    shim.gate.lease(monotonicMs() - 1);
    await send(5, 1);
    shim.gate.setMode("held");
    shim.gate.openAndRelease();
    expect(await received()).toEqual([5]);
  });

  test("a lease outlives its engine by its own time and not more", async () => {
    shim.gate.lease(monotonicMs() + 300);
    shim.close();
    await sleep(350);
    await send(0, 1);
    shim = openShim(guest.pid);
    expect(await received()).toEqual([]);
    expect(shim.gate.heldPackets).toBe(1);
  });

  test("closed drops packets and discard drops the held ones, and both are counted", async () => {
    shim.gate.setMode("held");
    await send(0, 2);
    shim.gate.setMode("closed");
    expect(await send(2, 3)).toHaveLength(3);
    expect(shim.gate.discard()).toBe(2);
    shim.gate.setMode("open");
    await send(5, 1);
    expect(await received()).toEqual([5]);
    expect(shim.gate.droppedPackets).toBe(5);
  });

  test("opening releases what is held first", async () => {
    shim.gate.setMode("held");
    await send(0, 4);
    expect(shim.gate.openAndRelease().packets).toBe(4);
    await send(4, 2);
    expect(await received()).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("two NICs: packets leave through the tap they were written to", async () => {
    await guest.ask({ tag: "openTap" }, "done");
    shim.gate.setMode("held");
    await send(0, 2, 64, 0);
    await send(100, 2, 64, 1);
    await send(2, 1, 64, 0);
    expect(shim.gate.releaseAll()).toMatchObject({ packets: 5, dropped: 0 });
    const numbers = await received();
    expect(numbers.filter((number) => number < 100)).toEqual([0, 1, 2]);
    expect(numbers.filter((number) => number >= 100)).toEqual([100, 101]);
  });

  test("no packet is lost, doubled or overtaken while the gate is opened and held again and again", async () => {
    let count = 0;
    let raced = 0; // Openings that met a packet: else the race was not there to be lost.
    for (let round = 0; round < 3 || (raced < 10 && round < 30); round++) {
      const isDone = watchDone(guest.ask({ tag: "sendAlways", from: count, count: 2000, tap: 0 }, "sent"));
      count += 2000;
      while (!isDone()) {
        for (let turn = 0; turn < 10; turn++) {
          shim.gate.setMode("held");
          spin(0.05);
          raced += shim.gate.openAndRelease().packets > 0 ? 1 : 0;
          spin(0.05);
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    expect(raced).toBeGreaterThanOrEqual(10);
    expect(await received()).toEqual(range(0, count));
    expect(shim.gate.droppedPackets).toBe(0);
  });
});

test("a packet that QEMU is in the middle of sending is waited for, and a frozen QEMU is an error", async () => {
  await begin({ TWINRUN_OUTPUT: "held" });
  guest.applyWord(WORD.lock, LOCK.qemu);
  expect(() => shim.gate.openAndRelease()).toThrow(/frozen or dying/);
  expect(shim.gate.mode).toBe("held");
  expect(() => {
    shim.gate.setMode("closed");
  }).toThrow(/frozen or dying/);
  guest.applyWord(WORD.lock, LOCK.free);
  shim.gate.openAndRelease();
  expect(shim.gate.mode).toBe("open");
});

describe("ring", () => {
  beforeEach(() => begin({ TWINRUN_RING_BYTES: "4096", TWINRUN_OUTPUT: "held" }));

  test("starts in the mode of the environment", () => {
    expect(shim.gate.mode).toBe("held");
    expect(shim.gate.ringBytes).toBe(4096);
  });

  test("wraps with packets of every length, in order", async () => {
    for (let number = 0; number < 200; number++) {
      expect(await send(number, 1, 4 + ((number * 37) % 900))).toHaveLength(1);
      if (number % 3 === 2) {
        shim.gate.releaseThrough(shim.gate.position());
      }
    }
    shim.gate.releaseAll();
    expect(await received()).toEqual(range(0, 200));
    expect(shim.gate.heldBytes).toBe(0);
    expect(shim.gate.heldPackets).toBe(0);
  });

  test("full: QEMU is told to try again and loses nothing", async () => {
    const results = await send(0, 40);
    const taken = results.filter((result) => result > 0).length;
    expect(taken).toBeGreaterThan(20);
    expect(results.slice(taken)).toEqual(results.slice(taken).map(() => -1));
    expect(shim.gate.fullCount).toBe(40 - taken);
    expect(shim.gate.releaseAll().packets).toBe(taken);
    await send(taken, 5);
    shim.gate.releaseAll();
    expect(await received()).toEqual(range(0, taken + 5));
  });

  test("a small ring under load: refused packets come later, in order", async () => {
    const sent = guest.ask({ tag: "sendAlways", from: 0, count: 500, tap: 0 }, "sent");
    const isDone = watchDone(sent);
    while (!isDone()) {
      shim.gate.releaseThrough(shim.gate.position());
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    shim.gate.releaseAll();
    expect((await sent).refused).toBeGreaterThan(0);
    expect(await received()).toEqual(range(0, 500));
  });

  test("the counters of 32 bits may run over", async () => {
    // 2^32 bytes through a ring of 4 KiB would take minutes; the counters are moved to shortly before instead.
    shim.close();
    for (const word of [WORD.head, WORD.released, WORD.tail]) {
      guest.applyWord(word, 0xffff_f000);
    }
    shim = openShim(guest.pid);
    const positions: number[] = [];
    for (let number = 0; number < 120; number++) {
      await send(number, 1, 100);
      const position = shim.gate.position();
      positions.push(position);
      expect(shim.gate.releaseThrough(position).packets).toBe(1);
    }
    expect(positions).toEqual(positions.toSorted((a, b) => a - b));
    expect(positions.at(-1)).toBeGreaterThan(2 ** 32);
    expect(await received()).toEqual(range(0, 120));
  });
});

describe("waiting output", () => {
  beforeEach(() => begin({ TWINRUN_OUTPUT: "held" }));

  async function nextCall(calls: { count: number }, wanted: number): Promise<void> {
    for (let waited = 0; calls.count < wanted && waited < 100; waited++) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  test("calls back once for the first packet behind each position", async () => {
    const calls = { count: 0 };
    shim.gate.onOutput(() => calls.count++);
    await send(0, 10);
    await nextCall(calls, 1);
    await send(10, 5);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls.count).toBe(1);
    shim.gate.position();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls.count).toBe(1); // All lies before the position, though it is still held.
    await send(15, 1);
    await nextCall(calls, 2);
    expect(calls.count).toBe(2);
  });

  test("calls back for output that was there before it was asked to", async () => {
    await send(0, 1);
    const calls = { count: 0 };
    shim.gate.onOutput(() => calls.count++);
    expect(calls.count).toBe(0); // From the event loop, never from within the call.
    await nextCall(calls, 1);
    expect(calls.count).toBe(1);
  });

  test("does not call back while the gate is open", async () => {
    const calls = { count: 0 };
    shim.gate.onOutput(() => calls.count++);
    shim.gate.setMode("open");
    await send(0, 5);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(calls.count).toBe(0);
  });
});

describe("engines come and go", () => {
  beforeEach(() => begin({ TWINRUN_OUTPUT: "held" }));

  test("a second engine is refused", () => {
    expect(() => openShim(guest.pid)).toThrow(/another engine/);
  });

  test("what is held outlives the engine and is released by the next, each packet once", async () => {
    await send(0, 5);
    const position = shim.gate.position();
    await send(5, 5);
    shim.gate.releaseThrough(position);
    shim.close();
    await send(10, 2);
    shim = openShim(guest.pid);
    expect(shim.gate.mode).toBe("held");
    expect(shim.gate.heldPackets).toBe(7);
    shim.gate.openAndRelease();
    expect(await received()).toEqual(range(0, 12));
  });

  test("an engine that died with the gate's lock does not stop QEMU, and the next one frees it", async () => {
    shim.close();
    guest.applyWord(WORD.lock, LOCK.engine);
    expect(await send(0, 2)).toEqual([-1, -1]);
    shim = openShim(guest.pid);
    expect(await send(0, 2)).toEqual([118, 118]);
  });

  test("an engine that died between claiming a packet and sending it: the packet counts as sent", async () => {
    await send(0, 3);
    shim.close();
    guest.applyWord(WORD.released, RECORD_HEADER_BYTES + 120);
    shim = openShim(guest.pid);
    shim.gate.releaseAll();
    expect(await received()).toEqual([1, 2]);
  });

  test("a shim of another version is refused, naming both", () => {
    shim.close();
    guest.applyWord(WORD.version, 7);
    try {
      expect(() => openShim(guest.pid)).toThrow(/version 7 .* speaks 2.*restart the guest/);
    } finally {
      guest.applyWord(WORD.version, SHIM_VERSION);
      shim = openShim(guest.pid);
    }
  });

  test("a guest without the shim is named with the remedy", async () => {
    const bare = await FakeGuest.start({}, false);
    try {
      openShim(bare.pid);
      throw new Error("opened");
    } catch (error) {
      expect((error as Failure<{ code: string }>).detail).toEqual({ code: "ShimMissing", pid: bare.pid });
      expect(String(error)).toContain("name twinrun-shim.so");
    } finally {
      await bare.stop();
    }
  });
});
