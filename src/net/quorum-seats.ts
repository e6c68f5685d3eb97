/**
 * A guest's way to its quorums: one, or a preferred and an alternate one of which one is in force (protocol/quorum-seat.ts). To
 * whoever asks they are one quorum, whose outcomes mean what they mean in quorum-connection.ts.
 *
 * The quorum that was in force last is asked first, and its live record is believed; only where it has none, or does not answer, the
 * other one is read too. The first time both are read, for after a person's override the one that came back still has a record that
 * looks live: whoever sees both believes the later one, and freezes the other.
 */
import type { Endpoint, QuorumSeatFigures } from "../protocol/assignment.ts";
import type { QuorumChange, QuorumRequest, QuorumSeat } from "../protocol/quorum-record.ts";
import { findSeat, isLive, otherSeat, type SeatFinding } from "../protocol/quorum-seat.ts";
import type { QuorumConnection, QuorumOutcome, QuorumReading } from "./quorum-connection.ts";
import { QuorumFailure } from "./quorum-link.ts";

/** What is needed of a {@link QuorumConnection}. */
export type SeatConnection = Pick<
  QuorumConnection,
  "ask" | "read" | "reachable" | "problem" | "latencyMs" | "setEndpoints" | "close"
>;

export type QuorumSeatsOptions = {
  readonly preferred: SeatConnection;
  /** Undefined where the guest has only one. */
  readonly alternate: SeatConnection | undefined;
  readonly node: string;
  /** Different for every process; part of request ids. */
  readonly nonce: string;
};

/** A move needs two; both sides may be at it, and then each finds that the other was quicker once or twice. */
const ROUNDS_MAX = 4;

type Asked = Pick<QuorumRequest, "guest" | "expectedVersion" | "change">;
type Readings = { readonly [Seat in QuorumSeat]: QuorumReading };

export class QuorumSeats {
  readonly #options: QuorumSeatsOptions;
  #seat: QuorumSeat = "preferred";
  #isSure = false;

  constructor(options: QuorumSeatsOptions) {
    this.#options = options;
    this.#isSure = options.alternate === undefined;
  }

  get reachable(): boolean {
    return this.#inForce.reachable;
  }

  /** Why the one in force is not reachable, for a person. */
  get problem(): string | undefined {
    const { problem } = this.#inForce;
    return problem === undefined || this.#options.alternate === undefined
      ? problem
      : `the ${this.#seat} one: ${problem}`;
  }

  figures(): readonly QuorumSeatFigures[] {
    const { preferred, alternate } = this.#options;
    const tell = (seat: QuorumSeat, connection: SeatConnection): QuorumSeatFigures => ({
      ...{ seat, reachable: connection.reachable, latencyMs: connection.latencyMs ?? null },
      inForce: seat === this.#seat,
    });
    return [tell("preferred", preferred), ...(alternate === undefined ? [] : [tell("alternate", alternate)])];
  }

  /** Other replicas of the preferred quorum. */
  setEndpoints(endpoints: readonly Endpoint[]): void {
    this.#options.preferred.setEndpoints(endpoints);
  }

