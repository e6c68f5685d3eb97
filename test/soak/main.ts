/**
 * `make soak KILLS=n [SEED=s]`: see soak.ts.
 *
 *   node test/soak/main.ts [--kills N] [--seed N] [--faults NAME,NAME] [--json FILE] [--directory DIRECTORY]
 *
 * DIRECTORY (build/soak) gets the traces of the engines, and the logs of everything. Exit status 1 after a violation.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { assert, present } from "../../src/lib/assert.ts";
import { checkTraces, createCluster, type Cluster, type TraceVerdict } from "../lab/cluster.ts";
import { findMissingInImage } from "../lab/clients/synced-disk.ts";
import { summarizeLatencies, type LatencyFigures } from "../lab/clients/figures.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab, type Lab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { findLongestWait, startWitnesses, stopWitnesses, sumVerdicts, type WitnessResult } from "../lab/load.ts";
import { placeGuest, type PlacedGuest } from "../lab/placement.ts";
import { faultNames, type FaultName } from "./faults.ts";
import { Soak, type Kill, type SoakOutcome } from "./soak.ts";

const { values: flags } = parseArgs({
  options: {
    kills: { type: "string", default: "30" },
    seed: { type: "string" },
    faults: { type: "string" },
    json: { type: "string" },
    directory: { type: "string", default: "build/soak" },
  },
});
const seed = Number(flags.seed ?? Math.floor(Math.random() * 1_000_000));
const killsMax = Number(flags.kills);
const chosen = flags.faults?.split(",") as readonly FaultName[] | undefined;
const unknown = chosen?.find((name) => !faultNames.includes(name));
assert(unknown === undefined, `there is no fault ${unknown ?? ""}: ${faultNames.join(", ")}`);
assert(Number.isInteger(seed) && Number.isInteger(killsMax), "--kills and --seed are whole numbers");
const directory = resolve(flags.directory);
const startedAtMs = Date.now();

const say = (line: string): void => {
  process.stdout.write(`[${((Date.now() - startedAtMs) / 1000).toFixed(1).padStart(7)} s] ${line}\n`);
};

/** Lets the engines die at named steps. */
const environment = { TWINRUN_FAIL_POINTS: "1" };

/** A plain guest, and one with more of everything: vCPUs, disks, NICs and a display. */
async function placeGuests(lab: Lab): Promise<PlacedGuest[]> {
  const image = await provideImage("busybox", say);
  const rich = { disksCount: 2, nicsCount: 2, options: { vcpuCount: 2, display: true } };
  return [
    placeGuest(lab, { name: "plain", kind: "busybox", image, index: 0 }, "a"),
    placeGuest(lab, { name: "rich", kind: "busybox", image, index: 1, ...rich }, "a"),
  ];
}

async function runSoak(lab: Lab, signal: AbortSignal): Promise<boolean> {
  const traceDirectory = join(directory, "traces");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(traceDirectory, { recursive: true });
  const guests = await placeGuests(lab);
  const cluster = await createCluster(lab, { guests, firstPrimary: "a", traceDirectory, environment });
  try {
    return await soakCluster(cluster, signal);
  } finally {
    cluster.saveLogs(join(directory, "logs"));
    say(`logs and traces are in ${directory}`);
  }
}

async function soakCluster(cluster: Cluster, signal: AbortSignal): Promise<boolean> {
  say(`seed ${seed}, ${killsMax} kills; starting ${cluster.guests.length} guests`);
  cluster.start();
  await Promise.all(cluster.guests.map((guest) => waitForGuest(guest, 300_000)));
  await cluster.waitUntilProtected(300_000);
  const options = { connectionsCount: 4, thinkMs: 20, stallMs: 60_000 };
  const witnesses = cluster.guests.flatMap((guest) => startWitnesses(cluster.lab, guest, options));
  const chosenFaults = chosen === undefined ? {} : { faults: chosen };
  const outcome = await new Soak({ cluster, witnesses, killsMax, seed, say, signal, ...chosenFaults }).run();
  say("the clients finish and check everything they were ever told");
  const results = await stopWitnesses(witnesses);
  const views = await cluster.readGuests();
  await cluster.stop();
  const missing = findMissing(cluster, results, (name) => views.find((view) => view.name === name)?.primary ?? "a");
  return report(outcome, results, missing, await checkTraces(join(directory, "traces")));
}

