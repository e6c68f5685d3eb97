/**
 * A planned switchover on two hosts, back and forth: the longest that a client of the guest waits for a reply. On a cluster see
 * cluster.ts.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../src/lib/assert.ts";
import { startClient } from "../lab/clients/client-process.ts";
import { type Cluster } from "../lab/cluster.ts";
import { withLab } from "../lab/hosts.ts";
import { otherHost } from "../lab/placement.ts";
import { type Bench } from "./bench.ts";
import { type Interval, longestWaitIn, readClientSamples } from "./samples.ts";
import { quantilesOf, type Figure } from "./row.ts";

const switchoversCount = 30;
const switchoverTimeoutMs = 30_000;
const protectTimeoutMs = 120_000;
const targetMs = 250;
const guestName = "mover";

export function measureSwitchovers(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const guest = bench.place(lab, "busybox", guestName);
    const cluster = await bench.protect(lab, [guest]);
    const samplesPath = join(lab.logDirectory, "switchover.samples");
    const client = startClient(lab, "counted", { host: guest.address, connectionsCount: 4, thinkMs: 20, samplesPath });
    const spans: Interval[] = [];
    for (let time = 0; time < bench.count(switchoversCount); time += 1) {
      await cluster.waitUntilProtected(protectTimeoutMs);
      await sleep(bench.durationMs(3));
      spans.push(await switchOver(cluster));
    }
    await sleep(1_000);
    const { faults, repliesCount } = await client.stop();
    assert(faults.length === 0, `clients saw faults: ${JSON.stringify(faults)}`);
    const samples = readClientSamples(samplesPath);
    const gaps = spans.map((span) => longestWaitIn(samples, span));
    bench.say(`  switchovers: ${gaps.join(", ")} ms`);
    const { count, ...figures } = quantilesOf(gaps);
    return [
      {
        row: {
          name: "switchover, the longest wait of a client",
          unit: "ms",
          ...figures,
          target: `p99 ≤ ${targetMs}`,
          met: figures.p99 <= targetMs,
          detail: { switchoversCount: count, repliesChecked: repliesCount },
        },
        samples: { spans, gaps },
      },
    ];
  });
}

async function switchOver(cluster: Cluster): Promise<Interval> {
  const { primary } = await cluster.readGuest(guestName);
  const from = present(primary, "a primary");
  const heir = otherHost(from);
  const fromMs = performance.timeOrigin + performance.now();
  const answer = await cluster.switchOver(from, guestName);
  assert(answer.accepted, answer.message);
  await cluster.waitFor(
    `the guest runs on host ${heir}`,
    () => cluster.findTakeover(heir, guestName, fromMs) !== undefined,
    switchoverTimeoutMs,
  );
  return { fromMs, toMs: performance.timeOrigin + performance.now() };
}
