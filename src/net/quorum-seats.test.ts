/** The way to two quorums, over stores that are slow, silent, lossy and asked twice: what it says has to be what one quorum would. */
import { describe, expect, test } from "@jest/globals";
import { Random } from "../lib/random.ts";
import {
  decideQuorumRequest,
  type QuorumRecord,
  type QuorumRequest,
  type QuorumSeat,
} from "../protocol/quorum-record.ts";
import { isLive } from "../protocol/quorum-seat.ts";
import type { QuorumOutcome, QuorumReading } from "./quorum-connection.ts";
import { QuorumFailure } from "./quorum-link.ts";
import { QuorumSeats, type SeatConnection } from "./quorum-seats.ts";

const GUEST = "web";
const silent = { tag: "unreachable", failure: new QuorumFailure({ code: "StoreUnavailable" }, "silent") } as const;

/** One quorum; `onChanged` sees every change the moment it is durable. */
class Store {
  record: QuorumRecord | undefined;
  isUp = true;
  onChanged: (record: QuorumRecord, request: QuorumRequest) => void = () => undefined;

  carryOut(request: QuorumRequest): QuorumOutcome {
    const decision = decideQuorumRequest(this.record, request);
    if (decision.tag === "granted" && decision.changed) {
      this.record = decision.record;
      this.onChanged(decision.record, request);
    }
    return decision;
  }
}

type Weather = { readonly random: Random; readonly badness: number };

/** A node's connection to it: what QuorumConnection promises, as badly as it may keep it. */
class Way implements SeatConnection {
  isCut = false;
  readonly latencyMs = 1;
  readonly #store: Store;
  readonly #weather: Weather | undefined;

  constructor(store: Store, weather?: Weather) {
    this.#store = store;
    this.#weather = weather;
  }

  get reachable(): boolean {
    return this.#store.isUp && !this.isCut;
  }

  get problem(): string | undefined {
    return this.reachable ? undefined : "silent";
  }

  setEndpoints(): void {
    // There is only one.
  }

  close(): void {
    // Nothing is open.
  }

  async ask(request: QuorumRequest): Promise<QuorumOutcome> {
    await this.#pass();
    if (!this.reachable) {
      return silent;
    }
    if (this.#is(0.1)) {
      // It arrives when nobody waits for it any more.
      void this.#pass(20).then(() => this.#store.isUp && this.#store.carryOut(request));
      return { tag: "unknown", why: "lost" };
    }
    const outcome = this.#store.carryOut(request);
    if (this.#is(0.1)) {
      void this.#pass(20).then(() => this.#store.isUp && this.#store.carryOut(request));
    }
    await this.#pass();
    return this.#is(0.1) ? { tag: "unknown", why: "the answer is lost" } : outcome;
  }

  async read(): Promise<QuorumReading> {
    await this.#pass();
    if (!this.reachable || this.#is(0.1)) {
      return silent;
    }
    const { record } = this.#store;
    await this.#pass();
    return { tag: "read", record };
  }

  #is(chance: number): boolean {
    return this.#weather?.random.chance(chance * this.#weather.badness) ?? false;
  }

  async #pass(turns = 4): Promise<void> {
    const count = this.#weather?.random.below(turns) ?? 0;
    for (let turn = 0; turn <= count; turn += 1) {
      await Promise.resolve();
    }
  }
}

type Node = { readonly seats: QuorumSeats; readonly ways: Readonly<Record<QuorumSeat, Way>> };

class Place {
  readonly stores: Readonly<Record<QuorumSeat, Store>> = { preferred: new Store(), alternate: new Store() };
  #asked = 0;

  open(node: string, weather?: Weather): Node {
    const ways = {
      preferred: new Way(this.stores.preferred, weather),
      alternate: new Way(this.stores.alternate, weather),
    };
    this.#asked += 1;
    return { ways, seats: new QuorumSeats({ ...ways, node, nonce: `${node}${this.#asked}` }) };
  }

  request(by: string, expectedVersion: number, change: QuorumRequest["change"]): QuorumRequest {
    this.#asked += 1;
    return { guest: GUEST, by, requestId: `${by}:${this.#asked}`, expectedVersion, change };
  }
}

