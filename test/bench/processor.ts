/** Work in the guest that only needs its processor, at given rates of checkpoints. */
import { withLab } from "../lab/hosts.ts";
import { round } from "../lab/clients/figures.ts";
import { type Bench, samplesOf } from "./bench.ts";
import { median, quantilesOf, type Figure } from "./row.ts";

const seconds = 20;
/** About a second of work under TCG. */
const turns = 50_000;

/** The interval is from the end of a pause to the next, so it leaves room for the pause. */
const rates = [
  { perSecond: 20, intervalMs: 43, slowerPercentMax: 20 },
  { perSecond: 40, intervalMs: 19, slowerPercentMax: 35 },
] as const;

export async function measureProcessor(bench: Bench): Promise<Figure[]> {
  const alone = await withLab({ say: bench.say }, async (lab) => {
    const bare = bench.place(lab, "busybox", "bare");
    return bench.withUnprotected(lab, [bare], () => bench.run(lab, "burn", { host: bare.address, turns }, seconds));
  });
  const unprotected = alone.samples.map(({ value }) => value);
  const figures: Figure[] = [];
  for (const rate of rates) {
    figures.push(await measureAtRate(bench, rate, unprotected));
  }
  return figures;
}

function measureAtRate(bench: Bench, rate: (typeof rates)[number], unprotected: readonly number[]): Promise<Figure> {
  return withLab({ say: bench.say }, async (lab) => {
    const guest = bench.place(lab, "busybox", "burner");
    const checkpoint = { minIntervalMs: rate.intervalMs, maxIntervalMs: rate.intervalMs };
    await bench.protect(lab, [guest], { checkpoint });
    const measured = await bench.withEngineSamples(lab, [guest], () =>
      bench.run(lab, "burn", { host: guest.address, turns }, seconds),
    );
    const times = measured.value.samples.map(({ value }) => value);
    const slower = times.map((ms) => 100 * (ms / median(unprotected) - 1));
    const { count, ...quantiles } = quantilesOf(slower);
    const epochsPerSecond = round(samplesOf(measured.engine, "pause").length / measured.seconds);
    return {
      row: {
        name: `processor-bound work at ${rate.perSecond} epochs/s, slower by`,
        unit: "%",
        ...quantiles,
        ratio: round(median(times) / median(unprotected)),
        target: `≤ ${rate.slowerPercentMax} at ≥ ${rate.perSecond} epochs/s`,
        met: quantiles.p50 <= rate.slowerPercentMax && epochsPerSecond >= rate.perSecond,
        detail: {
          epochsPerSecond,
          requestsCount: count,
          pause: quantilesOf(samplesOf(measured.engine, "pause")),
          processor: measured.processor,
        },
      },
      samples: { unprotectedMs: unprotected, protectedMs: times, ...Object.fromEntries(measured.engine) },
    };
  });
}
