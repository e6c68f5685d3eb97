/**
 * PostgreSQL's own benchmark from the client host, and the proof that no transaction of it was lost or executed twice.
 *
 * Every transaction inserts one row into pgbench_history and adds the same amount to an account, a teller and a branch. So after
 * a run the history has exactly as many new rows as pgbench counted transactions, and the four sums are equal.
 */
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Lab } from "../hosts.ts";
import { round, summarizeLatencies, type LatencyFigures } from "./figures.ts";

export type PgbenchOptions = {
  readonly host: string;
  readonly clientsCount: number;
  readonly durationSeconds: number;
  readonly onProgress?: (progress: PgbenchProgress) => void;
};

export type PgbenchProgress = { readonly elapsedSeconds: number; readonly tps: number; readonly latencyMs: number };

export type PgbenchResult = {
  readonly clientsCount: number;
  readonly transactionsCount: number;
  readonly failedCount: number;
  readonly tps: number;
  readonly latency: LatencyFigures;
  readonly samplesMs: readonly number[];
  /** Transactions that pgbench saw committed and the database does not have (positive), or the other way round. */
  readonly lostCount: number;
  /** Whether accounts, tellers, branches and history agree. */
  readonly sumsAgree: boolean;
};

const connection = (host: string): string[] => ["-h", host, "-U", "lab"];

export async function runPgbench(lab: Pick<Lab, "spawn" | "execute">, options: PgbenchOptions): Promise<PgbenchResult> {
  const { host, clientsCount, durationSeconds } = options;
  await waitForPostgres(lab, host, 120_000);
  const before = await countHistory(lab, host);
  const logs = mkdtempSync(join(tmpdir(), "twinrun-pgbench-"));
  try {
    const output = await runToEnd(lab, options, [
      ...["pgbench", ...connection(host), "--no-vacuum", "--client", String(clientsCount)],
      ...["--time", String(durationSeconds), "--progress", "1", "--log", `--log-prefix=${join(logs, "log")}`, "lab"],
    ]);
    const transactionsCount = parseFigure(output, /transactions actually processed: (\d+)/);
    const after = await countHistory(lab, host);
    const samplesMs = readSamples(logs);
    return {
      clientsCount,
      transactionsCount,
      failedCount: parseFigure(output, /failed transactions: (\d+)/),
      // Not said at all when there was not one transaction.
      tps: transactionsCount === 0 ? 0 : round(parseFigure(output, /tps = ([0-9.]+) \(without initial/)),
      latency: summarizeLatencies(samplesMs),
      samplesMs,
      lostCount: before + transactionsCount - after,
      sumsAgree: await haveEqualSums(lab, host),
    };
  } finally {
    rmSync(logs, { recursive: true, force: true });
  }
}

/** Waits until the server answers queries. */
export async function waitForPostgres(
  lab: Pick<Lab, "spawn" | "execute">,
  host: string,
  timeoutMs: number,
): Promise<void> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    try {
      await query(lab, host, "select 1");
      return;
    } catch (cause) {
      if (Date.now() > deadlineMs) {
        throw new Error(`PostgreSQL on ${host} does not answer within ${timeoutMs} ms`, { cause });
      }
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }
}

async function countHistory(lab: Pick<Lab, "spawn" | "execute">, host: string): Promise<number> {
  return Number(await query(lab, host, "select count(*) from pgbench_history"));
}

async function haveEqualSums(lab: Pick<Lab, "spawn" | "execute">, host: string): Promise<boolean> {
  const sums = await query(
    lab,
    host,
    "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), " +
      "(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)",
  );
  return new Set(sums.split("|")).size === 1;
}

async function query(lab: Pick<Lab, "spawn" | "execute">, host: string, sql: string): Promise<string> {
  const command = ["psql", ...connection(host), "-d", "lab", "--no-align", "--tuples-only", "--command", sql];
  return (await lab.execute("c", ["timeout", "60", ...command])).trim();
}

function runToEnd(
  lab: Pick<Lab, "spawn" | "execute">,
  { onProgress }: PgbenchOptions,
  command: readonly string[],
): Promise<string> {
  const child = lab.spawn("c", command);
  let output = "";
  let said = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (output += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    const line = /progress: ([0-9.]+) s, ([0-9.]+) tps, lat ([0-9.]+) ms/.exec(text);
    if (line !== null) {
      onProgress?.({ elapsedSeconds: Number(line[1]), tps: Number(line[2]), latencyMs: Number(line[3]) });
    }
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject).on("close", (status, signal) => {
      if (status === 0) {
        resolve(output);
      } else {
        reject(new Error(`pgbench ended with ${signal ?? String(status)}:\n${said.slice(-2000)}`));
      }
    });
  });
}

function parseFigure(output: string, pattern: RegExp): number {
  const figure = pattern.exec(output)?.[1];
  if (figure === undefined) {
    throw new Error(`pgbench did not say ${String(pattern)}:\n${output}`);
  }
  return Number(figure);
}

/** Per-transaction log: client, number, latency in µs, script, seconds, µs. */
function readSamples(directory: string): number[] {
  return readdirSync(directory).flatMap((name) =>
    readFileSync(join(directory, name), "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => Number(line.split(" ")[2]) / 1000),
  );
}
