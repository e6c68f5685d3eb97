/**
 * Everything `make test` runs after the set-up, stage by stage, cheapest first, with the duration and result of each.
 *
 * Stages go on after one that failed, so that one run shows everything that is wrong. The last line is `N passed, N failed`
 * alone: tests as Jest counts them, and one for each other stage. The exit status is 1 when anything failed, 128 + the signal
 * after a signal (the running stage gets it too and cleans up after itself).
 *
 * usage: node test/main.ts [STAGE...]      when none is named all but those that run on request
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { z } from "zod";
import { faultTable, judgeFault, type SeenTest } from "./fault-table.ts";
import { listLeft, listLeftovers, runMarker } from "./leftovers.ts";

type Stage = {
  readonly name: string;
  readonly command: readonly string[];
  readonly countedBy?: "jest";
  /** Not part of a run that names no stage. */
  readonly onRequest?: true;
  /** One long computation that disturbs nobody: it begins with the first stage, and says what it has to say in its turn. */
  readonly isEarly?: true;
};
type Counts = { readonly passed: number; readonly failed: number; readonly skipped: number };
type Result = Counts & { readonly name: string; readonly seconds: number };

const jestSummary = z.object({
  numPassedTests: z.number(),
  numFailedTests: z.number(),
  numPendingTests: z.number(),
  numRuntimeErrorTestSuites: z.number(),
  testResults: z.array(z.object({ assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })) })),
});

const node = process.execPath;
const jest = (...paths: string[]): string[] => [
  ...[node, "--disable-warning=ExperimentalWarning", "--experimental-vm-modules", "node_modules/jest/bin/jest.js"],
  ...["-c", "config/tools/jest.mjs", ...paths],
];

const root = resolve(import.meta.dirname, "..");

/** Tests that start no guest: two at a time. All others have the machine to themselves. */
const light = "(tidy|fault-table|golden|fuzz|sim|model|traces|scenario|soak)";

const kubernetes = "/test/(lab/kubernetes|chart)/";
const endToEnd = "/test/e2e/";
const endToEndLong = `${endToEnd}long/`;
const integrationLong = "/test/integration/long/";
const labCommand = "/test/lab/kubernetes/lab-command";

const stages: readonly Stage[] = [
  { name: "lint", command: ["make", "--no-print-directory", "lint"] },
  { name: "unit", command: jest(`${root}/src/`, `${root}/test/${light}`, "--maxWorkers=2"), countedBy: "jest" },
  { name: "simulation", command: [node, "test/sim/main.ts", "--seeds", "10000"] },
  {
    name: "integration",
    command: jest(
      `${root}/test/`,
      "--runInBand",
      "--testPathIgnorePatterns",
      ...[`/test/${light}`, kubernetes, endToEnd, integrationLong],
    ),
    countedBy: "jest",
  },
  { name: "model", command: ["nice", node, "test/model/main.ts"], isEarly: true },
  // The same choices every time; make soak draws new ones.
  {
    name: "soak",
    command: [node, "test/soak/main.ts", "--kills", "20", "--seed", "279590", "--directory", "build/soak"],
  },
  { name: "traces", command: [node, "test/traces/main.ts", "build/soak"] },
  {
    name: "kubernetes",
    command: jest(`${root}${kubernetes}`, "--testPathIgnorePatterns", labCommand, "--runInBand"),
    countedBy: "jest",
  },
  {
    name: "e2e",
    command: jest(`${root}${endToEnd}`, "--testPathIgnorePatterns", endToEndLong, "--runInBand"),
    countedBy: "jest",
  },
  {
    name: "integration-long",
    command: jest(`${root}${integrationLong}`, "--runInBand"),
    countedBy: "jest",
    onRequest: true,
  },
  {
    name: "e2e-long",
    command: jest(`${root}(${endToEndLong}|${labCommand})`, "--runInBand"),
    countedBy: "jest",
    onRequest: true,
  },
];

const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

const run = randomUUID();
const environment = { ...process.env, [runMarker]: run };
const leftBefore = listLeft(run);
const seenTests: SeenTest[] = [];
const running = new Set<ChildProcess>();

type Ended = { readonly status: number; readonly output: string };

/** What it says is shown as it comes, or kept. */
function runCommand([program = "", ...args]: readonly string[], shows: "now" | "later" = "now"): Promise<Ended> {
  return new Promise((resolve) => {
    const stdio = shows === "now" ? "inherit" : "pipe";
    const child = spawn(program, args, { cwd: root, env: environment, stdio: ["ignore", stdio, stdio] });
    running.add(child);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        output += text;
      });
    }
    const end = (status: number): void => {
      running.delete(child);
      resolve({ status, output });
    };
    child
      .on("error", (error) => {
        output += `${error.message}\n`;
        end(-1);
      })
      .on("close", (status) => {
        end(status ?? -1);
      });
  });
}

