/**
 * Two quorums for one guest, a preferred and an alternate one, each a store of its own: which of them is in force.
 *
 * A compare-and-set holds on one store only, so at any time one of them decides and the other does not. Which one is part of the
 * record itself, and to change it is a compare-and-set at the one in force like every other change:
 *
 *   preferred:  version 7, live      moveAway -> version 8, movedTo alternate: frozen, refuses everything from here on
 *   alternate:  nothing                                     settle -> version 9, live: what was frozen, word for word
 *
 * Between the two nobody decides, and whoever reads both and finds only the frozen record does the second step; done twice, late, or
 * by both sides it changes nothing, for it is refused where there is something newer. So, whatever is lost, late or repeated:
 *
 * - at most one of the two records is live, and its version is higher than any before it, wherever that was;
 * - between two live records nothing but the version has changed.
 *
 * For the sides' machines the two are therefore one quorum whose version sometimes counts on by itself. Both properties are checked
 * to the end in test/model/seats.test.ts; that the machines bear such a version is checked by the exhaustive model.
 *
 * A live record that is read is the one in force, without asking the other quorum. A frozen or missing one says nothing alone.
 *
 * Why the one that is gone cannot be left without it: it may come back, or be cut off from one side only, and would let each side
 * have a quorum of its own. The move is for a quorum that one site does not see any more, or that is to be shut down; it is made
 * while it can still be. After the loss of the one in force a healthy pair goes on and no failover is possible, as with one quorum;
 * a person who knows that it never comes back may force a record at the other one (quorum-record.ts, Override).
 */
import { type QuorumRecord, type QuorumSeat } from "./quorum-record.ts";

export type SeatReading =
  { readonly tag: "read"; readonly record: QuorumRecord | undefined } | { readonly tag: "unreachable" };

export type SeatReadings = { readonly [Seat in QuorumSeat]: SeatReading };

export type SeatFinding =
  | { readonly tag: "inForce"; readonly seat: QuorumSeat; readonly record: QuorumRecord }
  /** Half of a move is done: `seat` is to take up what is frozen at the other one. */
  | { readonly tag: "settle"; readonly seat: QuorumSeat; readonly frozen: QuorumRecord; readonly version: number }
  /** The guest has no record; its first is made at the preferred quorum. */
  | { readonly tag: "none" }
  /** The one that would have to say it does not answer. */
  | { readonly tag: "unknown" };

export const otherSeat = (seat: QuorumSeat): QuorumSeat => (seat === "preferred" ? "alternate" : "preferred");

/** Whether the record is the one that counts. */
export const isLive = (record: QuorumRecord | undefined): record is QuorumRecord =>
  record !== undefined && record.movedTo === undefined;

export function findSeat(readings: SeatReadings): SeatFinding {
  const preferred = recordOf(readings.preferred);
  const alternate = recordOf(readings.alternate);
  if (isLive(preferred) || isLive(alternate)) {
    return findLive(preferred, alternate);
  }
  const frozen = findNewest(preferred, alternate);
  if (frozen !== undefined) {
    return findHalf(readings, frozen);
  }
  // A first record is made nowhere else, so where the preferred quorum has none there never was one.
  return { tag: readings.preferred.tag === "read" ? "none" : "unknown" };
}

const findNewest = (one: QuorumRecord | undefined, other: QuorumRecord | undefined): QuorumRecord | undefined =>
  (one?.version ?? 0) > (other?.version ?? 0) ? one : other;

function findHalf(readings: SeatReadings, frozen: QuorumRecord): SeatFinding {
  const seat = frozen.movedTo ?? "preferred";
  return readings[seat].tag === "read"
    ? { tag: "settle", seat, frozen, version: recordOf(readings[seat])?.version ?? 0 }
    : { tag: "unknown" };
}

const recordOf = (reading: SeatReading): QuorumRecord | undefined =>
  reading.tag === "read" ? reading.record : undefined;

/** Two live ones are the work of a person who gave one quorum up that came back: the version of what he forced is the higher one. */
function findLive(preferred: QuorumRecord | undefined, alternate: QuorumRecord | undefined): SeatFinding {
  const record = findNewest(isLive(preferred) ? preferred : undefined, isLive(alternate) ? alternate : undefined);
  return record === undefined
    ? { tag: "unknown" }
    : { tag: "inForce", seat: record === preferred ? "preferred" : "alternate", record };
}

/** What the two sides of a guest see of its quorums; undefined while a side does not say. */
export type SeatSight = { readonly [Seat in QuorumSeat]: boolean | undefined };

/**
 * Which quorum a guest should have: the one that both of its sides reach, the preferred one if they reach both. With no such one
 * it stays where it is. `settledForMs`: since the last move; one in a minute is enough for a quorum that comes and goes.
 */
export function chooseSeat(present: QuorumSeat, sights: readonly SeatSight[], settledForMs: number): QuorumSeat {
  const isSeen = (seat: QuorumSeat): boolean => sights.length === 2 && sights.every((sight) => sight[seat] === true);
  const isMissed = (seat: QuorumSeat): boolean => sights.some((sight) => sight[seat] === false);
  const wanted = present === "alternate" && isSeen("preferred") ? "preferred" : otherSeat(present);
  if (settledForMs < SEAT_REST_MS || !isSeen(wanted)) {
    return present;
  }
  return wanted === "preferred" || isMissed(present) ? wanted : present;
}

const SEAT_REST_MS = 60_000;
