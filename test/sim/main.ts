/**
 * Runs simulations.
 *
 * usage: node test/sim/main.ts --seed N                              one run, with a log to read
 *        node test/sim/main.ts --seeds N [--from M] [--workers W]    many; prints the first failing seeds and how to replay
 *
 * Exit status 1 when a run violates what must hold.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { parseArgs } from "node:util";
import { type Counts, zeroCounts } from "./checks.ts";
import { type Outcome, World, type WorldOptions } from "./world.ts";

type Totals = Counts & { seeds: number; events: number; faults: number; replies: number; virtualMs: number };
type Failed = { readonly seed: number; readonly violation: string };
type Batch = {
  readonly totals: Totals;
  readonly failed: readonly Failed[];
  readonly slowestMs: number;
  readonly outageMs: number;
};
type Range = { readonly from: number; readonly count: number };

/** Two of three seeds are of FaultTolerant alone; of the others half are of HighAvailability, half of both in turn. */
function worldOf(seed: number, options: WorldOptions = {}): World {
  const isHighlyAvailable = seed % 3 === 0;
  const mode = isHighlyAvailable ? "HighAvailability" : "FaultTolerant";
  return new World(seed, { ...options, mode, changesMode: isHighlyAvailable && seed % 2 === 0 });
}

const FAILURES_SHOWN = 10;
const BATCH_SEEDS = 50;

const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

function runSeeds({ from, count }: Range): Batch {
  const totals = zeroTotals();
  const failed: Failed[] = [];
  let slowestMs = 0;
  let outageMs = 0;
  for (let seed = from; seed < from + count; seed += 1) {
    const outcome = worldOf(seed).run();
    addOutcome(totals, outcome);
    slowestMs = Math.max(slowestMs, outcome.recoveredMs ?? 0);
    outageMs = Math.max(outageMs, outcome.outageMs);
    if (outcome.violation !== undefined) {
      failed.push({ seed, violation: outcome.violation });
    }
  }
  return { totals, failed, slowestMs, outageMs };
}

function zeroTotals(): Totals {
  return { ...zeroCounts, seeds: 0, events: 0, faults: 0, replies: 0, virtualMs: 0 };
}

function addOutcome(totals: Totals, outcome: Outcome): void {
  totals.seeds += 1;
  for (const key of Object.keys(totals) as (keyof Totals)[]) {
    if (key !== "seeds") {
      totals[key] += outcome[key];
    }
  }
}

/** Batches go to whoever is free. */
async function runMany(seeds: number, from: number, workersCount: number): Promise<readonly Batch[]> {
  const batches: Batch[] = [];
  let next = from;
  const take = (): Range | undefined => {
    const count = Math.min(BATCH_SEEDS, from + seeds - next);
    const range = { from: next, count };
    next += count;
    return count > 0 ? range : undefined;
  };
  const runWorker = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL(import.meta.url), { workerData: "sim" });
      const feed = (): void => {
        const range = take();
        if (range === undefined) {
          void worker.terminate().then(() => {
            resolve();
          });
        } else {
          worker.postMessage(range);
        }
      };
      worker.on("message", (batch: Batch) => {
        batches.push(batch);
        feed();
      });
      worker.on("error", reject);
      feed();
    });
  await Promise.all(Array.from({ length: workersCount }, runWorker));
  return batches;
}

function report(batches: readonly Batch[], seconds: number): number {
  const totals = zeroTotals();
  for (const batch of batches) {
    for (const key of Object.keys(totals) as (keyof Totals)[]) {
      totals[key] += batch.totals[key];
    }
  }
  const failed = batches.flatMap((batch) => batch.failed).sort((one, other) => one.seed - other.seed);
  for (const { seed, violation } of failed.slice(0, FAILURES_SHOWN)) {
    print(`seed ${seed}: ${violation.split("\n")[0] ?? ""}\n  replay: node test/sim/main.ts --seed ${seed}`);
  }
  const slowestMs = Math.max(0, ...batches.map((batch) => batch.slowestMs));
  const outageMs = Math.max(0, ...batches.map((batch) => batch.outageMs));
  const { seeds, faults, takeovers, switchovers, coldBoots, lossyBoots, virtualMs } = totals;
  const hours = (virtualMs / 3_600_000).toFixed(1);
  print(`${seeds} seeds in ${seconds.toFixed(1)} s (${(seeds / seconds).toFixed(0)}/s): ${hours} h of virtual time,`);
  print(`  ${totals.events} events, ${faults} faults, ${totals.epochs} epochs, ${totals.replies} replies`);
  print(
    `  ${takeovers} takeovers (${switchovers} planned), ${totals.deltas} delta and ${totals.fullCopies} full copies`,
  );
  print(`  ${coldBoots} boots from disk (unprotected, or two faults); ${lossyBoots} of a disk that lagged behind`);
  print(
    `  slowest return of protection ${inSeconds(slowestMs)}, longest wait of a client after one fault ${inSeconds(outageMs)}`,
  );
  print(failed.length === 0 ? "all hold" : `${failed.length} seeds FAILED`);
  return failed.length === 0 ? 0 : 1;
}

function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function runOne(seed: number): number {
  const { violation, ...figures } = worldOf(seed, { log: print }).run();
  print(JSON.stringify({ ...figures, traces: undefined }));
  if (violation !== undefined) {
    print(`seed ${seed} FAILED: ${violation}`);
    return 1;
  }
  return 0;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      seeds: { type: "string" },
      from: { type: "string", default: "1" },
      workers: { type: "string", default: "2" },
    },
  });
  if (values.seed !== undefined) {
    return runOne(Number(values.seed));
  }
  const startedMs = performance.now();
  const batches = await runMany(Number(values.seeds ?? "1000"), Number(values.from), Number(values.workers));
  return report(batches, (performance.now() - startedMs) / 1000);
}

if (isMainThread) {
  process.exitCode = await main();
} else if (workerData === "sim") {
  parentPort?.on("message", (range: Range) => {
    parentPort?.postMessage(runSeeds(range));
  });
}
