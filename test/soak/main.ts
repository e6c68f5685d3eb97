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
import { assert } from "../../src/lib/assert.ts";
import { checkTraces, createCluster, type Cluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab, type Lab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { placeGuest, type PlacedGuest } from "../lab/placement.ts";
import { roundNames } from "./catalogue.ts";
import { SoakClients } from "./clients.ts";
import { type FaultName } from "./fault.ts";
import { FaultyDisks } from "./faulty-disks.ts";
import { quorumVolumeBytes, quorumVolumeOf } from "./faults.ts";
import { listLines, planReport } from "./report.ts";
import { Soak, type SoakOutcome } from "./soak.ts";

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
const unknown = chosen?.find((name) => !roundNames.includes(name));
assert(unknown === undefined, `there is no fault ${unknown ?? ""}: ${roundNames.join(", ")}`);
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
  // A QEMU that goes through the page cache never gets past a flush that failed (src/engine/disk-stop.ts).
  const options = { directDisk: true };
  const rich = { disksCount: 2, nicsCount: 2, options: { ...options, vcpuCount: 2, display: true } };
  return [
    placeGuest(lab, { name: "plain", kind: "busybox", image, index: 0, options }, "a"),
    placeGuest(lab, { name: "rich", kind: "busybox", image, index: 1, ...rich }, "a"),
  ];
}

async function runSoak(lab: Lab, signal: AbortSignal): Promise<boolean> {
  const traceDirectory = join(directory, "traces");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(traceDirectory, { recursive: true });
  const guests = await placeGuests(lab);
  const disks = await FaultyDisks.insert(lab, guests);
  lab.mountVolume(quorumVolumeOf({ lab }), quorumVolumeBytes);
  const options = { guests, firstPrimary: "a", uplinks: ["guest"], traceDirectory, environment } as const;
  const cluster = await createCluster(lab, options);
  try {
    return await soakCluster(cluster, disks, signal);
  } finally {
    cluster.saveLogs(join(directory, "logs"));
    say(`logs and traces are in ${directory}`);
  }
}

async function soakCluster(cluster: Cluster, disks: FaultyDisks, signal: AbortSignal): Promise<boolean> {
  say(`seed ${seed}, ${killsMax} faults; starting ${cluster.guests.length} guests`);
  cluster.start();
  await Promise.all(cluster.guests.map((guest) => waitForGuest(guest, 300_000)));
  await cluster.waitUntilProtected(300_000);
  const clients = new SoakClients(cluster);
  clients.start();
  const chosenFaults = chosen === undefined ? {} : { faults: chosen };
  const outcome = await new Soak({ cluster, disks, clients, killsMax, seed, say, signal, ...chosenFaults }).run();
  say("the clients finish and check everything they were ever told");
  const missingOnDisk = await clients.stop();
  await cluster.stop();
  return report(outcome, clients, missingOnDisk);
}

async function report(outcome: SoakOutcome, clients: SoakClients, missingOnDisk: readonly string[]): Promise<boolean> {
  const traces = await checkTraces(join(directory, "traces"));
  const seconds = Math.round((Date.now() - startedAtMs) / 1000);
  const summary = planReport(outcome, clients.results, { seed, seconds, missingOnDisk, traces });
  const path = flags.json ?? join(directory, "result.json");
  mkdirSync(dirname(resolve(path)), { recursive: true });
  writeFileSync(path, JSON.stringify(summary, null, 2));
  const { passed, clients: verdicts, clientFaults } = summary;
  listLines(summary, clients.results).forEach(say);
  traces.lines.forEach(say);
  clientFaults.slice(0, 10).forEach((fault) => {
    say(JSON.stringify(fault));
  });
  missingOnDisk.slice(0, 10).forEach(say);
  say(
    `${passed ? "passed" : "FAILED"}: ${summary.faultsInjected} faults, ${verdicts.replies} replies, lost ${verdicts.lost}, ` +
      `duplicated ${verdicts.duplicated}, reordered ${verdicts.reordered}, broken ${verdicts.broken}, ` +
      `${verdicts.survived} of ${verdicts.connections} connections survived, ${summary.disksCompared} disk comparisons; ` +
      `${clients.doomedReplies} replies of guests that were to boot, all on their disks`,
  );
  if (!passed) {
    say(`again: make soak KILLS=${killsMax} SEED=${seed}`);
  }
  return passed;
}

const isGood = await withLab({ say }, runSoak);
process.exitCode = isGood ? 0 : 1;
