/**
 * Checks the traces that engines wrote: each is replayed through the production step function, all of a guest are held against
 * one another (cross-check.ts). Each directory must hold the traces of one run: the record of another one is another record.
 *
 * usage: node test/traces/main.ts DIRECTORY      reads every *.jsonl in it and below
 *
 * Exit status 1 on any violation, and when there is nothing to check.
 */
import { closeSync, globSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { TraceCheck } from "./trace-check.ts";

const PIECE_BYTES = 1024 * 1024;

function* readPieces(path: string): Generator<string> {
  const file = openSync(path, "r");
  const decoder = new TextDecoder();
  const buffer = Buffer.alloc(PIECE_BYTES);
  try {
    for (let bytes = readSync(file, buffer); bytes > 0; bytes = readSync(file, buffer)) {
      yield decoder.decode(buffer.subarray(0, bytes), { stream: true });
    }
    yield decoder.decode();
  } finally {
    closeSync(file);
  }
}

function main(directory: string | undefined): number {
  if (directory === undefined) {
    process.stderr.write("usage: node test/traces/main.ts DIRECTORY\n");
    return 1;
  }
  const check = new TraceCheck();
  for (const name of globSync("**/*.jsonl", { cwd: directory }).sort()) {
    check.takeFile(name, readPieces(join(directory, name)));
  }
  const { isGood, lines } = check.report();
  process.stdout.write(`${lines.join("\n")}\n`);
  return isGood ? 0 : 1;
}

process.exitCode = main(process.argv[2]);
