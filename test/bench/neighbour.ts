/**
 * What a guest that changes much memory costs another one on the same two hosts: over a link that carries less than both want,
 * behind a buffer that fills, first without and then with a share for each.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { round } from "../lab/clients/figures.ts";
import { askGuest } from "../lab/guest-acts.ts";
import { withLab } from "../lab/hosts.ts";
import { type Bench, type Load } from "./bench.ts";
import { quantilesOf, type Figure, type Quantiles } from "./row.ts";

const seconds = 20;
const settleMs = 10_000;
const linkMiBPerSecond = 10;
const boundMs = 50;

export function measureNeighbour(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const guests = [bench.place(lab, "busybox", "quiet"), bench.place(lab, "busybox", "loud", 1)] as const;
    const [quiet, loud] = guests;
    lab.fillBuffers("a");
    const checkpoint = { maxAddedLatencyMs: boundMs };
    const cluster = await bench.protect(lab, guests, { checkpoint, failover: { detectionTimeoutMs: 5_000 } });
    for (const network of ["replication1", "replication2"] as const) {
      lab.narrowLink(network, { mibPerSecond: linkMiBPerSecond, bufferMs: 300 });
    }
    const measure = async (): Promise<Load> => {
      await sleep(settleMs);
      return bench.run(lab, "counted", { host: quiet.address, memoryOnly: true, thinkMs: 10 }, seconds);
    };
    const alone = await measure();
    await askGuest(lab, loud, "churn 16", 60_000);
    const beside = await measure();
    const linkCapacity = { ownMiBPerSecond: linkMiBPerSecond, peerMiBPerSecond: linkMiBPerSecond };
    guests.forEach(({ name }) => {
      cluster.reassign(name, { checkpoint, linkCapacity });
    });
    const held = await measure();
    return compare({ alone, beside, held });
  });
}

type Loads = { readonly alone: Load; readonly beside: Load; readonly held: Load };

function compare({ alone, beside, held }: Loads): Figure[] {
  const base = waitsOf(alone);
  const [free, shared] = [waitsOf(beside), waitsOf(held)];
  const [addedFree, addedShared] = [addedTo(base, free), addedTo(base, shared)];
  const detail = { alone: base, besideLoud: free, besideHeld: shared };
  const samples = { alone: alone.samples, besideLoud: beside.samples, besideHeld: held.samples };
  const name = "added to a guest's requests by a loud neighbour";
  return [
    {
      row: {
        ...{ name: `${name} held to its share of the link`, unit: "ms", ...addedShared, detail },
        target: `p99 ≤ ${boundMs}, the guest's bound`,
        met: addedShared.p99 <= boundMs,
      },
      samples,
    },
    {
      row: {
        ...{ name: `${name} without shares`, unit: "ms", ...addedFree, detail },
        target: "p99 above that with shares, or shares are worth nothing",
        met: addedFree.p99 > addedShared.p99,
      },
      samples,
    },
  ];
}

const waitsOf = ({ samples }: Load): Quantiles => quantilesOf(samples.map(({ value }) => value));

const addedTo = (base: Quantiles, other: Quantiles): Pick<Quantiles, "p50" | "p99" | "max"> => ({
  p50: round(other.p50 - base.p50),
  p99: round(other.p99 - base.p99),
  max: round(other.max - base.max),
});
