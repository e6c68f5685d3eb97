/**
 * When to take the next checkpoint. Pure: the engine tells what it measured and asks for a time.
 *
 * Output that waits asks for a checkpoint soon; an idle guest needs one only every `maxIntervalMs`. The gap between the
 * end of one pause and the start of the next trades latency for throughput. Two facts choose it:
 *
 * - A guest that has nothing to do gains nothing from waiting: its clients have to hear from it first. No gap.
 * - A busy guest is about to send more, which could leave with the same release, and every pause stops its work. So it keeps
 *   a share of its time: a gap of `GAP_PAUSES_MIN` pauses, more with the number of packets an epoch carries, up to
 *   `GAP_PAUSES_MAX`. The engine asks again every millisecond whether it is still busy. With eight clients of a database all
 *   eight replies leave together; an epoch for each would cost the guest six milliseconds each (its pause, and the caches it
 *   finds cold). The bound on added latency limits the gap to a third of it: pause and acknowledgement are the rest.
 *
 * A guest that dirties memory without talking is checkpointed more often than `maxIntervalMs`, so that no epoch carries
 * more than about `DIRTY_PAGES_TARGET` pages: the copy is part of the pause.
 *
 * A guest that has used up its share of the links (link-pace.ts) is checkpointed when there is room again: what it changes twice
 * meanwhile is sent once. What it sends waits longer for that, but no longer than the largest epoch may take.
 */
import { LIMITED_EPOCH_MS_MAX } from "./link-pace.ts";

export type PacingLimits = {
  readonly minIntervalMs: number;
  readonly maxIntervalMs: number;
  readonly maxAddedLatencyMs: number;
};

/** What the last epochs were like; see {@link observeEpoch}. */
export type PacingState = {
  /** Smoothed length of a pause. */
  readonly pauseMs: number;
  /** Smoothed number of packets an epoch holds back. */
  readonly packetsPerEpoch: number;
  /** Interval at which a silent guest is checkpointed now. */
  readonly silentIntervalMs: number;
};

export type PacingMoment = {
  /** Start of the last checkpoint. */
  readonly startedAtMs: number;
  /** When the guest went on after it. */
  readonly resumedAtMs: number;
  /** When the oldest waiting packet was sent; undefined while none waits. */
  readonly outputSinceMs: number | undefined;
  /** Whether the guest has more to do. */
  readonly isBusy: boolean;
  /** When the guest's share of the links allows more to be sent; 0 without one. */
  readonly linkFreeAtMs: number;
};

const GAP_PAUSES_MIN = 3;
const GAP_PAUSES_MAX = 8;
const PACKETS_FOR_MAX_GAP = 8;
const GAP_SHARE_OF_BOUND = 1 / 3;
const DIRTY_PAGES_TARGET = 4096;
const SMOOTHING = 0.2;

export function startPacing(limits: PacingLimits): PacingState {
  return { pauseMs: 4, packetsPerEpoch: 1, silentIntervalMs: limits.minIntervalMs };
}

/** Takes one epoch into account. */
export function observeEpoch(
  state: PacingState,
  epoch: {
    readonly pauseMs: number;
    readonly packetCount: number;
    readonly pageCount: number;
    readonly intervalMs: number;
  },
  limits: PacingLimits,
): PacingState {
  const smooth = (old: number, sample: number): number => old + SMOOTHING * (sample - old);
  const wantedMs = epoch.intervalMs * (DIRTY_PAGES_TARGET / Math.max(1, epoch.pageCount));
  const grownMs = Math.min(wantedMs, state.silentIntervalMs * 1.5);
  return {
    pauseMs: smooth(state.pauseMs, Math.min(epoch.pauseMs, 50)),
    packetsPerEpoch: epoch.packetCount === 0 ? state.packetsPerEpoch : smooth(state.packetsPerEpoch, epoch.packetCount),
    silentIntervalMs: Math.min(limits.maxIntervalMs, Math.max(limits.minIntervalMs, grownMs, 1)),
  };
}

/** The time at which the next checkpoint should start. */
export function planCapture(state: PacingState, moment: PacingMoment, limits: PacingLimits): number {
  const latestMs = moment.startedAtMs + LIMITED_EPOCH_MS_MAX;
  return Math.max(planWithoutShare(state, moment, limits), Math.min(moment.linkFreeAtMs, latestMs));
}

function planWithoutShare(state: PacingState, moment: PacingMoment, limits: PacingLimits): number {
  const earliestMs = moment.startedAtMs + limits.minIntervalMs;
  const silentAtMs = Math.max(earliestMs, moment.startedAtMs + state.silentIntervalMs);
  if (moment.outputSinceMs === undefined) {
    return silentAtMs;
  }
  if (!moment.isBusy) {
    return earliestMs;
  }
  const share = Math.min(1, state.packetsPerEpoch / PACKETS_FOR_MAX_GAP);
  const wantedMs = state.pauseMs * (GAP_PAUSES_MIN + share * (GAP_PAUSES_MAX - GAP_PAUSES_MIN));
  const gapMs = Math.min(wantedMs, limits.maxAddedLatencyMs * GAP_SHARE_OF_BOUND);
  return Math.max(earliestMs, Math.min(silentAtMs, moment.resumedAtMs + gapMs));
}
