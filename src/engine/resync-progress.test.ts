import { expect, test } from "@jest/globals";
import { observeLeft, percentOf, secondsLeftOf, startProgress } from "./resync-progress.ts";

test("a steady copy is told to the second", () => {
  let progress = startProgress(1_000_000, 0);
  expect([percentOf(progress), secondsLeftOf(progress)]).toEqual([0, null]);
  for (let second = 1; second <= 5; second += 1) {
    progress = observeLeft(progress, 1_000_000 - second * 100_000, second * 1_000);
  }
  expect([percentOf(progress), secondsLeftOf(progress)]).toEqual([50, 5]);
  progress = observeLeft(progress, 0, 10_000);
  expect([percentOf(progress), secondsLeftOf(progress)]).toEqual([99, 0]);
});

test("a copy that does not get on says so, and one that grows does not go back below nothing", () => {
  let progress = startProgress(1_000, 0);
  for (let second = 1; second <= 60; second += 1) {
    progress = observeLeft(progress, 1_000 + second, second * 1_000);
  }
  expect([percentOf(progress), secondsLeftOf(progress)]).toEqual([0, null]);
});

test("looking twice at once changes nothing", () => {
  const progress = startProgress(1_000, 0);
  expect(observeLeft(progress, 500, 10)).toBe(progress);
});
