/**
 * How long everything waits, derived from the one number a user sets: the detection timeout.
 *
 * The order that matters: a living primary that lost its standby asks the quorum before the standby does, so its silence
 * limit is the shorter one, and the standby waits a grace on top. From the loss of a host to the standby's request it is at
 * most `standbySilenceMs` + `graceMs`.
 *
 * Where both live and only the links are cut, the healthier side should go on, and nobody can ask the other one any more. So each
 * waits by what it knows of itself; in the order in which they ask, with a detection time of 600 ms, after silence:
 *
 *   primary, healthy    390 ms     its guest need not move
 *   standby, healthy    600 ms
 *   primary, impaired   840 ms     lets a healthy standby go first, which asks twice; if that is gone, clients wait 450 ms longer
 *   standby, impaired   1098 ms
 *
 * This decides who is likely to win, never who may: that is the quorum's.
 *
 * In HighAvailability output passes by a lease of `leaseMs`, counted from when the primary sent what the standby's last heartbeat
 * echoes, so from before the standby's silence began. It is over before that silence and the grace are, by a quarter of the timeout;
 * a standby whose links were closed waits longer than it for that reason.
 */
import { type LostBy, type TimerName } from "./side-state.ts";

export type Timing = {
  readonly heartbeatMs: number;
  readonly primarySilenceMs: number;
  readonly standbySilenceMs: number;
  readonly graceSilentMs: number;
  /** All links were closed by the other side: its process died, or a living one asks within a few milliseconds. */
  readonly graceClosedMs: number;
  /** The same for a standby that is impaired, and how long an impaired primary lets the standby go first. */
  readonly graceSilentImpairedMs: number;
  readonly graceClosedImpairedMs: number;
  readonly yieldSilentMs: number;
  readonly yieldClosedMs: number;
  /** The same while the other side's output passes by a lease. */
  readonly graceLeasedMs: number;
  readonly leaseMs: number;
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
    graceSilentImpairedMs: Math.round(detectionTimeoutMs * 0.5) + 300,
    graceClosedImpairedMs: 300,
    yieldSilentMs: Math.round(detectionTimeoutMs * 0.5) + 150,
    yieldClosedMs: 150,
    graceLeasedMs: Math.round(detectionTimeoutMs * 0.83),
    leaseMs: Math.round(detectionTimeoutMs * 0.6),
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
  context: {
    readonly attempt: number;
    readonly lostBy: LostBy;
    readonly isImpaired?: boolean | undefined;
    /** Standby: the other side's output passes by a lease. */
    readonly isLeased?: boolean | undefined;
  },
): number {
  switch (timer) {
    case "retry":
      return Math.min(timing.retryMaxMs, timing.retryFirstMs * 2 ** Math.min(context.attempt, 10));
    case "look":
      return timing.lookMs;
    case "grace":
      return graceMs(timing, context);
    case "yield":
      return context.lostBy === "closed" ? timing.yieldClosedMs : timing.yieldSilentMs;
    case "ackOverdue":
      return timing.ackOverdueMs;
    case "heldTooLong":
      return timing.heldTooLongMs;
    case "coldGrace":
      return timing.coldGraceMs;
  }
}

function graceMs(timing: Timing, { lostBy, isImpaired, isLeased }: Parameters<typeof timerMs>[2]): number {
  const closedMs = isLeased === true ? timing.graceLeasedMs : timing.graceClosedMs;
  const [healthyMs, impairedMs] =
    lostBy === "closed"
      ? [closedMs, Math.max(closedMs, timing.graceClosedImpairedMs)]
      : [timing.graceSilentMs, timing.graceSilentImpairedMs];
  return isImpaired === true ? impairedMs : healthyMs;
}
