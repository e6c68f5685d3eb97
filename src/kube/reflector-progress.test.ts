import { describe, expect, test } from "@jest/globals";
import { initialProgress, nextStep, type Progress, type ReflectorEvent } from "./reflector-progress.ts";

const timing = { backoffMinMs: 100, backoffMaxMs: 1_000 };
const run = (...events: readonly ReflectorEvent[]): Progress =>
  events.reduce((progress, event) => nextStep(progress, event, timing), initialProgress);

const error = new Error("broken");
const listed: ReflectorEvent = { tag: "listed", resourceVersion: "5" };
const listFailed: ReflectorEvent = { tag: "failed", error, isExpired: false };
const closed: ReflectorEvent = { tag: "watchFailed", error, doubt: "none", resourceVersion: "5", isFruitful: false };
const troubled: ReflectorEvent = { ...closed, doubt: "some" };
const expired: ReflectorEvent = { ...closed, doubt: "certainty" };
const ended: ReflectorEvent = { tag: "watchEnded", resourceVersion: "9", isFruitful: true };

describe("a reflector", () => {
  test("begins with a list and then watches from it", () => {
    expect(initialProgress).toMatchObject({ step: { tag: "list" }, delayMs: 0 });
    expect(run(listed)).toMatchObject({ step: { tag: "watch", resourceVersion: "5" }, delayMs: 0, listedCount: 1 });
  });

  test("watches on at once from the last version when the server has ended a watch", () => {
    expect(run(listed, ended)).toMatchObject({ step: { tag: "watch", resourceVersion: "9" }, delayMs: 0 });
  });

  test("does not hurry when watches end before anything was heard", () => {
    expect(run(listed, { ...ended, isFruitful: false })).toMatchObject({ step: { tag: "watch" }, delayMs: 100 });
  });

  test("waits twice as long each time, up to a limit, and begins anew with success", () => {
    const delays = [1, 2, 3, 4, 5, 6].map((count) => run(...Array<ReflectorEvent>(count).fill(listFailed)).delayMs);
    expect(delays).toEqual([100, 200, 400, 800, 1_000, 1_000]);
    expect(run(listFailed, listFailed, listed)).toMatchObject({ delayMs: 0, failedCount: 0 });
    expect(run(listed, closed, closed, { ...closed, isFruitful: true })).toMatchObject({
      delayMs: 100,
      failedCount: 1,
    });
  });

  test("lists anew when the version is gone or the server has trouble with it, not because the server is away", () => {
    expect(run(listed, closed, closed, closed, closed)).toMatchObject({ step: { tag: "watch", resourceVersion: "5" } });
    expect(run(listed, expired)).toMatchObject({ step: { tag: "list" }, delayMs: 100 });
    expect(run(listed, troubled, closed, troubled)).toMatchObject({ step: { tag: "watch" } });
    expect(run(listed, troubled, closed, troubled, troubled)).toMatchObject({ step: { tag: "list" } });
  });

  test("takes a list in one piece after its pages went away, and only then", () => {
    expect(run({ ...listFailed, isExpired: true })).toMatchObject({ step: { tag: "list" }, hasExpired: true });
    expect(run({ ...listFailed, isExpired: true }, listFailed)).toMatchObject({ hasExpired: false });
  });
});
