/**
 * Checks the traces that engines wrote: each is replayed through the production step function, all of a guest are held against
 * one another (cross-check.ts).
 *
 * usage: node test/traces/main.ts DIRECTORY      reads every *.jsonl in it and below
 *
 * Exit status 1 on any violation, and when there is nothing to check.
 */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { checkTogether } from "./cross-check.ts";
import { type EngineLife, replayFile } from "./replay.ts";

const PROBLEMS_SHOWN = 20;

export type TraceFile = { readonly name: string; readonly text: string };
export type TraceReport = { readonly isGood: boolean; readonly lines: readonly string[] };

export function checkTraces(files: readonly TraceFile[]): TraceReport {
  const problems: string[] = [];
  const lines: string[] = [];
  const guests = new Map<string, EngineLife[]>();
  let events = 0;
  for (const { name, text } of files) {
    const { lives, problems: found } = replayFile(name, text);
    problems.push(...found);
    for (const life of lives) {
      events += life.steps.length;
      guests.set(life.first.guest, [...(guests.get(life.first.guest) ?? []), life]);
    }
  }
  for (const [guest, lives] of guests) {
    const together = checkTogether(guest, lives);
    problems.push(...together.problems.map((problem) => `${guest}: ${problem}`));
    const { activations, releases, acks, terms } = together;
    lines.push(
      `${guest}: ${lives.length} engine processes, ${terms} terms, ${activations} takeovers, ${acks} acknowledgements, ` +
        `${releases} releases`,
    );
  }
  if (events === 0) {
    problems.push("there is no trace to check: run the engines with a trace directory");
  }
  lines.push(...problems.slice(0, PROBLEMS_SHOWN).map((problem) => `VIOLATION ${problem}`));
  const verdict = problems.length === 0 ? "all accepted" : `${problems.length} violations`;
  lines.push(`${files.length} traces, ${events} events replayed: ${verdict}`);
  return { isGood: problems.length === 0, lines };
}

function readTraces(directory: string): readonly TraceFile[] {
  return globSync("**/*.jsonl", { cwd: directory })
    .sort()
    .map((name) => ({ name, text: readFileSync(join(directory, name), "utf8") }));
}

if (import.meta.main) {
  const [directory] = process.argv.slice(2);
  const report =
    directory === undefined
      ? { isGood: false, lines: ["usage: node test/traces/main.ts DIRECTORY"] }
      : checkTraces(readTraces(directory));
  process.stdout.write(`${report.lines.join("\n")}\n`);
  process.exitCode = report.isGood ? 0 : 1;
}
