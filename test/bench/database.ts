/** The large guest, a whole Debian with PostgreSQL and Redis: its first copy, its pauses, what its databases still do. */
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../src/lib/assert.ts";
import { round } from "../lab/clients/figures.ts";
import { runPgbench } from "../lab/clients/pgbench.ts";
import { measureStream } from "../lab/clients/stream.ts";
import { type Cluster } from "../lab/cluster.ts";
import { withLab, type Lab } from "../lab/hosts.ts";
import { type PlacedGuest } from "../lab/placement.ts";
import { samplesOf, type Bench, type Load, type Measured } from "./bench.ts";
import { summarizePause } from "./pause.ts";
import { countPerSecond } from "./samples.ts";
import { quantilesOf, type Figure } from "./row.ts";

const seconds = 20;
const streamBytes = 1024 * 1024 * 1024;
const copyTimeoutMs = 300_000;
const mebibyte = 1024 * 1024;

type Pgbench = { readonly tps: number; readonly perSecond: readonly number[]; readonly latenciesMs: readonly number[] };

export function measureDatabase(bench: Bench): Promise<Figure[]> {
  return withLab({ say: bench.say }, async (lab) => {
    const bare = bench.place(lab, "debian", "bare");
    const alone = await bench.withUnprotected(lab, [bare], () => loadAll(bench, lab, bare, false));
    const stream = await measureStream(lab, ["a", "b"], "replication1", streamBytes);
    bench.say(`raw TCP stream between the hosts: ${stream.mebibytesPerSecond.toFixed(0)} MiB/s`);

    const guest = bench.place(lab, "debian", "shop", 1);
    const cluster = await bench.prepare(lab, [guest], {});
    const copy = await measureFirstCopy(bench, cluster, guest);
    const guarded = await loadAll(bench, lab, guest, true);
    return [
      summarizePause(
        "pause per epoch, Debian q35 guest under pgbench",
        present(guarded.pgbenchTwo.profile, "a profile"),
        {
          p50Ms: 6,
          p99Ms: 15,
          epochsPerSecond: 0,
        },
      ),
      compareRedisLatency(alone.redisOne, guarded.redisOne),
      compareRedisRate(alone.redisFifty, guarded.redisFifty),
      comparePgbench(2, alone.pgbenchTwo, guarded.pgbenchTwo),
      comparePgbench(8, alone.pgbenchEight, guarded.pgbenchEight),
      compareCopy(copy, stream.mebibytesPerSecond),
    ];
  });
}

/** A load, and beside a protected guest what its engine and the machine did meanwhile. */
type Run<T> = { readonly value: T; readonly profile?: Measured<T> };

type Loads = {
  readonly redisOne: Run<Load>;
  readonly redisFifty: Run<Load>;
  readonly pgbenchTwo: Run<Pgbench>;
  readonly pgbenchEight: Run<Pgbench>;
};

async function loadAll(bench: Bench, lab: Lab, guest: PlacedGuest, isProtected: boolean): Promise<Loads> {
  const host = guest.address;
  const observe = async <T>(body: () => Promise<T>): Promise<Run<T>> => {
    if (!isProtected) {
      return { value: await body() };
    }
    const profile = await bench.withEngineSamples(lab, [guest], body);
    return { value: profile.value, profile };
  };
  const redis = (connectionsCount: number): Promise<Load> =>
    bench.run(lab, "redis", { host, mode: "set", session: `bench-${Date.now()}`, connectionsCount }, seconds);
  await pgbench(bench, lab, { host, clientsCount: 2, seconds: 4 }); // Fills the caches of the database.
  return {
    redisOne: await observe(() => redis(1)),
    redisFifty: await observe(() => redis(50)),
    pgbenchTwo: await observe(() => pgbench(bench, lab, { host, clientsCount: 2, seconds })),
    pgbenchEight: await observe(() => pgbench(bench, lab, { host, clientsCount: 8, seconds })),
  };
}

/** What explains a figure of a protected guest. */
function explain({ profile }: Run<unknown>): Readonly<Record<string, unknown>> {
  const { engine, seconds: duration, processor } = present(profile, "a profile");
  const pause = quantilesOf(samplesOf(engine, "pause"));
  return { pause, epochsPerSecond: round(pause.count / duration), processor };
}

type PgbenchLoad = { readonly host: string; readonly clientsCount: number; readonly seconds: number };

async function pgbench(bench: Bench, lab: Lab, load: PgbenchLoad): Promise<Pgbench> {
  const perSecond: number[] = [];
  const result = await runPgbench(lab, {
    host: load.host,
    clientsCount: load.clientsCount,
    durationSeconds: Math.round(bench.durationMs(load.seconds) / 1000),
    onProgress: ({ tps }) => perSecond.push(tps),
  });
  const { samplesMs, ...summary } = result;
  assert(result.transactionsCount > 0, "pgbench got no transaction through: too short a run, or too busy a machine");
  assert(summary.lostCount === 0 && summary.sumsAgree && summary.failedCount === 0, JSON.stringify(summary));
  return { tps: result.tps, perSecond, latenciesMs: samplesMs };
}

