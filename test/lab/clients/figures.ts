/** What a client measured, in a form that goes into a report. */

export type LatencyFigures = {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly meanMs: number;
};

/** Quantiles by nearest rank. No samples: all zero, and `count` says so. */
export function summarizeLatencies(samplesMs: readonly number[]): LatencyFigures {
  const sorted = Float64Array.from(samplesMs).sort();
  const at = (share: number): number => round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0);
  const sum = sorted.reduce((total, sample) => total + sample, 0);
  const meanMs = sorted.length === 0 ? 0 : round(sum / sorted.length);
  return { count: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1), meanMs };
}

export const round = (value: number): number => Math.round(value * 1000) / 1000;