/** The raw image of the side that ran the guest last, read on the host: every acknowledged number must be there. */
function findMissing(
  cluster: Cluster,
  results: readonly WitnessResult[],
  hostOf: (guest: string) => "a" | "b",
): string[] {
  return results.flatMap(({ guest, result }) => {
    const placed = present(
      cluster.guests.find(({ name }) => name === guest),
      guest,
    );
    const paths = placed.specs[hostOf(guest)].disks.map(({ path }) => path);
    return result.acknowledged.flatMap((acknowledged, connection) => {
      const verdict = findMissingInImage(paths, connection, acknowledged);
      return verdict === undefined ? [] : [`${guest}, connection ${connection}: ${verdict.detail}`];
    });
  });
}

function report(
  outcome: SoakOutcome,
  results: readonly WitnessResult[],
  missing: readonly string[],
  traces: TraceVerdict,
): boolean {
  const verdicts = sumVerdicts(results);
  const faultsCount = results.reduce((sum, { result }) => sum + result.faults.length, 0);
  const isGood = outcome.violation === undefined && faultsCount === 0 && missing.length === 0 && traces.accepted;
  const summary = {
    passed: isGood,
    seed,
    kills: outcome.kills.length,
    seconds: Math.round((Date.now() - startedAtMs) / 1000),
    violation: outcome.violation ?? null,
    missingOnDisk: missing,
    traces,
    clients: verdicts,
    disksCompared: outcome.disksComparedCount,
    faults: Object.fromEntries(faultNames.map((name) => [name, summarizeFault(name, outcome.kills, results)])),
    clientFaults: results.flatMap(({ guest, name, result }) =>
      result.faults.map((fault) => ({ guest, name, ...fault })),
    ),
    each: outcome.kills,
  };
  const path = flags.json ?? join(directory, "result.json");
  mkdirSync(dirname(resolve(path)), { recursive: true });
  writeFileSync(path, JSON.stringify(summary, null, 2));
  for (const line of [
    ...summary.clientFaults.slice(0, 10).map((fault) => JSON.stringify(fault)),
    ...missing.slice(0, 10),
  ]) {
    say(line);
  }
  say(
    `${isGood ? "passed" : "FAILED"}: ${summary.kills} kills, ${verdicts.replies} replies, lost ${verdicts.lost}, ` +
      `duplicated ${verdicts.duplicated}, reordered ${verdicts.reordered}, broken ${verdicts.broken}, ` +
      `${verdicts.survived} of ${verdicts.connections} connections survived, ${summary.disksCompared} disk comparisons`,
  );
  if (!isGood) {
    say(`again: make soak KILLS=${killsMax} SEED=${seed}`);
  }
  return isGood;
}

type FaultSummary = {
  readonly count: number;
  readonly takeoverMs: LatencyFigures;
  readonly protectedAfterMs: LatencyFigures;
  readonly clientWaitMs: LatencyFigures;
};

function summarizeFault(name: FaultName, kills: readonly Kill[], results: readonly WitnessResult[]): FaultSummary {
  const own = kills.filter(({ fault }) => fault === name);
  const takeovers = own.flatMap(({ takeover }) => (takeover === undefined ? [] : [takeover.totalMs]));
  const waits = own.map(({ guest, atMs, protectedAfterMs }) =>
    findLongestWait(results, guest, atMs, atMs + 3000 + protectedAfterMs),
  );
  return {
    count: own.length,
    takeoverMs: summarizeLatencies(takeovers),
    protectedAfterMs: summarizeLatencies(own.map(({ protectedAfterMs }) => protectedAfterMs)),
    clientWaitMs: summarizeLatencies(waits),
  };
}

const isGood = await withLab({ say }, runSoak);
process.exitCode = isGood ? 0 : 1;
