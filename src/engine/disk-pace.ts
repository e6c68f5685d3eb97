/**
 * Whether a disk has become slow, by its own history: an outlier is noticed before requests take so long that they hold the pair
 * up. Pure: one observation is the requests that ended in a few seconds.
 *
 * A disk is slow when two observations in a row are far above what is usual for it, and well again after two that are not. What
 * is usual is the geometric mean of those that were not slow: one slow hour must not become usual, nor one fast minute.
 */
export type DiskPace = {
  /** Logarithm of the usual milliseconds; undefined before anything was seen. */
  readonly usualLog: number | undefined;
  readonly seenCount: number;
  /** Observations in a row that speak against what `isSlow` says. */
  readonly againstCount: number;
  readonly isSlow: boolean;
  readonly meanMs: number;
};

export type PaceSample = { readonly count: number; readonly totalMs: number };

export const freshDiskPace: DiskPace = { usualLog: undefined, seenCount: 0, againstCount: 0, isSlow: false, meanMs: 0 };

/** Fewer say nothing. */
const REQUESTS_MIN = 4;
const LEARN_COUNT = 6;
const WEIGHT = 1 / 16;
const SLOW_FACTOR = 8;
const WELL_FACTOR = 4;
/** Nobody is held up by less. */
const SLOW_MS_MIN = 30;
/** Slow whatever is usual. */
const SLOW_MS_ALWAYS = 250;
const IN_A_ROW = 2;

export function observePace(pace: DiskPace, { count, totalMs }: PaceSample): DiskPace {
  if (count < REQUESTS_MIN) {
    return pace;
  }
  const meanMs = totalMs / count;
  const seems = seemsSlow(pace, meanMs);
  const againstCount = seems === pace.isSlow ? 0 : pace.againstCount + 1;
  const isSlow = againstCount >= IN_A_ROW ? seems : pace.isSlow;
  return {
    ...(seems ? pace : learn(pace, meanMs)),
    meanMs,
    isSlow,
    againstCount: isSlow === pace.isSlow ? againstCount : 0,
  };
}

export function usualMsOf({ usualLog }: DiskPace): number {
  return usualLog === undefined ? 0 : Math.exp(usualLog);
}

function seemsSlow(pace: DiskPace, meanMs: number): boolean {
  if (meanMs >= SLOW_MS_ALWAYS) {
    return true;
  }
  const factor = pace.isSlow ? WELL_FACTOR : SLOW_FACTOR;
  return pace.seenCount >= LEARN_COUNT && meanMs > Math.max(SLOW_MS_MIN, factor * usualMsOf(pace));
}

function learn(pace: DiskPace, meanMs: number): DiskPace {
  const log = Math.log(Math.max(0.01, meanMs));
  const { usualLog = log, seenCount } = pace;
  const weight = Math.max(WEIGHT, 1 / (seenCount + 1));
  return { ...pace, usualLog: usualLog + weight * (log - usualLog), seenCount: seenCount + 1 };
}
