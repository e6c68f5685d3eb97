/** One side of a pair as the protocol machine has it, in mid-life: guest "web", owned by node "a", its peer "b" in sync. */
import { type QuorumRecord } from "../../src/protocol/quorum-record.ts";
import { startSide } from "../../src/protocol/side.ts";
import { type Side, type SideState } from "../../src/protocol/side-state.ts";

/** The first of the engine with the nonce "n", in term 2. */
export const session = "2.n.1";

export const record: QuorumRecord = {
  ...{ guest: "web", version: 4, term: 2, owner: "a", peer: "b", peerState: "InSync" },
  ...{ epoch: 7, lastRequestId: "x" },
} as const;

export function buildSide(node: "a" | "b", state: SideState, links: readonly string[], epoch: number): Side {
  const peer = node === "a" ? "b" : "a";
  const fresh = startSide({
    ...{ guest: "web", node, peer, createsRecord: node === "a", mode: "FaultTolerant", nonce: "n" },
  });
  const shape = { qemuVersion: "10.0.0", machine: "q35", ramBlocks: [], disks: [], devices: [] };
  return { ...fresh, record, shape, links, epoch, sessionCount: 1, state };
}

/** A standby that could take over, which hears its primary on the link `one`. */
export const holding = {
  role: "standby",
  tag: "holding",
  session,
  link: "one",
  term: 2,
  epoch: 8,
  expectsGuest: false,
} as const;
