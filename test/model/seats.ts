/**
 * The two quorums of one guest (src/protocol/quorum-seat.ts), explored to the end: every request that either side could ever have
 * made, on any version, may reach either quorum at any moment, any number of times. So no client, network, crash or clock is in the
 * model, and what holds here holds for all of them; only two promises are taken from whoever asks: a first record is asked for at
 * the preferred quorum only, and what is to be settled was really frozen at the other one.
 *
 * Kept beside the two records: what one single quorum would hold that has carried out the same changes and knows nothing of moves.
 */
import {
  decideQuorumRequest,
  type QuorumChange,
  type QuorumDecision,
  type QuorumRecord,
  type QuorumRequest,
  type QuorumSeat,
} from "../../src/protocol/quorum-record.ts";
import { findSeat, isLive, otherSeat } from "../../src/protocol/quorum-seat.ts";

export type SeatRules = {
  readonly decide: (record: QuorumRecord | undefined, request: QuorumRequest) => QuorumDecision;
  readonly find: typeof findSeat;
};

export const productionSeatRules: SeatRules = { decide: decideQuorumRequest, find: findSeat };

type Stores = { readonly [Seat in QuorumSeat]: QuorumRecord | undefined };
type SeatWorld = {
  readonly stores: Stores;
  /** All that was ever frozen, by where. */
  readonly frozen: { readonly [Seat in QuorumSeat]: readonly QuorumRecord[] };
  /** Of the one quorum that both together are. */
  readonly whole: QuorumRecord | undefined;
  readonly versionMax: number;
};

export type SeatsExplored = {
  readonly worldsCount: number;
  readonly movesCount: number;
  readonly problem: string | undefined;
};

const SEATS: readonly QuorumSeat[] = ["preferred", "alternate"];
const NODES = ["a", "b"] as const;

/** Every world whose versions stay at or below `versionLimit`, or the first in which something is wrong. */
export function exploreSeats(versionLimit: number, rules: SeatRules = productionSeatRules): SeatsExplored {
  const nothing: Stores = { preferred: undefined, alternate: undefined };
  const start: SeatWorld = {
    stores: nothing,
    frozen: { preferred: [], alternate: [] },
    whole: undefined,
    versionMax: 0,
  };
  const seen = new Set([JSON.stringify(start)]);
  let movesCount = 0;
  for (let level = [start]; level.length > 0;) {
    const next: SeatWorld[] = [];
    for (const world of level) {
      for (const [seat, request] of listRequests(world, versionLimit)) {
        movesCount += 1;
        const found = arrive(world, { seat, request, rules });
        if (typeof found === "string") {
          return { worldsCount: seen.size, movesCount, problem: `${found}; ${tell(world, seat, request)}` };
        }
        const key = JSON.stringify(found);
        if (found.versionMax <= versionLimit && !seen.has(key)) {
          seen.add(key);
          next.push(found);
        }
      }
    }
    level = next;
  }
  return { worldsCount: seen.size, movesCount, problem: undefined };
}

const tell = ({ stores }: SeatWorld, seat: QuorumSeat, request: QuorumRequest): string =>
  `${request.change.tag} by ${request.by} on ${request.expectedVersion} at the ${seat} one, where ${JSON.stringify(stores)}`;

function* listRequests(world: SeatWorld, versionLimit: number): Generator<readonly [QuorumSeat, QuorumRequest]> {
  for (const seat of SEATS) {
    for (const by of NODES) {
      const peer = by === "a" ? "b" : "a";
      const plain: readonly QuorumChange[] = [
        ...(seat === "preferred" ? [{ tag: "create", peer } as const] : []),
        ...([{ tag: "takeOver" }, { tag: "runAlone" }, { tag: "declareInSync", epoch: 1 }] as const),
        ...([
          { tag: "handOver", epoch: 1 },
          { tag: "moveAway", to: otherSeat(seat) },
        ] as const),
        ...world.frozen[otherSeat(seat)].map((record) => ({ tag: "settle", record }) as const),
      ];
      for (const change of plain) {
        for (let expectedVersion = 0; expectedVersion <= versionLimit; expectedVersion += 1) {
          const requestId = `${by}:${expectedVersion}:${change.tag}`;
          yield [seat, { guest: "g", by, requestId, expectedVersion, change }];
        }
      }
    }
  }
}

type Arrival = { readonly seat: QuorumSeat; readonly request: QuorumRequest; readonly rules: SeatRules };

/** What the world is then, or what is wrong. */
function arrive(world: SeatWorld, { seat, request, rules }: Arrival): SeatWorld | string {
  const { stores, frozen, whole, versionMax } = world;
  const decision = rules.decide(stores[seat], request);
  if (decision.tag === "refused" || !decision.changed) {
    return world;
  }
  const { record } = decision;
  const after: SeatWorld = {
    stores: { ...stores, [seat]: record },
    frozen: record.movedTo === undefined ? frozen : { ...frozen, [seat]: [...frozen[seat], record] },
    whole: isMove(request.change) ? whole : record,
    versionMax: Math.max(versionMax, record.version),
  };
  return findWrong(world, after, record) ?? findMisread(after, rules) ?? after;
}

const isMove = ({ tag }: QuorumChange): boolean => tag === "moveAway" || tag === "settle";

function findWrong({ versionMax, whole }: SeatWorld, after: SeatWorld, record: QuorumRecord): string | undefined {
  const { preferred, alternate } = after.stores;
  if (isLive(preferred) && isLive(alternate)) {
    return "both quorums decide";
  }
  if (record.version <= versionMax) {
    return `version ${record.version} comes after ${versionMax}`;
  }
  const isFirst = whole === undefined;
  const term = isFirst ? 0 : whole.term;
  if (after.whole?.term !== term && after.whole?.term !== term + 1) {
    return `term ${after.whole?.term ?? 0} comes after ${term}`;
  }
  return isSameContent(record, after.whole) ? undefined : "a move changed more than the version";
}

const isSameContent = (one: QuorumRecord, other: QuorumRecord): boolean =>
  [one.owner, one.peer, one.peerState, one.term, one.epoch].join() ===
  [other.owner, other.peer, other.peerState, other.term, other.epoch].join();

/** Whoever reads, one quorum or both, never believes anything else than what counts, and with both always finds the way on. */
function findMisread({ stores, whole }: SeatWorld, { find }: SeatRules): string | undefined {
  const unreachable = { tag: "unreachable" } as const;
  const views: readonly (readonly QuorumSeat[])[] = [SEATS, ["preferred"], ["alternate"]];
  for (const sees of views) {
    const read = (seat: QuorumSeat) =>
      sees.includes(seat) ? ({ tag: "read", record: stores[seat] } as const) : unreachable;
    const found = find({ preferred: read("preferred"), alternate: read("alternate") });
    const hasBoth = sees.length === 2;
    if (found.tag === "inForce" && (whole === undefined || !isSameContent(found.record, whole))) {
      return `who reads ${sees.join(" and ")} believes in ${JSON.stringify(found.record)}`;
    }
    if (found.tag === "none" && whole !== undefined) {
      return `who reads ${sees.join(" and ")} believes that there is no record`;
    }
    if (found.tag === "unknown" && hasBoth) {
      return "nobody can find out which quorum decides";
    }
  }
  return undefined;
}
