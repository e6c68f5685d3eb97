/**
 * How long nobody runs the guest when its QEMU dies, and when its host falls silent. Measured on the hosts' clock from the
 * strike to the running guest; clients that check every reply stand by.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../src/lib/assert.ts";
import { Random } from "../../src/lib/random.ts";
import { type Cluster, type Takeover } from "../lab/cluster.ts";
import { withLab } from "../lab/hosts.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { otherHost, type PairHost } from "../lab/placement.ts";
import { type Bench } from "./bench.ts";
import { quantilesOf, type Figure } from "./row.ts";

const takeoverTimeoutMs = 30_000;
const protectTimeoutMs = 120_000;
const guestName = "mover";

type Fault = {
  readonly name: string;
  readonly times: number;
  readonly targetMs: number;
  readonly strike: (cluster: Cluster, host: PairHost) => Promise<number>;
  readonly mend: (cluster: Cluster, host: PairHost) => void;
};

const faults: readonly Fault[] = [
  {
    name: "takeover after death of the process",
    times: 30,
    targetMs: 100,
    strike: (cluster, host) => cluster.killQemu(host, guestName),
    mend: () => undefined,
  },
  {
    name: "takeover after silence of the host, detection included",
    times: 12,
    targetMs: 1000,
    strike: (cluster, host) => cluster.powerOff(host),
    mend: (cluster, host) => {
      cluster.powerOn(host);
    },
  },
];

export async function measureTakeovers(bench: Bench): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const fault of faults) {
    figures.push(await measureFault(bench, fault));
  }
  return figures;
}

function measureFault(bench: Bench, fault: Fault): Promise<Figure> {
  return withLab({ say: bench.say }, async (lab) => {
    const guest = bench.place(lab, "busybox", guestName);
    const cluster = await bench.protect(lab, [guest]);
    const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
    const random = new Random(1);
    const takeovers: Takeover[] = [];
    for (let time = 0; time < bench.count(fault.times); time += 1) {
      await cluster.waitUntilProtected(protectTimeoutMs);
      await sleep(500 + random.below(500));
      takeovers.push(await strikeOnce(cluster, fault));
      bench.say(`  ${fault.name}: ${takeovers.at(-1)?.totalMs ?? 0} ms`);
    }
    const verdicts = sumVerdicts(await stopWitnesses(witnesses));
    assert(isFlawless(verdicts), `clients saw faults: ${JSON.stringify(verdicts)}`);
    return summarize(fault, takeovers, verdicts.replies);
  });
}

async function strikeOnce(cluster: Cluster, fault: Fault): Promise<Takeover> {
  const { primary } = await cluster.readGuest(guestName);
  const victim = present(primary, "a primary");
  const heir = otherHost(victim);
  const atMs = await fault.strike(cluster, victim);
  await cluster.waitFor(
    `the guest runs on host ${heir}`,
    () => cluster.findTakeover(heir, guestName, atMs) !== undefined,
    takeoverTimeoutMs,
  );
  fault.mend(cluster, victim);
  return present(cluster.findTakeover(heir, guestName, atMs), "a takeover");
}

function summarize(fault: Fault, takeovers: readonly Takeover[], repliesCount: number): Figure {
  const { count, ...total } = quantilesOf(takeovers.map(({ totalMs }) => totalMs));
  const detection = quantilesOf(takeovers.map(({ detectionMs }) => detectionMs));
  const switching = quantilesOf(takeovers.map(({ totalMs, detectionMs }) => totalMs - detectionMs));
  return {
    row: {
      name: fault.name,
      unit: "ms",
      ...total,
      target: `p99 ≤ ${fault.targetMs}`,
      met: total.p99 <= fault.targetMs,
      detail: { takeoversCount: count, detection, withoutDetection: switching, repliesChecked: repliesCount },
    },
    samples: { takeovers },
  };
}
