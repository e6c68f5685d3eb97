import { expect, test } from "@jest/globals";
import { decideRestart, freshHistory, type EngineEnd, type RestartHistory } from "./engine-restart.ts";

const calm: { readonly end: EngineEnd; readonly history: RestartHistory } = {
  end: { reason: undefined, livedMs: 100 },
  history: freshHistory,
};

test.each<{ when: string; end?: Partial<EngineEnd>; failuresBefore?: number; afterMs: number; failuresAfter: number }>([
  { when: "the first crash", afterMs: 50, failuresAfter: 1 },
  { when: "the second crash", failuresBefore: 1, afterMs: 100, failuresAfter: 2 },
  { when: "the seventh crash", failuresBefore: 6, afterMs: 3_200, failuresAfter: 7 },
  { when: "the thousandth crash", failuresBefore: 999, afterMs: 5_000, failuresAfter: 1_000 },
  { when: "a crash after a long life", end: { livedMs: 10_000 }, failuresBefore: 6, afterMs: 50, failuresAfter: 1 },
  { when: "a reported failure", end: { reason: "failed" }, failuresBefore: 1, afterMs: 100, failuresAfter: 2 },
  {
    when: "fenced after a while",
    end: { reason: "fenced", livedMs: 1_000 },
    failuresBefore: 1,
    afterMs: 0,
    failuresAfter: 1,
  },
  {
    when: "fenced after a long life",
    end: { reason: "fenced", livedMs: 60_000 },
    failuresBefore: 5,
    afterMs: 0,
    failuresAfter: 0,
  },
  { when: "fenced at once", end: { reason: "fenced", livedMs: 999 }, afterMs: 50, failuresAfter: 1 },
  {
    when: "fenced at once, again and again",
    end: { reason: "fenced" },
    failuresBefore: 9,
    afterMs: 5_000,
    failuresAfter: 10,
  },
  { when: "asked for a restart", end: { reason: "restart", livedMs: 2_000 }, afterMs: 0, failuresAfter: 0 },
])("$when waits $afterMs ms", ({ end, failuresBefore = 0, afterMs, failuresAfter }) => {
  expect(decideRestart({ ...calm.end, ...end }, { failuresCount: failuresBefore })).toEqual({
    tag: "restart",
    afterMs,
    history: { failuresCount: failuresAfter },
  });
});

test("a guest that shut itself down rests", () => {
  expect(decideRestart({ reason: "ended", livedMs: 5 }, freshHistory)).toEqual({ tag: "rest" });
});