async function begin(): Promise<{ readonly place: Place; readonly a: Node; readonly b: Node }> {
  const place = new Place();
  const [a, b] = [place.open("a"), place.open("b")];
  expect(await a.seats.read(GUEST)).toEqual({ tag: "read", record: undefined });
  await a.seats.ask(place.request("a", 0, { tag: "create", peer: "b" }));
  await a.seats.ask(place.request("a", 1, { tag: "declareInSync", epoch: 5 }));
  return { place, a, b };
}

describe("two quorums", () => {
  test("the record begins at the preferred one, and nowhere else", async () => {
    const { place, a } = await begin();
    expect(place.stores.preferred.record).toMatchObject({ version: 2, owner: "a", peerState: "InSync" });
    expect(place.stores.alternate.record).toBeUndefined();
    expect(a.seats.figures()).toEqual([
      { seat: "preferred", reachable: true, latencyMs: 1, inForce: true },
      { seat: "alternate", reachable: true, latencyMs: 1, inForce: false },
    ]);
    const without = new Place();
    without.stores.preferred.isUp = false;
    const { seats } = without.open("a");
    expect(await seats.ask(without.request("a", 0, { tag: "create", peer: "b" }))).toMatchObject({
      tag: "unreachable",
    });
    expect(without.stores.alternate.record).toBeUndefined();
  });

  test("moved, it is the same record, and who asks the old one is told the new version", async () => {
    const { place, a, b } = await begin();
    expect(await a.seats.move(GUEST, "alternate")).toBeUndefined();
    expect(place.stores.preferred.record).toMatchObject({ version: 3, movedTo: "alternate" });
    expect(place.stores.alternate.record).toMatchObject({
      version: 4,
      owner: "a",
      peer: "b",
      peerState: "InSync",
      epoch: 5,
    });
    const takeOver = (version: number): Promise<QuorumOutcome> =>
      b.seats.ask(place.request("b", version, { tag: "takeOver" }));
    expect(await takeOver(2)).toMatchObject({ tag: "refused", reason: "VersionMismatch", record: { version: 4 } });
    expect(await takeOver(4)).toMatchObject({ tag: "granted", record: { owner: "b", term: 2 } });
    expect(b.seats.figures()[1]).toMatchObject({ inForce: true });
    place.stores.alternate.isUp = false;
    expect(await b.seats.read(GUEST)).toMatchObject({ tag: "unreachable" });
    place.stores.alternate.isUp = true;
    expect(await b.seats.move(GUEST, "preferred")).toBeUndefined();
    expect(await a.seats.read(GUEST)).toMatchObject({ tag: "read", record: { owner: "b", version: 7 } });
  });

  test("a site that does not see the one in force any more goes on with the one it was moved to", async () => {
    const { place, a, b } = await begin();
    b.ways.preferred.isCut = true;
    expect(await b.seats.move(GUEST, "alternate")).toBe("silent");
    expect(await a.seats.move(GUEST, "alternate")).toBeUndefined();
    expect(await b.seats.move(GUEST, "alternate")).toBeUndefined();
    expect(await b.seats.ask(place.request("b", 4, { tag: "takeOver" }))).toMatchObject({ tag: "granted" });
  });

  test("without the one in force nothing is decided, and it is not moved", async () => {
    const { place, a, b } = await begin();
    place.stores.preferred.isUp = false;
    expect(await b.seats.ask(place.request("b", 2, { tag: "takeOver" }))).toMatchObject({ tag: "unreachable" });
    expect(await a.seats.move(GUEST, "alternate")).toBe("silent");
    expect(place.stores.alternate.record).toBeUndefined();
  });

  test("nothing is moved to where nobody answers", async () => {
    const { place, a } = await begin();
    place.stores.alternate.isUp = false;
    expect(await a.seats.move(GUEST, "alternate")).toContain("would leave the guest without any");
    expect(place.stores.preferred.record?.movedTo).toBeUndefined();
  });

  test("half a move is finished by whoever comes next", async () => {
    const { place, a, b } = await begin();
    place.stores.preferred.carryOut(place.request("a", 2, { tag: "moveAway", to: "alternate" }));
    expect(await b.seats.ask(place.request("b", 2, { tag: "takeOver" }))).toMatchObject({
      ...{ tag: "refused", record: { version: 4, owner: "a" } },
    });
    expect(await a.seats.read(GUEST)).toMatchObject({ tag: "read", record: { version: 4 } });
  });

  test("after an override the one that comes back is believed by nobody", async () => {
    const { place, b } = await begin();
    place.stores.preferred.isUp = false;
    const override = { who: "admin", why: "it burnt down", at: "2026-01-31T08:30:00Z" };
    const forced = await b.seats.force(GUEST, { tag: "force", peer: "a", term: 1, override });
    expect(forced).toMatchObject({
      tag: "granted",
      record: { owner: "b", peer: "a", term: 2, override: { who: "admin" } },
    });
    expect(place.stores.alternate.record?.version).toBeGreaterThan(1_000_000);
    place.stores.preferred.isUp = true;
    const again = place.open("a");
    expect(await again.seats.read(GUEST)).toMatchObject({ tag: "read", record: { owner: "b" } });
    expect(place.stores.preferred.record).toMatchObject({ movedTo: "alternate" });
  });
});

