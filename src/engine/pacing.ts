/**
 * When to take the next checkpoint. Pure: the engine tells what it measured and asks for a time.
 *
 * Output that waits asks for a checkpoint soon; an idle guest needs one only every `maxIntervalMs`. The gap between the
 * end of one pause and the start of the next trades latency for throughput. Two facts choose it:
 *
 * - A reply on its own gains nothing from waiting: the guest idles until its client hears of it. Gap close to zero.
 * - Under bulk load every pause stops work that would have produced more output for the same release, so the guest
 *   must keep a share of its time: the gap grows with the number of packets an epoch carries, up to
 *   `GAP_PAUSES_MAX` pauses.
 *
 * A guest that dirties memory without talking is checkpointed more often than `maxIntervalMs`, so that no epoch carries
 * more than about `DIRTY_PAGES_TARGET` pages: the copy is part of the pause.
 */
export type PacingLimits = {
  readonly minIntervalMs: number;
  readonly maxIntervalMs: number;
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
};

const GAP_PAUSES_MAX = 2.2;
const GAP_PAUSES_MIN = 0.15;
const PACKETS_FOR_MAX_GAP = 24;
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
  const earliestMs = moment.startedAtMs + limits.minIntervalMs;
  const silentAtMs = Math.max(earliestMs, moment.startedAtMs + state.silentIntervalMs);
  if (moment.outputSinceMs === undefined) {
    return silentAtMs;
  }
  const share = Math.min(1, state.packetsPerEpoch / PACKETS_FOR_MAX_GAP);
  const gapMs = state.pauseMs * (GAP_PAUSES_MIN + share * (GAP_PAUSES_MAX - GAP_PAUSES_MIN));
  return Math.max(earliestMs, Math.min(silentAtMs, moment.resumedAtMs + gapMs));
}
