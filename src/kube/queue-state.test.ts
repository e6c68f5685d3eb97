import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { QueueState } from "./queue-state.ts";

const backoff = { minMs: 100, maxMs: 1_000 };
const done = { tag: "done", againAfterMs: undefined } as const;
const failed = { tag: "failed" } as const;

describe("the queue", () => {
  test("gives keys in order, each once however often it was added", () => {
    const queue = new QueueState(backoff);
    for (const key of ["a", "b", "a", "b"]) {
      queue.add(key, 0);
    }
    expect([queue.take(0), queue.take(0), queue.take(0)]).toEqual(["a", "b", undefined]);
  });

  test("gives a key that was added during its work once more, after it", () => {
    const queue = new QueueState(backoff);
    queue.add("a", 0);
    queue.take(0);
    queue.add("a", 1);
    expect(queue.take(1)).toBeUndefined();
    queue.finish("a", done, 2);
    expect(queue.take(2)).toBe("a");
    queue.finish("a", done, 3);
    expect(queue.take(3)).toBeUndefined();
  });

  test("waits longer after each failure, forgets that with success, and a change need not wait", () => {
    const queue = new QueueState(backoff);
    queue.add("a", 0);
    const delays = [];
    let nowMs = 0;
    for (let count = 0; count < 5; count += 1) {
      expect(queue.take(nowMs)).toBe("a");
      delays.push(queue.finish("a", failed, nowMs));
      expect(queue.take(nowMs)).toBeUndefined();
      nowMs = queue.nextDueAtMs() ?? NaN;
    }
    expect(delays).toEqual([100, 200, 400, 800, 1_000]);
    expect(queue.failingCount).toBe(1);
    queue.add("a", nowMs - 500);
    expect(queue.take(nowMs - 500)).toBe("a");
    queue.finish("a", done, nowMs);
    expect(queue.failingCount).toBe(0);
  });

  test("looks again when a run asked for it, unless a later run did not", () => {
    const queue = new QueueState(backoff);
    queue.add("a", 0);
    queue.take(0);
    queue.finish("a", { tag: "done", againAfterMs: 30_000 }, 0);
    expect(queue.nextDueAtMs()).toBe(30_000);
    queue.add("a", 10);
    expect(queue.take(10)).toBe("a");
    queue.finish("a", done, 11);
    expect(queue.nextDueAtMs()).toBeUndefined();
    expect(queue.waitingCount).toBe(0);
  });

  test("keeps the earliest of several times", () => {
    const queue = new QueueState(backoff);
    queue.add("a", 0, 500);
    queue.add("a", 0, 200);
    queue.add("a", 0, 900);
    expect(queue.nextDueAtMs()).toBe(200);
    queue.forget("a");
    expect(queue.take(1_000)).toBeUndefined();
  });

  test("never gives a key to two, and whatever was added is worked on after that", () => {
    const move = fc.oneof(
      fc.record({ tag: fc.constant("add" as const), key: fc.constantFrom("a", "b", "c"), afterMs: fc.nat(50) }),
      fc.record({ tag: fc.constant("take" as const) }),
      fc.record({ tag: fc.constant("finish" as const), isFailed: fc.boolean() }),
    );
    fc.assert(
      fc.property(fc.array(move, { maxLength: 60 }), (moves) => {
        const queue = new QueueState(backoff);
        const active = new Set<string>();
        const owed = new Set<string>();
        const take = (nowMs: number): void => {
          const key = queue.take(nowMs);
          if (key !== undefined) {
            expect(active.has(key)).toBe(false);
            active.add(key);
            owed.delete(key);
          }
        };
        const finish = (nowMs: number, isFailed: boolean): void => {
          for (const key of [...active].slice(0, 1)) {
            active.delete(key);
            queue.finish(key, isFailed ? failed : done, nowMs);
            if (isFailed) {
              owed.add(key);
            }
          }
        };
        moves.forEach((each, nowMs) => {
          if (each.tag === "add") {
            owed.add(each.key);
            queue.add(each.key, nowMs, each.afterMs);
          } else if (each.tag === "take") {
            take(nowMs);
          } else {
            finish(nowMs, each.isFailed);
          }
        });
        for (let count = 0; count < 20; count += 1) {
          take(100_000);
          finish(100_000, false);
        }
        expect([...owed, ...active]).toEqual([]);
        expect(queue.waitingCount).toBe(0);
      }),
    );
  });
});
