import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { PreciseTimer } from "./precise-timer.ts";

let fired = 0;
let onFire: () => void = () => undefined;
let timer: PreciseTimer;

beforeEach(() => {
  fired = 0;
  timer = new PreciseTimer(() => {
    fired += 1;
    onFire();
  });
});

afterEach(() => {
  timer.close();
});

test("fires once, not before its time, and can be armed again", async () => {
  for (let round = 1; round <= 3; round += 1) {
    const startedAtMs = performance.now();
    const firing = new Promise<void>((resolve) => (onFire = resolve));
    timer.arm(3.5);
    await firing;
    expect(performance.now() - startedAtMs).toBeGreaterThanOrEqual(3.4);
  }
  await sleep(20);
  expect(fired).toBe(3);
});

test("a later arm replaces an earlier one; disarmed or closed it is silent", async () => {
  timer.arm(5);
  timer.arm(60_000);
  await sleep(30);
  timer.arm(5);
  timer.disarm();
  await sleep(30);
  expect(fired).toBe(0);
  timer.arm(0);
  await sleep(30);
  expect(fired).toBe(1);
  timer.arm(5);
  timer.close();
  timer.arm(5);
  timer.close();
  await sleep(30);
  expect(fired).toBe(1);
});
