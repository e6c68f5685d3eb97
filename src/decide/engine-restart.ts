/**
 * When to start an engine again after it ended.
 *
 * An engine that leaves in good order (fenced, or asking for a fresh start) comes back at once, for its guest is without
 * protection until then. One that failed waits: 50 ms the first time, because a crash should cost as little protection
 * as possible, then twice as long each time up to 5 s, so that a lasting fault does not eat the host. A life of 10 s clears
 * the count. An engine that leaves in good order but lives shorter than a second counts as failed: two sides that fence
 * each other for ever must not spin.
 */
import { type EngineExitReason } from "../protocol/assignment.ts";

export type RestartHistory = { readonly failuresCount: number };
export const freshHistory: RestartHistory = { failuresCount: 0 };

/** `reason` is undefined when the process ended without a word. */
export type EngineEnd = { readonly reason: EngineExitReason | undefined; readonly livedMs: number };

export type RestartDecision =
  { readonly tag: "restart"; readonly afterMs: number; readonly history: RestartHistory } | { readonly tag: "rest" };

const FIRST_DELAY_MS = 50;
const DELAY_MS_MAX = 5_000;
const STABLE_AFTER_MS = 10_000;
const ORDERLY_LIFE_MS_MIN = 1_000;

export function decideRestart(end: EngineEnd, history: RestartHistory): RestartDecision {
  if (end.reason === "ended" || end.reason === "released") {
    return { tag: "rest" };
  }
  const failuresBefore = end.livedMs >= STABLE_AFTER_MS ? 0 : history.failuresCount;
  const inOrder = end.reason === "fenced" || end.reason === "restart" || end.reason === "stopped";
  if (inOrder && end.livedMs >= ORDERLY_LIFE_MS_MIN) {
    return { tag: "restart", afterMs: 0, history: { failuresCount: failuresBefore } };
  }
  const afterMs = Math.min(DELAY_MS_MAX, FIRST_DELAY_MS * 2 ** Math.min(failuresBefore, 30));
  return { tag: "restart", afterMs, history: { failuresCount: failuresBefore + 1 } };
}
