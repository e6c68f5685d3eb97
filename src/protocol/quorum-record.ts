/**
 * The record the quorum holds for a guest and the rules by which it changes: pure, used by the quorum service, the
 * simulator and the exhaustive model alike.
 *
 *   create          nobody has a record yet      term 1, owner = by, Stale
 *   takeOver        by the peer, InSync          owner and peer change places, term + 1, Stale
 *   runAlone        by the owner                 Stale: only now may output leave that the standby has not acknowledged
 *   declareInSync   by the owner                 InSync, at a named epoch
 *   handOver        by the owner, InSync         owner and peer change places, term + 1, Stale
 *   replacePeer     by the owner                 another peer, Stale
 *   moveAway        by the owner or the peer     frozen here for good; goes on at the other quorum (quorum-seat.ts)
 *   settle          by the owner or the peer     the other quorum takes up what was frozen there
 *   force           by a node, for a person      owner = by, term + 1, Stale, whoever owned it (see Override)
 *
 * Every change names the version it was decided on and is refused when the record has moved on. That is what makes a
 * request harmless that was delayed, sent twice or overtaken: of all requests made on one version exactly one is
 * carried out. A retry of the very request that made the present version is answered as granted again.
 */
import { unreachable } from "../lib/assert.ts";

export type PeerState = "InSync" | "Stale";

export type QuorumRecord = {
  readonly guest: string;
  /** Counts changes. */
  readonly version: number;
  /** Counts owners. */
  readonly term: number;
  readonly owner: string;
  readonly peer: string;
  readonly peerState: PeerState;
  /** Epoch of the last declareInSync or handOver; for people, no rule reads it. */
  readonly epoch: number;
  /** The request that made this version. */
  readonly lastRequestId: string;
  /** Set where the record is not in force any more: it went on at the other quorum. */
  readonly movedTo?: QuorumSeat | undefined;
  /** The last time that a person decided instead of the rules; stays for whoever asks what happened. */
  readonly override?: Override | undefined;
};

/** The two quorums that a guest may have, of which one is in force at a time; see quorum-seat.ts. */
export type QuorumSeat = "preferred" | "alternate";

/**
 * A person has taken it on himself that no other side runs the guest, and will not: nothing here can know that. It is for a quorum
 * or a site that is lost for good. The version jumps beyond all that a lost quorum may have counted to, so that whoever remembers
 * a record of that one believes the new one.
 */
export type Override = { readonly who: string; readonly why: string; readonly at: string; readonly term: number };

export type QuorumChange =
  | { readonly tag: "create"; readonly peer: string }
  | { readonly tag: "takeOver" }
  | { readonly tag: "runAlone" }
  | { readonly tag: "declareInSync"; readonly epoch: number }
  | { readonly tag: "handOver"; readonly epoch: number }
  | { readonly tag: "replacePeer"; readonly peer: string }
  | { readonly tag: "moveAway"; readonly to: QuorumSeat }
  /** `record` as it was frozen at the other quorum. */
  | { readonly tag: "settle"; readonly record: QuorumRecord }
  /** `term` is the latest that anybody knows of. */
  | { readonly tag: "force"; readonly peer: string; readonly term: number; readonly override: Omit<Override, "term"> };

export type QuorumRequest = {
  readonly guest: string;
  /** The node that asks; the service checks it against the certificate. */
  readonly by: string;
  readonly requestId: string;
  /** The version the decision is based on; 0 while there is no record. */
  readonly expectedVersion: number;
  readonly change: QuorumChange;
};

export type QuorumRefusal =
  /** The record has moved on; decide anew on the one that is returned. */
  | "VersionMismatch"
  | "NoRecord"
  | "RecordExists"
  | "NotOwner"
  | "NotPeer"
  /** The peer's copy is not complete, so it must not run. */
  | "PeerStale"
  /** The record goes on at the other quorum. */
  | "Moved";

export type QuorumDecision =
  | { readonly tag: "granted"; readonly record: QuorumRecord; readonly changed: boolean }
  | { readonly tag: "refused"; readonly reason: QuorumRefusal; readonly record: QuorumRecord | undefined };

/** What becomes of `request` on the present record. */
export function decideQuorumRequest(record: QuorumRecord | undefined, request: QuorumRequest): QuorumDecision {
  if (record?.lastRequestId === request.requestId && wasMadeBy(record, request)) {
    return { tag: "granted", record, changed: false };
  }
  if (record === undefined) {
    return decideFirst(request);
  }
  if (record.version !== request.expectedVersion) {
    return { tag: "refused", reason: request.change.tag === "create" ? "RecordExists" : "VersionMismatch", record };
  }
  return decideChange(record, request);
}