async function runStage(stage: Stage, early: Promise<Ended> | undefined): Promise<Counts> {
  if (stage.countedBy === undefined) {
    const { status, output } = await (early ?? runCommand(stage.command));
    process.stdout.write(output);
    const passed = status === 0;
    return { passed: Number(passed), failed: Number(!passed), skipped: 0 };
  }
  const directory = mkdtempSync(join(tmpdir(), "twinrun-test-"));
  try {
    const summary = join(directory, "jest.json");
    const { status, output } = await runCommand([...stage.command, "--json", `--outputFile=${summary}`]);
    process.stdout.write(output);
    return countTests(summary, status);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** A run that failed without a failed test (a file that does not load, no test found, a crash) counts as one failure. */
function countTests(summaryPath: string, status: number): Counts {
  const counts = readCounts(summaryPath);
  return status !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts;
}

function readCounts(summaryPath: string): Counts {
  try {
    const summary = jestSummary.parse(JSON.parse(readFileSync(summaryPath, "utf8")));
    for (const { fullName: name, status } of summary.testResults.flatMap(({ assertionResults }) => assertionResults)) {
      seenTests.push({ name, status: status === "passed" || status === "failed" ? status : "skipped" });
    }
    return {
      passed: summary.numPassedTests,
      failed: summary.numFailedTests + summary.numRuntimeErrorTestSuites,
      skipped: summary.numPendingTests,
    };
  } catch {
    return { passed: 0, failed: 1, skipped: 0 }; // Jest died before it could write its summary.
  }
}

async function runStages(chosen: readonly Stage[]): Promise<Result[]> {
  const results: Result[] = [];
  const early = new Map(
    chosen.filter(({ isEarly }) => isEarly).map((stage) => [stage, runCommand(stage.command, "later")]),
  );
  for (const [index, stage] of chosen.entries()) {
    print(`\n=== ${index + 1}/${chosen.length} ${stage.name}`);
    const startedAtMs = performance.now();
    const counts = await runStage(stage, early.get(stage));
    const seconds = (performance.now() - startedAtMs) / 1000;
    results.push({ ...counts, name: stage.name, seconds });
    print(`=== ${stage.name}: ${counts.failed === 0 ? "passed" : "FAILED"} in ${seconds.toFixed(1)} s`);
  }
  return results;
}

/** Always the last stage: whatever ran before, nothing of it may be left. */
async function checkLeftovers(): Promise<Result> {
  print("\n=== nothing left behind");
  const startedAtMs = performance.now();
  const left = await listLeftovers(run, leftBefore);
  left.forEach(print);
  print(`=== nothing left behind: ${left.length === 0 ? "passed" : "FAILED"}`);
  const seconds = (performance.now() - startedAtMs) / 1000;
  return { name: "leftovers", seconds, passed: Number(left.length === 0), failed: Number(left.length > 0), skipped: 0 };
}

/** Labs of a stage that was cut off. */
function removeLabs(): void {
  spawnSync(node, ["test/lab/hosts.ts", "clean"], { cwd: root, stdio: "inherit" });
}

/** What is promised of each fault, and whether this run has shown it; counted as one test when the run is a whole one. */
function checkFaultTable(isWhole: boolean): Result[] {
  const verdicts = faultTable.map((row) => ({ ...row, verdict: judgeFault(row, seenTests, isWhole) }));
  if (verdicts.every(({ verdict }) => verdict === "not run")) {
    return [];
  }
  print("\n=== faults");
  for (const { fault, answer, verdict } of verdicts) {
    print(`${verdict.padEnd(8)} ${fault.padEnd(58)} ${answer}`);
  }
  const failed = Number(verdicts.some(({ verdict }) => verdict === "FAIL"));
  return [{ name: "faults", seconds: 0, passed: 1 - failed, failed, skipped: 0 }];
}

function printSummary(results: readonly Result[]): void {
  print("");
  for (const { name, failed, seconds, passed } of results) {
    const checks = `${passed} passed${failed > 0 ? `, ${failed} FAILED` : ""}`;
    print(`${name.padEnd(12)} ${seconds.toFixed(1).padStart(7)} s   ${checks}`);
  }
}

function chooseStages(names: readonly string[]): readonly Stage[] {
  const unknown = names.find((name) => !stages.some((stage) => stage.name === name));
  if (unknown !== undefined) {
    print(`there is no stage ${unknown}: ${stages.map(({ name }) => name).join(", ")}`);
    process.exit(2);
  }
  return stages.filter(({ name, onRequest }) => (names.length === 0 ? onRequest !== true : names.includes(name)));
}

for (const [signal, number] of [
  ["SIGINT", 2],
  ["SIGTERM", 15],
  ["SIGHUP", 1],
] as const) {
  process.once(signal, () => {
    const ended = [...running].map(async (child) => {
      child.kill(signal);
      await once(child, "close");
    });
    void Promise.allSettled(ended).then(() => {
      removeLabs();
      process.exit(128 + number);
    });
  });
}

const names = process.argv.slice(2);
const stageResults = await runStages(chooseStages(names));
const results = [...stageResults, ...checkFaultTable(names.length === 0), await checkLeftovers()];
const sum = (key: keyof Counts): number => results.reduce((total, result) => total + result[key], 0);
printSummary(results);
print(`\n${sum("passed")} passed, ${sum("failed")} failed${sum("skipped") > 0 ? `, ${sum("skipped")} skipped` : ""}`);
process.exitCode = sum("failed") > 0 ? 1 : 0;