  async read(guest: string): Promise<QuorumReading> {
    const { preferred, alternate } = this.#options;
    if (alternate === undefined) {
      return preferred.read(guest);
    }
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      const known = this.#isSure ? await this.#inForce.read(guest) : undefined;
      if (known?.tag === "read" && isLive(known.record)) {
        return known;
      }
      const readings = await this.#readBoth(guest, alternate);
      const found = findSeat(readings);
      const reading = await this.#follow(guest, found, readings);
      if (reading !== undefined) {
        return reading;
      }
    }
    return unclear("it is moved from one to the other again and again");
  }

  async ask(request: QuorumRequest): Promise<QuorumOutcome> {
    const first = await this.#inForce.ask(request);
    if (this.#options.alternate === undefined || isWord(first)) {
      return first;
    }
    if (first.tag === "unreachable") {
      // Certainly not carried out there, so the other one may be asked. A first record is the preferred quorum's alone.
      const second = request.change.tag === "create" ? first : await this.#at(otherSeat(this.#seat)).ask(request);
      if (isWord(second)) {
        this.#seat = second.tag === "unknown" ? this.#seat : otherSeat(this.#seat);
        return second;
      }
      if (second.tag === "unreachable") {
        return first;
      }
    }
    const reading = await this.read(request.guest);
    if (reading.tag === "unreachable") {
      return reading;
    }
    const { record } = reading;
    return { tag: "refused", reason: record === undefined ? "NoRecord" : "VersionMismatch", record };
  }

  /** Puts the other quorum in force. Undefined when it is, else why not, as a sentence. */
  async move(guest: string, to: QuorumSeat): Promise<string | undefined> {
    if (this.#options.alternate === undefined) {
      return "the guest has one quorum only";
    }
    const { reachable, problem } = this.#at(to);
    if (!reachable) {
      return `the ${to} quorum cannot be reached from here, and would leave the guest without any: ${problem ?? ""}`;
    }
    const reading = await this.read(guest);
    if (reading.tag === "unreachable") {
      return reading.failure.message;
    }
    const { record } = reading;
    return this.#seat === to ? undefined : await this.#moveAway(guest, to, record?.version);
  }

  async #moveAway(guest: string, to: QuorumSeat, expectedVersion = 0): Promise<string | undefined> {
    const outcome = await this.#askAt(this.#seat, { guest, expectedVersion, change: { tag: "moveAway", to } });
    const after = await this.read(guest);
    return after.tag === "read" && this.#seat === to
      ? undefined
      : `the record stays where it is: ${outcome.tag === "refused" ? outcome.reason : outcome.tag}`;
  }

  /**
   * Makes this node the owner although nothing allows it; see Override in quorum-record.ts. Where the quorum that is in force does
   * not answer, the other one is taken, and stays in force.
   */
  async force(guest: string, change: Extract<QuorumChange, { readonly tag: "force" }>): Promise<QuorumOutcome> {
    const { preferred, alternate } = this.#options;
    const readings: Readings =
      alternate === undefined
        ? { preferred: await preferred.read(guest), alternate: unclear("there is none") }
        : await this.#readBoth(guest, alternate);
    const found = findSeat(readings);
    const seat =
      found.tag === "inForce" || found.tag === "settle"
        ? found.seat
        : readings.preferred.tag === "read"
          ? "preferred"
          : "alternate";
    const reading = readings[seat];
    if (reading.tag === "unreachable") {
      return reading;
    }
    const expectedVersion = reading.record?.version ?? 0;
    const outcome = await this.#askAt(seat, { guest, expectedVersion, change });
    if (outcome.tag === "granted") {
      this.#believe(seat);
    }
    return outcome;
  }

  close(): void {
    this.#options.preferred.close();
    this.#options.alternate?.close();
  }

  get #inForce(): SeatConnection {
    return this.#at(this.#seat);
  }

  #at(seat: QuorumSeat): SeatConnection {
    const { preferred, alternate } = this.#options;
    return seat === "alternate" && alternate !== undefined ? alternate : preferred;
  }

  async #readBoth(guest: string, alternate: SeatConnection): Promise<Readings> {
    const [ofPreferred, ofAlternate] = await Promise.all([this.#options.preferred.read(guest), alternate.read(guest)]);
    return { preferred: ofPreferred, alternate: ofAlternate };
  }

  /** Undefined when it has to be read again. */
  async #follow(guest: string, found: SeatFinding, readings: Readings): Promise<QuorumReading | undefined> {
    switch (found.tag) {
      case "inForce":
        this.#believe(found.seat);
        this.#freeze(otherSeat(found.seat), readings);
        return { tag: "read", record: found.record };
      case "none":
        return { tag: "read", record: undefined };
      case "unknown":
        return this.#sayUnknown(readings);
      case "settle": {
        const change: QuorumChange = { tag: "settle", record: found.frozen };
        await this.#askAt(found.seat, { guest, expectedVersion: found.version, change });
        return undefined;
      }
    }
  }

  #believe(seat: QuorumSeat): void {
    this.#seat = seat;
    this.#isSure = true;
  }

  /** The one that a person gave up, and that came back; it must not be believed by somebody who sees only that. */
  #freeze(seat: QuorumSeat, readings: Readings): void {
    const reading = readings[seat];
    if (reading.tag === "read" && isLive(reading.record)) {
      const { guest, version } = reading.record;
      void this.#askAt(seat, { guest, expectedVersion: version, change: { tag: "moveAway", to: otherSeat(seat) } });
    }
  }

  #sayUnknown({ preferred, alternate }: Readings): QuorumReading {
    const silent = [preferred, alternate].find(({ tag }) => tag === "unreachable");
    return silent?.tag === "unreachable" ? silent : unclear("neither quorum says so");
  }

  #askAt(seat: QuorumSeat, { guest, expectedVersion, change }: Asked): Promise<QuorumOutcome> {
    const { node, nonce } = this.#options;
    const requestId = `${nonce}:${expectedVersion}:${change.tag}:${seat}`;
    return this.#at(seat).ask({ guest, by: node, requestId, expectedVersion, change });
  }
}

/** An answer that stands, whatever the other quorum says. */
function isWord(outcome: QuorumOutcome): boolean {
  return (
    outcome.tag === "granted" || outcome.tag === "unknown" || (outcome.tag === "refused" && isLive(outcome.record))
  );
}

function unclear(why: string): { readonly tag: "unreachable"; readonly failure: QuorumFailure } {
  const says = `which of the two quorums holds the guest's record is not to be found out: ${why}`;
  return { tag: "unreachable", failure: new QuorumFailure({ code: "StoreUnavailable" }, says) };
}
