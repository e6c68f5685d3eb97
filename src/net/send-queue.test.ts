import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { SendQueue } from "./send-queue.ts";

const KIB = 1024;

test("small parts are gathered, large ones leave uncopied in slices", () => {
  const queue = new SendQueue();
  const large = new Uint8Array(600 * KIB);
  queue.push({ parts: [new Uint8Array(16), new Uint8Array(100), large, new Uint8Array(5)] });
  const batches = [queue.next(), queue.next(), queue.next(), queue.next(), queue.next(), queue.next()];
  expect(batches.map((batch) => batch?.byteLength)).toEqual([116, 256 * KIB, 256 * KIB, 88 * KIB, 5, undefined]);
  expect(batches[1]?.buffer).toBe(large.buffer);
});

test("onSent comes only after the last byte of its group was written, also for an empty group", () => {
  const queue = new SendQueue();
  const sent: string[] = [];
  queue.push({ parts: [new Uint8Array(100 * KIB)], onSent: () => sent.push("first") });
  queue.push({ parts: [], onSent: () => sent.push("empty") });
  queue.push({ parts: [new Uint8Array(100 * KIB)], onSent: () => sent.push("second") });
  const tell = (bytes: number): void => {
    queue.written(bytes).forEach((onSent) => {
      onSent();
    });
  };
  const [first, second] = [queue.next(), queue.next()];
  expect(queue.next()).toBeUndefined();
  expect(sent).toEqual([]);
  tell(first?.byteLength ?? 0);
  expect(sent).toEqual(["first", "empty"]);
  tell(second?.byteLength ?? 0);
  expect(sent).toEqual(["first", "empty", "second"]);
});

test("whatever is pushed leaves once, groups whole and each kind in order", () => {
  const group = fc.record({
    urgent: fc.boolean(),
    takeAfter: fc.nat(3),
    sizes: fc.array(fc.nat(400), { maxLength: 4 }),
  });
  fc.assert(
    fc.property(fc.array(group, { maxLength: 12 }), (groups) => {
      const queue = new SendQueue(256, 64);
      const leaving: number[] = [];
      const sent: number[] = [];
      const take = (): boolean => {
        const batch = queue.next();
        if (batch !== undefined) {
          for (let at = 0; at < batch.length; at += 1) {
            if (leaving.at(-1) !== batch[at]) {
              leaving.push(batch[at] ?? -1);
            }
          }
          queue.written(batch.byteLength).forEach((onSent) => {
            onSent();
          });
        }
        return batch !== undefined;
      };
      groups.forEach(({ urgent, sizes, takeAfter }, index) => {
        const parts = sizes.map((size) => new Uint8Array(size).fill(index + 1));
        const pushed = { parts, onSent: () => sent.push(index) };
        if (urgent) {
          queue.pushUrgent(pushed);
        } else {
          queue.push(pushed);
        }
        for (let times = 0; times < takeAfter; times += 1) {
          take();
        }
      });
      while (take()) {
        continue;
      }
      queue.written(0).forEach((onSent) => {
        onSent();
      });
      const withBytes = groups.flatMap(({ sizes }, index) => (sizes.some((size) => size > 0) ? [index + 1] : []));
      const kinds = (urgent: boolean): number[] => leaving.filter((id) => groups[id - 1]?.urgent === urgent);
      expect([...leaving].sort((a, b) => a - b)).toEqual(withBytes);
      expect(kinds(true)).toEqual(withBytes.filter((id) => groups[id - 1]?.urgent === true));
      expect(kinds(false)).toEqual(withBytes.filter((id) => groups[id - 1]?.urgent === false));
      expect([...sent].sort((a, b) => a - b)).toEqual(groups.map((_, index) => index));
    }),
    { numRuns: 500 },
  );
});
