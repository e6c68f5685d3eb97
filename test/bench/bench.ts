/** What every part of the benchmark needs: guests with and without protection, loads with their samples, time. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../src/lib/assert.ts";
import { runClient, type ClientOptions } from "../lab/clients/client-process.ts";
import { type ConversationResult } from "../lab/clients/conversation.ts";
import { waitForPostgres } from "../lab/clients/pgbench.ts";
import { createCluster, type Cluster, type ClusterOptions } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { type GuestImage, type GuestKind } from "../lab/guests.ts";
import { type Lab } from "../lab/hosts.ts";
import { placeGuest, startUnprotected, type PlacedGuest } from "../lab/placement.ts";
import { countProcessorTime, type ProcessorShares } from "./processor-time.ts";
import {
  readClientSamples,
  readEngineSamples,
  type EngineSamples,
  type Interval,
  type TimedSample,
} from "./samples.ts";

export type Load = { readonly result: ConversationResult; readonly samples: readonly TimedSample[] };

export type ProtectOptions = Pick<ClusterOptions, "checkpoint" | "failover">;

export type Measured<T> = {
  readonly value: T;
  readonly engine: EngineSamples;
  readonly seconds: number;
  readonly processor: ProcessorShares;
};

const bootTimeoutMs = 300_000;
const protectTimeoutMs = 300_000;

export class Bench {
  readonly say: (line: string) => void;
  readonly #images: Readonly<Record<GuestKind, GuestImage>>;
  readonly #timeFactor: number;
  #loadsCount = 0;

  /** `timeFactor` below 1 is for trying the benchmark itself. */
  constructor(images: Readonly<Record<GuestKind, GuestImage>>, timeFactor: number, say: (line: string) => void) {
    this.#images = images;
    this.#timeFactor = timeFactor;
    this.say = say;
  }

  durationMs(seconds: number): number {
    return Math.max(3000, seconds * 1000 * this.#timeFactor);
  }

  count(times: number): number {
    return Math.max(2, Math.round(times * this.#timeFactor));
  }

  place(lab: Lab, kind: GuestKind, name: string, index = 0): PlacedGuest {
    return placeGuest(lab, { name, kind, image: this.#images[kind], index }, "a");
  }

  /** Runs `body` against the guests on their own, and takes them away afterwards. */
  async withUnprotected<T>(lab: Lab, guests: readonly PlacedGuest[], body: () => Promise<T>): Promise<T> {
    const qemus = guests.map((guest) => startUnprotected(lab, guest, "a"));
    const ended = Promise.all(qemus.map((qemu) => new Promise((resolve) => qemu.once("exit", resolve))));
    try {
      await Promise.all(guests.map((guest) => this.waitForServices(lab, guest)));
      return await body();
    } finally {
      qemus.forEach((qemu) => qemu.kill("SIGKILL"));
      await ended;
    }
  }

  /** Everything up and every guest protected. */
  async protect(lab: Lab, guests: readonly PlacedGuest[], options: ProtectOptions = {}): Promise<Cluster> {
    const cluster = await this.prepare(lab, guests, options);
    cluster.start();
    await Promise.all(guests.map((guest) => this.waitForServices(lab, guest)));
    await cluster.waitUntilProtected(protectTimeoutMs);
    return cluster;
  }

  /** The cluster of {@link protect}, not started. */
  prepare(lab: Lab, guests: readonly PlacedGuest[], options: ProtectOptions): Promise<Cluster> {
    return createCluster(lab, {
      guests,
      firstPrimary: "a",
      environment: { TWINRUN_SAMPLES: engineSamplesPath(lab) },
      ...options,
    });
  }

  async waitForServices(lab: Lab, guest: PlacedGuest): Promise<void> {
    await waitForGuest(guest, bootTimeoutMs);
    if (guest.kind === "debian") {
      await waitForPostgres(lab, guest.address, bootTimeoutMs);
      await sleep(3000); // What systemd still has to do is not part of any load.
    }
  }

  /** Runs a client for a time; a fault that it saw makes the measurement worthless. */
  async run<Kind extends keyof ClientOptions>(
    lab: Lab,
    kind: Kind,
    options: ClientOptions[Kind],
    seconds: number,
  ): Promise<Load> {
    this.#loadsCount += 1;
    const samplesPath = join(lab.logDirectory, `load-${this.#loadsCount}-${kind}.samples`);
    const result = await runClient(lab, kind, { ...options, samplesPath }, this.durationMs(seconds));
    assert(result.faults.length === 0 && result.repliesCount > 0, `${kind} saw faults: ${JSON.stringify(result)}`);
    return { result, samples: readClientSamples(samplesPath) };
  }

  readEngineSamples(lab: Lab, guests: readonly string[], interval: Interval): Promise<EngineSamples> {
    return readEngineSamples(engineSamplesPath(lab), guests, interval);
  }

  /** Runs `body` and returns what the engines of `guests` measured meanwhile. */
  async withEngineSamples<T>(lab: Lab, guests: readonly PlacedGuest[], body: () => Promise<T>): Promise<Measured<T>> {
    const endProcessorTime = countProcessorTime(lab);
    const fromMs = Date.now();
    const value = await body();
    const toMs = Date.now();
    const processor = endProcessorTime();
    const names = guests.map(({ name }) => name);
    const engine = await this.readEngineSamples(lab, names, { fromMs, toMs });
    return { value, engine, seconds: (toMs - fromMs) / 1000, processor };
  }
}

function engineSamplesPath(lab: Lab): string {
  const path = join(lab.logDirectory, "samples");
  mkdirSync(path, { recursive: true });
  return path;
}

export const samplesOf = (engine: EngineSamples, name: string): readonly number[] =>
  present(engine.get(name), `samples of ${name}`);