describe("whatever the weather", () => {
  const runs = Array.from({ length: 400 }, (_, seed) => seed);

  test(`two sides that ask, move, lose answers and begin anew change one record, ${runs.length} times`, async () => {
    let granted = 0;
    let moved = 0;
    for (const seed of runs) {
      const found = await runStorm(seed);
      granted += found.granted;
      moved += found.moved;
    }
    expect(granted).toBeGreaterThan(runs.length);
    expect(moved).toBeGreaterThan(runs.length);
  });
});

async function runStorm(seed: number): Promise<{ readonly granted: number; readonly moved: number }> {
  const random = new Random(seed);
  const weather = { random, badness: random.chance(0.3) ? 0 : 1 };
  const place = new Place();
  const count = { granted: 0, moved: 0 };
  watch(place, seed, count);
  place.stores.preferred.carryOut(place.request("a", 0, { tag: "create", peer: "b" }));
  await Promise.all(
    (["a", "b"] as const).map(async (node) => {
      let { seats, ways } = place.open(node, weather);
      for (let turn = 0; turn < 25; turn += 1) {
        if (random.chance(0.1)) {
          ({ seats, ways } = place.open(node, weather)); // A new process knows nothing.
        }
        ways.preferred.isCut = random.chance(0.2 * weather.badness);
        ways.alternate.isCut = random.chance(0.2 * weather.badness);
        if (random.chance(0.3)) {
          await seats.move(GUEST, random.chance(0.5) ? "alternate" : "preferred");
          continue;
        }
        const reading = await seats.read(GUEST);
        const record = reading.tag === "read" ? reading.record : undefined;
        if (reading.tag === "read" && record === undefined) {
          throw new Error(`seed ${seed}: ${node} believes that there is no record`);
        }
        if (record !== undefined) {
          const change: QuorumRequest["change"] =
            record.owner === node ? { tag: "declareInSync", epoch: turn } : { tag: "takeOver" };
          await seats.ask(place.request(node, record.version, change));
        }
      }
    }),
  );
  return count;
}

/** At most one of the two decides, and the changes of both follow one another as those of one record. */
function watch({ stores }: Place, seed: number, count: { granted: number; moved: number }): void {
  let last: QuorumRecord | undefined;
  const check = (record: QuorumRecord, { change, by }: QuorumRequest): void => {
    const { preferred, alternate } = stores;
    const wrong =
      isLive(preferred.record) && isLive(alternate.record)
        ? "both decide"
        : last !== undefined && record.version <= last.version
          ? "the version goes back"
          : change.tag === "takeOver" && (last?.peerState !== "InSync" || last.peer !== by)
            ? "a takeover that the record does not allow"
            : last !== undefined && record.term > last.term + 1
              ? "a term is left out"
              : undefined;
    if (wrong !== undefined) {
      throw new Error(
        `seed ${seed}: ${wrong}: ${change.tag} by ${by} makes ${JSON.stringify(record)} of ${JSON.stringify(last)}`,
      );
    }
    count.moved += change.tag === "settle" ? 1 : 0;
    count.granted += change.tag === "takeOver" ? 1 : 0;
    last = record;
  };
  stores.preferred.onChanged = check;
  stores.alternate.onChanged = check;
}
