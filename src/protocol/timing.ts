/**
 * How long everything waits, derived from the one number a user sets: the detection timeout.
 *
 * The order that matters: a living primary that lost its standby asks the quorum before the standby does, so its silence
 * limit is the shorter one, and the standby waits a grace on top. From the loss of a host to the standby's request it is at
 * most `standbySilenceMs` + `graceMs`.
 */
import { type LostBy, type TimerName } from "./side-state.ts";

export type Timing = {
  readonly heartbeatMs: number;
  readonly primarySilenceMs: number;
  readonly standbySilenceMs: number;
  readonly graceSilentMs: number;
  /** All links were closed by the other side: its process died, or a living one asks within a few milliseconds. */
  readonly graceClosedMs: number;
  readonly ackOverdueMs: number;
  readonly heldTooLongMs: number;
  readonly coldGraceMs: number;
  readonly retryFirstMs: number;
  readonly retryMaxMs: number;
  readonly lookMs: number;
};

/** The detection timeout when the user sets none. */
export const DETECTION_TIMEOUT_MS = 600;

export function planTiming(detectionTimeoutMs: number = DETECTION_TIMEOUT_MS): Timing {
  return {
    heartbeatMs: Math.max(10, Math.round(detectionTimeoutMs / 7)),
    primarySilenceMs: Math.round(detectionTimeoutMs * 0.65),
    standbySilenceMs: Math.round(detectionTimeoutMs * 0.83),
    graceSilentMs: Math.round(detectionTimeoutMs * 0.17),
    graceClosedMs: 15,
    ackOverdueMs: Math.max(1000, detectionTimeoutMs * 2),
    heldTooLongMs: 2_000,
    coldGraceMs: 5_000,
    retryFirstMs: 20,
    retryMaxMs: 1_000,
    lookMs: 1_000,
  };
}

/** How long to arm `timer`; `attempt` counts retries since the last answer, from 0. */
export function timerMs(
  timing: Timing,
  timer: TimerName,
  context: { readonly attempt: number; readonly lostBy: LostBy },
): number {
  switch (timer) {
    case "retry":
      return Math.min(timing.retryMaxMs, timing.retryFirstMs * 2 ** Math.min(context.attempt, 10));
    case "look":
      return timing.lookMs;
    case "grace":
      return context.lostBy === "closed" ? timing.graceClosedMs : timing.graceSilentMs;
    case "ackOverdue":
      return timing.ackOverdueMs;
    case "heldTooLong":
      return timing.heldTooLongMs;
    case "coldGrace":
      return timing.coldGraceMs;
  }
}
