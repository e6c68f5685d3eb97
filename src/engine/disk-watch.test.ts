import { expect, test } from "@jest/globals";
import { DiskWatch } from "./disk-watch.ts";

test("a disk that was slow is not so any more when its pace is forgotten, and may be slow again", () => {
  const watch = new DiskWatch();
  const told: [id: string, isSlow: boolean][] = [];
  watch.onChanged = (id, isSlow) => told.push([id, isSlow]);
  const work = (totalMs: number, times: number): void => {
    for (let time = 0; time < times; time += 1) {
      watch.note("disk0", { count: 100, totalMs });
    }
  };
  work(100, 100);
  work(100_000, 30);
  expect(told).toEqual([["disk0", true]]);
  expect(watch.listSlow()).toHaveLength(1);
  watch.forget();
  expect(told).toEqual([
    ["disk0", true],
    ["disk0", false],
  ]);
  expect(watch.listSlow()).toEqual([]);
  work(100, 100);
  work(100_000, 30);
  expect(told.at(-1)).toEqual(["disk0", true]);
});
