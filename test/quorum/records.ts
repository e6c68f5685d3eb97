/** Calm records and requests; a test spreads its differences over them. */
import type { QuorumRecord, QuorumRequest } from "../../src/protocol/quorum-record.ts";

export function aRecord(change: Partial<QuorumRecord> = {}): QuorumRecord {
  return {
    guest: "guest",
    version: 1,
    term: 1,
    owner: "a",
    peer: "b",
    peerState: "Stale",
    epoch: 0,
    lastRequestId: `request ${change.guest ?? "guest"} ${change.version ?? 1}`,
    ...change,
  };
}

export function aRequest(change: Partial<QuorumRequest> = {}): QuorumRequest {
  return {
    guest: "guest",
    by: "a",
    requestId: "r1",
    expectedVersion: 0,
    change: { tag: "create", peer: "b" },
    ...change,
  };
}
