/** The small guest: its pauses, and what protection adds to a request that is answered after a synced write. */
import { withLab } from "../lab/hosts.ts";
import { round } from "../lab/clients/figures.ts";
import { type Bench, type Load } from "./bench.ts";
import { summarizePause } from "./pause.ts";
import { quantilesOf, type Figure } from "./row.ts";

const seconds = 20;
const warmUpSeconds = 4;

export function measureRequestReply(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const bare = bench.place(lab, "busybox", "bare");
    const alone = await bench.withUnprotected(lab, [bare], async () => {
      await bench.run(lab, "counted", { host: bare.address }, warmUpSeconds);
      return bench.run(lab, "counted", { host: bare.address }, seconds);
    });
    const guest = bench.place(lab, "busybox", "small", 1);
    await bench.protect(lab, [guest]);
    await bench.run(lab, "counted", { host: guest.address }, warmUpSeconds);
    const measured = await bench.withEngineSamples(lab, [guest], () =>
      bench.run(lab, "counted", { host: guest.address }, seconds),
    );
    return [
      summarizePause("pause per epoch, busybox guest", measured, { p50Ms: 4, p99Ms: 10, epochsPerSecond: 20 }),
      compareLatency(alone, measured.value),
    ];
  });
}

/**
 * Added at a quantile: the protected quantile less the unprotected one. Both are held against the unprotected median: the
 * wider the unprotected distribution is, the harder that makes nothing.
 */
function compareLatency(alone: Load, guarded: Load): Figure {
  const [before, after] = [alone, guarded].map(({ samples }) => quantilesOf(samples.map(({ value }) => value)));
  const base = before ?? quantilesOf([]);
  const added = {
    p50: round((after?.p50 ?? NaN) - base.p50),
    p99: round((after?.p99 ?? NaN) - base.p99),
    max: round((after?.max ?? NaN) - base.max),
  };
  return {
    row: {
      name: "added latency, one client, request-reply with a synced write",
      unit: "ms",
      ...added,
      unprotected: base.p50,
      ratio: round(added.p50 / base.p50),
      target: "p50 ≤ 0.6 ×, p99 ≤ 1.5 × the unprotected latency",
      met: added.p50 <= 0.6 * base.p50 && added.p99 <= 1.5 * base.p50,
      detail: { unprotectedQuantiles: base, protectedQuantiles: after, ratioP99: round(added.p99 / base.p50) },
    },
    samples: { unprotected: alone.samples, protected: guarded.samples },
  };
}
