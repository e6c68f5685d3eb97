/** Reads what clients and engines wrote down, one sample a line. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert } from "../../src/lib/assert.ts";

export type Interval = { readonly fromMs: number; readonly toMs: number };
export type TimedSample = { readonly atMs: number; readonly value: number };

/** Engines write once a second (src/engine/sample-log.ts). */
const ENGINE_WRITES_MS = 1500;

/** Every sample of an engine by name: phases of the pause, `addedLatency`, `dirtyPages`. */
export type EngineSamples = ReadonlyMap<string, readonly number[]>;

export async function readEngineSamples(
  directory: string,
  guests: readonly string[],
  { fromMs, toMs }: Interval,
): Promise<EngineSamples> {
  await sleep(ENGINE_WRITES_MS);
  const samples = new Map<string, number[]>();
  const files = existsSync(directory) ? readdirSync(directory) : [];
  for (const file of files.filter((name) => guests.some((guest) => name.startsWith(`${guest}-host-`)))) {
    for (const line of readFileSync(join(directory, file), "utf8").split("\n")) {
      const [atMs = "", name = "", value = ""] = line.split(" ");
      if (name !== "" && Number(atMs) >= fromMs && Number(atMs) <= toMs) {
        const list = samples.get(name) ?? [];
        samples.set(name, list);
        list.push(Number(value));
      }
    }
  }
  assert(samples.has("pause"), `no checkpoints of ${guests.join(", ")} in ${directory}`);
  return samples;
}

/** Samples of a client: when it asked, and for how long it waited. */
export function readClientSamples(path: string): TimedSample[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [atMs, value] = line.split(" ").map(Number);
      return { atMs: atMs ?? NaN, value: value ?? NaN };
    });
}

/** The longest wait that begins in the span or reaches into it, in milliseconds. */
export function longestWaitIn(samples: readonly TimedSample[], { fromMs, toMs }: Interval): number {
  const during = samples.filter(({ atMs, value }) => atMs + value > fromMs && atMs < toMs);
  return Math.round(Math.max(...during.map(({ value }) => value)));
}

/** Replies in each whole second of a client's run. */
export function countPerSecond(samples: readonly TimedSample[]): number[] {
  const doneAtMs = samples.map(({ atMs, value }) => atMs + value).toSorted((one, other) => one - other);
  const first = doneAtMs[0] ?? 0;
  const counts = new Array<number>(Math.floor(((doneAtMs.at(-1) ?? first) - first) / 1000)).fill(0);
  for (const at of doneAtMs) {
    const second = Math.floor((at - first) / 1000);
    if (second < counts.length) {
      counts[second] = (counts[second] ?? 0) + 1;
    }
  }
  return counts;
}