/** After a hand-over the record names the maker as the peer, after most other changes as the owner. */
function wasMadeBy(record: QuorumRecord, { change, by }: QuorumRequest): boolean {
  if (change.tag === "moveAway" || change.tag === "settle") {
    return isSide(record, by);
  }
  return (change.tag === "handOver" ? record.peer : record.owner) === by;
}

const isSide = ({ owner, peer }: QuorumRecord, node: string): boolean => node === owner || node === peer;

function decideFirst(request: QuorumRequest): QuorumDecision {
  const { change, expectedVersion } = request;
  if (change.tag === "create" && expectedVersion === 0) {
    return granted(createRecord(request, change.peer));
  }
  if (change.tag === "force") {
    return granted(forceRecord(createRecord(request, change.peer), request, change));
  }
  return change.tag === "settle"
    ? decideSettle(undefined, request, change.record)
    : { tag: "refused", reason: "NoRecord", record: undefined };
}

function decideChange(record: QuorumRecord, request: QuorumRequest): QuorumDecision {
  const { change, by } = request;
  if (change.tag === "create") {
    return { tag: "refused", reason: "RecordExists", record };
  }
  if (change.tag === "settle") {
    return decideSettle(record, request, change.record);
  }
  if (change.tag === "force") {
    return granted(forceRecord(record, request, change));
  }
  if (record.movedTo !== undefined) {
    return { tag: "refused", reason: "Moved", record };
  }
  if (change.tag === "takeOver") {
    return decideTakeOver(record, request);
  }
  const isAllowed = change.tag === "moveAway" ? isSide(record, by) : record.owner === by;
  return isAllowed ? decideOwnersChange(record, request, change) : { tag: "refused", reason: "NotOwner", record };
}

/** Only what is newer than all that was here before; a late repetition of an earlier move finds a later version. */
function decideSettle(present: QuorumRecord | undefined, request: QuorumRequest, frozen: QuorumRecord): QuorumDecision {
  const isFree = present === undefined || (present.movedTo !== undefined && present.version < frozen.version);
  if (!isFree) {
    return { tag: "refused", reason: "RecordExists", record: present };
  }
  if (frozen.movedTo === undefined || frozen.guest !== request.guest || !isSide(frozen, request.by)) {
    return { tag: "refused", reason: "NotOwner", record: present };
  }
  return granted(next(frozen, request, { movedTo: undefined }));
}

/** More changes than any term has. */
const VERSIONS_PER_TERM = 1_000_000_000;

function forceRecord(
  before: QuorumRecord,
  request: QuorumRequest,
  { peer, term: known, override }: Extract<QuorumChange, { readonly tag: "force" }>,
): QuorumRecord {
  const term = Math.max(before.term, known) + 1;
  const version = Math.max(before.version + 1, VERSIONS_PER_TERM * term);
  const forced = { owner: request.by, peer, term, peerState: "Stale", movedTo: undefined } as const;
  return { ...next(before, request, { ...forced, override: { ...override, term } }), version };
}

function decideTakeOver(record: QuorumRecord, request: QuorumRequest): QuorumDecision {
  if (record.peer !== request.by) {
    return { tag: "refused", reason: "NotPeer", record };
  }
  return record.peerState === "InSync"
    ? granted(changeOwner(record, request, record.epoch))
    : { tag: "refused", reason: "PeerStale", record };
}

function decideOwnersChange(
  record: QuorumRecord,
  request: QuorumRequest,
  change: Exclude<QuorumChange, { readonly tag: "create" | "takeOver" | "settle" | "force" }>,
): QuorumDecision {
  switch (change.tag) {
    case "runAlone":
      return granted(next(record, request, { peerState: "Stale" }));
    case "declareInSync":
      return granted(next(record, request, { peerState: "InSync", epoch: change.epoch }));
    case "replacePeer":
      return granted(next(record, request, { peer: change.peer, peerState: "Stale" }));
    case "moveAway":
      return granted(next(record, request, { movedTo: change.to }));
    case "handOver":
      return record.peerState === "InSync"
        ? granted(changeOwner(record, request, change.epoch))
        : { tag: "refused", reason: "PeerStale", record };
    default:
      return unreachable(change);
  }
}

function granted(record: QuorumRecord): QuorumDecision {
  return { tag: "granted", record, changed: true };
}

function createRecord({ guest, by, requestId }: QuorumRequest, peer: string): QuorumRecord {
  return { guest, version: 1, term: 1, owner: by, peer, peerState: "Stale", epoch: 0, lastRequestId: requestId };
}

function next(record: QuorumRecord, request: QuorumRequest, change: Partial<QuorumRecord>): QuorumRecord {
  return { ...record, ...change, version: record.version + 1, lastRequestId: request.requestId };
}

function changeOwner(record: QuorumRecord, request: QuorumRequest, epoch: number): QuorumRecord {
  const swapped = { owner: record.peer, peer: record.owner, term: record.term + 1, peerState: "Stale", epoch } as const;
  return next(record, request, swapped);
}
