/**
 * The clients of the soak. They never reconnect: they are replaced only where a guest is to lose its memory, which ends their
 * connections by the rules; what they were told by then has to be on its disks.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { findMissingInImage } from "../lab/clients/synced-disk.ts";
import { type Cluster } from "../lab/cluster.ts";
import {
  countFaults,
  countReplies,
  startWitnesses,
  stopWitnesses,
  type Witness,
  type WitnessResult,
} from "../lab/load.ts";
import { type PairHost } from "../lab/placement.ts";

/** Longer than any fault that is survived lasts, on a slow machine too. */
const STALL_MS = 120_000;
/** Of clients that are to lose their connections. */
const DOOMED_STALL_MS = 5_000;
/** Shorter waits are not listed one by one: there are too many in an hour. */
export const GAP_MS = 300;
const usual = { connectionsCount: 4, thinkMs: 20, gapMs: GAP_MS };
/** Two looks apart in which a client would have told of a reply. */
const STILL_MS = 800;

export class SoakClients {
  readonly #cluster: Cluster;
  #now: readonly Witness[] = [];
  #repliesBefore = 0;
  /** Of clients that were stopped and had nothing to lose. */
  readonly results: WitnessResult[] = [];
  /** Replies to clients that lost their connections by the rules. */
  doomedReplies = 0;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  get repliesCount(): number {
    return this.#repliesBefore + countReplies(this.#now);
  }

  get faultsCount(): number {
    return countFaults(this.#now);
  }

  start(): void {
    this.#now = this.#startAll(STALL_MS);
  }

  /** Whatever any of them was ever told is checked; returns what is wrong on a disk. */
  async stop(): Promise<readonly string[]> {
    const results = await stopWitnesses(this.#now);
    this.#repliesBefore += countReplies(this.#now);
    this.#now = [];
    this.results.push(...results);
    return this.#findMissing(results);
  }

  /** Every client of every guest has got a reply since now. */
  async goOn(timeoutMs: number): Promise<void> {
    const before = this.#now.map(({ client }) => client.progress.repliesCount);
    await this.#cluster.waitFor(
      "the clients of every guest go on",
      () => this.#now.every(({ client }, index) => client.progress.repliesCount > (before[index] ?? 0)),
      timeoutMs,
    );
  }

  /** Nobody is told anything by `guest` any more. */
  async waitUntilStill(guest: string, timeoutMs: number): Promise<void> {
    const own = this.#now.filter((witness) => witness.guest === guest);
    const deadlineMs = Date.now() + timeoutMs;
    for (let before = -1, now = countReplies(own); now !== before; before = now, now = countReplies(own)) {
      if (Date.now() > deadlineMs) {
        throw new Error(`${guest} goes on, which it may not`);
      }
      await sleep(STILL_MS);
    }
  }

  /** Lets clients write until their guests are gone: returns what they were told and is not there, or is wrong in another way. */
  async endWith(end: () => Promise<void>): Promise<readonly string[]> {
    const doomed = this.#startAll(DOOMED_STALL_MS);
    try {
      await this.#waitForReplies(doomed);
      await end();
    } finally {
      this.doomedReplies += countReplies(doomed);
    }
    const results = await stopWitnesses(doomed);
    const wrong = results.flatMap(({ guest, result: { faults } }) =>
      faults
        .filter(({ kind }) => kind !== "broken" && kind !== "lost")
        .map(({ kind, connection, detail }) => `${guest}, connection ${connection}, ${kind}: ${detail}`),
    );
    return [...wrong, ...(await this.#findMissing(results))];
  }

  async #waitForReplies(witnesses: readonly Witness[]): Promise<void> {
    const enough = 40;
    await this.#cluster.waitFor(
      "the clients have something to lose",
      () => witnesses.every(({ client }) => client.progress.repliesCount >= enough),
      STALL_MS,
    );
  }

  #startAll(stallMs: number): Witness[] {
    const { lab, guests } = this.#cluster;
    return guests.flatMap((guest) => startWitnesses(lab, guest, { ...usual, stallMs }));
  }

  /** The raw images of the side that runs the guest: every acknowledged number must be there. */
  async #findMissing(results: readonly WitnessResult[]): Promise<readonly string[]> {
    const views = await this.#cluster.readGuests();
    const hostOf = (guest: string): PairHost => views.find(({ name }) => name === guest)?.primary ?? "a";
    return results.flatMap(({ guest, result }) => {
      const { specs } = present(
        this.#cluster.guests.find(({ name }) => name === guest),
        guest,
      );
      const paths = specs[hostOf(guest)].disks.map(({ path }) => path);
      return result.acknowledged.flatMap((acknowledged, connection) => {
        const verdict = findMissingInImage(paths, connection, acknowledged);
        return verdict === undefined ? [] : [`${guest}, connection ${connection}: ${verdict.detail}`];
      });
    });
  }
}
