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
};

export type QuorumChange =
  | { readonly tag: "create"; readonly peer: string }
  | { readonly tag: "takeOver" }
  | { readonly tag: "runAlone" }
  | { readonly tag: "declareInSync"; readonly epoch: number }
  | { readonly tag: "handOver"; readonly epoch: number }
  | { readonly tag: "replacePeer"; readonly peer: string };

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
  | "PeerStale";

export type QuorumDecision =
  | { readonly tag: "granted"; readonly record: QuorumRecord; readonly changed: boolean }
  | { readonly tag: "refused"; readonly reason: QuorumRefusal; readonly record: QuorumRecord | undefined };

/** What becomes of `request` on the present record. */
export function decideQuorumRequest(record: QuorumRecord | undefined, request: QuorumRequest): QuorumDecision {
  if (record?.lastRequestId === request.requestId && wasMadeBy(record, request)) {
    return { tag: "granted", record, changed: false };
  }
  if (record === undefined) {
    return request.change.tag === "create" && request.expectedVersion === 0
      ? granted(createRecord(request, request.change.peer))
      : { tag: "refused", reason: "NoRecord", record };
  }
  if (record.version !== request.expectedVersion) {
    return { tag: "refused", reason: request.change.tag === "create" ? "RecordExists" : "VersionMismatch", record };
  }
  return decideChange(record, request);
}

/** After a hand-over the record names the maker as the peer, after every other change as the owner. */
function wasMadeBy(record: QuorumRecord, { change, by }: QuorumRequest): boolean {
  return (change.tag === "handOver" ? record.peer : record.owner) === by;
}

function decideChange(record: QuorumRecord, request: QuorumRequest): QuorumDecision {
  const { change, by } = request;
  if (change.tag === "create") {
    return { tag: "refused", reason: "RecordExists", record };
  }
  if (change.tag === "takeOver") {
    return decideTakeOver(record, request);
  }
  return record.owner === by
    ? decideOwnersChange(record, request, change)
    : { tag: "refused", reason: "NotOwner", record };
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
  change: Exclude<QuorumChange, { readonly tag: "create" | "takeOver" }>,
): QuorumDecision {
  switch (change.tag) {
    case "runAlone":
      return granted(next(record, request, { peerState: "Stale" }));
    case "declareInSync":
      return granted(next(record, request, { peerState: "InSync", epoch: change.epoch }));
    case "replacePeer":
      return granted(next(record, request, { peer: change.peer, peerState: "Stale" }));
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
