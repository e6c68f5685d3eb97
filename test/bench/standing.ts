/** What protection costs while nothing happens, and whether eight guests at once keep their latency bound. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { round } from "../lab/clients/figures.ts";
import { type Cluster, type GuestView } from "../lab/cluster.ts";
import { withLab, type Lab } from "../lab/hosts.ts";
import { pairHosts, type PlacedGuest } from "../lab/placement.ts";
import { samplesOf, type Bench, type Load } from "./bench.ts";
import { readProcessorSeconds, type ProcessorShares } from "./processor-time.ts";
import { type EngineSamples } from "./samples.ts";
import { quantilesOf, type Figure, type Quantiles } from "./row.ts";

const idleSeconds = 30;
const crowdSeconds = 30;
const crowdCount = 8;
const crowdBoundMs = 50;
const processorPercentMax = 3;
const residentMebibytesMax = 120;

type Consumer = { readonly name: string; readonly pid: number };

export function measureIdle(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const guest = bench.place(lab, "busybox", "idler");
    const cluster = await bench.protect(lab, [guest]);
    await sleep(bench.durationMs(10));
    const consumers = await listConsumers(cluster, guest.name);
    const before = consumers.map(({ pid }) => readProcessorSeconds(pid));
    const fromMs = performance.now();
    await sleep(bench.durationMs(idleSeconds));
    const seconds = (performance.now() - fromMs) / 1000;
    const used = consumers.map(({ name, pid }, index) => ({
      name,
      percent: round((100 * (readProcessorSeconds(pid) - (before[index] ?? NaN))) / seconds),
      residentMebibytes: round(readResidentMebibytes(pid)),
    }));
    return [summarizeProcessor(used), summarizeMemory(used)];
  });
}

type Used = { readonly name: string; readonly percent: number; readonly residentMebibytes: number };

function summarizeProcessor(used: readonly Used[]): Figure {
  const percent = round(used.reduce((sum, one) => sum + one.percent, 0));
  return {
    row: {
      name: "idle protected guest: both engines and both agents, processor",
      unit: "% of a core",
      p50: percent,
      target: `≤ ${processorPercentMax}`,
      met: percent <= processorPercentMax,
      detail: { processes: used },
    },
    samples: { used },
  };
}

function summarizeMemory(used: readonly Used[]): Figure {
  const engines = used.filter(({ name }) => name.startsWith("engine"));
  const { p50, max } = quantilesOf(engines.map(({ residentMebibytes }) => residentMebibytes));
  return {
    row: {
      name: "idle protected guest: resident memory of an engine",
      unit: "MiB",
      p50,
      max,
      target: `≤ ${residentMebibytesMax}`,
      met: max <= residentMebibytesMax,
    },
    samples: { used },
  };
}

async function listConsumers(cluster: Cluster, guest: string): Promise<readonly Consumer[]> {
  const { sides } = await cluster.readGuest(guest);
  return pairHosts.flatMap((host) => [
    { name: `engine ${host}`, pid: present(sides[host]?.enginePid, `the engine on host ${host}`) },
    { name: `agent ${host}`, pid: present(cluster.agents[host].pid, `the agent on host ${host}`) },
  ]);
}

function readResidentMebibytes(pid: number): number {
  const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(present(line?.[1], `resident memory of ${pid}`)) / 1024;
}

export async function measureCrowd(bench: Bench): Promise<Figure[]> {
  const place = (lab: Lab): readonly PlacedGuest[] =>
    Array.from({ length: crowdCount }, (_, index) => bench.place(lab, "busybox", `crowd${index}`, index));
  const load = (lab: Lab, guests: readonly PlacedGuest[]): Promise<Load[]> =>
    Promise.all(guests.map(({ address }) => bench.run(lab, "counted", { host: address, thinkMs: 200 }, crowdSeconds)));
  const alone = await withLab({ say: bench.say }, (lab) => {
    const guests = place(lab);
    return bench.withUnprotected(lab, guests, () => load(lab, guests));
  });
  return withLab({ say: bench.say }, async (lab) => {
    const guests = place(lab);
    const cluster = await bench.protect(lab, guests, { checkpoint: { maxAddedLatencyMs: crowdBoundMs } });
    const outside = new Set<string>();
    const watch = setInterval(() => {
      void cluster.readGuests().then((views) => {
        views.filter(isOutsideBound).forEach(({ name }) => outside.add(name));
      });
    }, 500);
    const fromMs = Date.now();
    const { value: guarded, processor } = await bench.withEngineSamples(lab, guests, () => load(lab, guests));
    clearInterval(watch);
    const interval = { fromMs, toMs: Date.now() };
    const each = await Promise.all(guests.map(({ name }) => bench.readEngineSamples(lab, [name], interval)));
    return [summarizeCrowd(each, { outside: [...outside], processor, alone, guarded })];
  });
}

/** Of all requests of all clients, from asking to the reply. */
const repliesOf = (loads: readonly Load[]): Quantiles =>
  quantilesOf(loads.flatMap(({ samples }) => samples.map(({ value }) => value)));

/** The engine's own word on its contract. */
const isOutsideBound = ({ report }: GuestView): boolean =>
  report?.conditions.some(({ type, status }) => type === "LatencyWithinBound" && status === "False") === true;

type CrowdContext = {
  readonly outside: readonly string[];
  readonly processor: ProcessorShares;
  readonly alone: readonly Load[];
  readonly guarded: readonly Load[];
};

function summarizeCrowd(each: readonly EngineSamples[], context: CrowdContext): Figure {
  const { outside, processor, alone, guarded } = context;
  const phases = ["pause", "stop", "acknowledge"].map(
    (phase) => [phase, quantilesOf(each.flatMap((samples) => [...samplesOf(samples, phase)]))] as const,
  );
  const latencies = each.map((samples) => samplesOf(samples, "addedLatency"));
  const worstP99 = Math.max(...latencies.map((samples) => quantilesOf(samples).p99));
  const { count, ...all } = quantilesOf(latencies.flat());
  return {
    row: {
      name: `added latency of ${crowdCount} protected busybox guests`,
      unit: "ms",
      ...all,
      target: `p99 of each ≤ its bound of ${crowdBoundMs}`,
      met: worstP99 <= crowdBoundMs && outside.length === 0,
      detail: {
        samplesCount: count,
        worstP99,
        saidToBeOutside: outside,
        phases: Object.fromEntries(phases),
        // The same eight clients wait for the two processors without protection too.
        unprotectedReplies: repliesOf(alone),
        protectedReplies: repliesOf(guarded),
        processor,
      },
    },
    samples: { addedLatencyMs: latencies },
  };
}
