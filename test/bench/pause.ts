/** The row of a checkpoint's pause, with its phases. */
import { round } from "../lab/clients/figures.ts";
import { samplesOf, type Measured } from "./bench.ts";
import { quantilesOf, type Figure } from "./row.ts";

export type PauseTarget = { readonly p50Ms: number; readonly p99Ms: number; readonly epochsPerSecond: number };

export function summarizePause(name: string, measured: Measured<unknown>, target: PauseTarget): Figure {
  const { engine, seconds, processor } = measured;
  const { count, ...pause } = quantilesOf(samplesOf(engine, "pause"));
  const epochsPerSecond = round(count / seconds);
  const phases = [...engine].map(([phase, samples]) => [phase, quantilesOf(samples)] as const);
  const atRate = target.epochsPerSecond === 0 ? "" : ` at ≥ ${target.epochsPerSecond} epochs/s`;
  return {
    row: {
      name,
      unit: "ms",
      ...pause,
      target: `p50 ≤ ${target.p50Ms}, p99 ≤ ${target.p99Ms}${atRate}`,
      met: pause.p50 <= target.p50Ms && pause.p99 <= target.p99Ms && epochsPerSecond >= target.epochsPerSecond,
      detail: { epochsPerSecond, phases: Object.fromEntries(phases), processor },
    },
    samples: Object.fromEntries(engine),
  };
}