type FirstCopy = { readonly ms: number; readonly sentBytes: number; readonly mebibytesPerSecond: number };

/** The guest runs alone at first; then its standby's host comes, and everything is copied while the guest runs. */
async function measureFirstCopy(bench: Bench, cluster: Cluster, guest: PlacedGuest): Promise<FirstCopy> {
  cluster.startQuorum();
  cluster.startAgent("a");
  await bench.waitForServices(cluster.lab, guest);
  cluster.startAgent("b");
  await cluster.waitUntilProtected(copyTimeoutMs);
  await sleep(1200); // The next report has the bytes of all of the copy.
  const { report } = await cluster.readGuest(guest.name);
  const { sentBytes, diskBytes } = present(report, "a report").checkpoint;
  cluster.readTransitions();
  const steps = cluster.transitions.a.all;
  const began = present(
    steps.find(({ to }) => to === "syncing"),
    "the beginning of the copy",
  );
  const ended = present(
    steps.find(({ to }) => to === "protected"),
    "the end of the copy",
  );
  const ms = ended.atMs - began.atMs;
  const bytes = sentBytes + diskBytes;
  return { ms, sentBytes: bytes, mebibytesPerSecond: round(bytes / mebibyte / (ms / 1000)) };
}

function compareCopy(copy: FirstCopy, streamMebibytesPerSecond: number): Figure {
  const ratio = round(copy.mebibytesPerSecond / streamMebibytesPerSecond);
  return {
    row: {
      name: "first copy, guest of 768 MiB with a 3 GiB disk",
      unit: "MiB/s",
      p50: copy.mebibytesPerSecond,
      unprotected: round(streamMebibytesPerSecond),
      ratio,
      target: "≥ 0.5 × one raw TCP stream",
      met: ratio >= 0.5,
      detail: { copyMs: copy.ms, sentMebibytes: round(copy.sentBytes / mebibyte) },
    },
    samples: { copy, streamMebibytesPerSecond },
  };
}

function compareRedisLatency({ value: alone }: Run<Load>, run: Run<Load>): Figure {
  const guarded = run.value;
  const values = (load: Load): number[] => load.samples.map(({ value }) => value);
  const { count, ...latency } = quantilesOf(values(guarded));
  const before = quantilesOf(values(alone));
  return {
    row: {
      name: "redis SET, one client",
      unit: "ms",
      ...latency,
      unprotected: before.p50,
      ratio: round(latency.p50 / before.p50),
      target: "p50 ≤ 8, p99 ≤ 15",
      met: latency.p50 <= 8 && latency.p99 <= 15,
      detail: { repliesCount: count, unprotectedQuantiles: before, ...explain(run) },
    },
    samples: { unprotected: alone.samples, protected: guarded.samples },
  };
}

function compareRedisRate({ value: alone }: Run<Load>, run: Run<Load>): Figure {
  const guarded = run.value;
  const [before, after] = [alone.result.perSecond, guarded.result.perSecond];
  const { p50, max } = quantilesOf(countPerSecond(guarded.samples));
  return {
    row: {
      name: "redis SET, 50 clients",
      unit: "per s",
      p50,
      max,
      unprotected: before,
      ratio: round(after / before),
      target: "≥ 0.55 × unprotected",
      met: after / before >= 0.55,
      detail: {
        mean: after,
        latencyMs: guarded.result.latency,
        unprotectedLatencyMs: alone.result.latency,
        ...explain(run),
      },
    },
    samples: {
      unprotectedPerSecond: countPerSecond(alone.samples),
      protectedPerSecond: countPerSecond(guarded.samples),
      protectedMs: guarded.samples.map(({ value }) => value),
    },
  };
}

function comparePgbench(clientsCount: number, { value: alone }: Run<Pgbench>, run: Run<Pgbench>): Figure {
  const guarded = run.value;
  const { p50, max } = quantilesOf(guarded.perSecond);
  const ratio = round(guarded.tps / alone.tps);
  return {
    row: {
      name: `pgbench, ${clientsCount} clients`,
      unit: "tps",
      p50,
      max,
      unprotected: alone.tps,
      ratio,
      target: "≥ 0.35 × unprotected",
      met: ratio >= 0.35,
      detail: {
        mean: guarded.tps,
        latencyMs: quantilesOf(guarded.latenciesMs),
        unprotectedLatencyMs: quantilesOf(alone.latenciesMs),
        ...explain(run),
      },
    },
    samples: { unprotected: alone, protected: guarded },
  };
}
