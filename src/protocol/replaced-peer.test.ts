/** A pair that got another standby's node: its owner tells the quorum, for until then the new node is no side of the guest. */
import { expect, test } from "@jest/globals";
import { decideQuorumRequest, type QuorumRecord } from "./quorum-record.ts";
import { startSide, step } from "./side.ts";
import { type Side, type SideEvent } from "./side-state.ts";

const record: QuorumRecord = {
  ...{ guest: "web", version: 4, term: 2, owner: "a", peer: "b", peerState: "Stale" },
  ...{ epoch: 7, lastRequestId: "x" },
} as const;
const shape = { qemuVersion: "10.0.0", machine: "q35", ramBlocks: [], disks: [], devices: [] };

function start(node: string, peer: string, found: "running" | "none", stored: QuorumRecord): Side {
  const events: readonly SideEvent[] = [
    { tag: "started", found, shape: found === "none" ? null : shape },
    { tag: "recordRead", record: stored },
  ];
  const fresh = startSide({ guest: "web", node, peer, createsRecord: false, mode: "FaultTolerant", nonce: "n" });
  return events.reduce((side, event) => step(side, event).side, fresh);
}

test.each(["running", "none"] as const)("the owner, whose guest is %s, gives the record its new peer", (found) => {
  const owner = start("a", "c", found, record);
  const request = owner.ask?.request;
  expect(request?.change).toEqual({ tag: "replacePeer", peer: "c" });
  const decision = request === undefined ? undefined : decideQuorumRequest(record, request);
  expect(decision).toMatchObject({ tag: "granted", record: { owner: "a", peer: "c", peerState: "Stale", term: 2 } });
  if (decision?.tag !== "granted" || request === undefined) {
    throw new Error("not granted");
  }
  const after = step(owner, { tag: "quorumAnswered", requestId: request.requestId, outcome: decision }).side;
  expect(after.state).toMatchObject({ tag: found === "running" ? "alone" : "booting" });
  // Now the new node is a side, and the old one is none.
  expect(start("c", "a", "none", decision.record).state).toMatchObject({ role: "standby" });
  expect(start("b", "a", "none", decision.record).state).toMatchObject({ tag: "ended", reason: "failed" });
});

test("an owner whose peer is the record's asks to run alone", () => {
  expect(start("a", "b", "running", record).ask?.request.change).toEqual({ tag: "runAlone" });
});

test("an old peer that took over in the meantime keeps the guest", () => {
  const taken = { ...record, version: 5, term: 3, owner: "b", peer: "a" };
  const owner = start("a", "c", "running", record);
  const request = owner.ask?.request;
  const decision = request === undefined ? undefined : decideQuorumRequest(taken, request);
  expect(decision).toMatchObject({ tag: "refused", reason: "VersionMismatch" });
  const outcome = { tag: "refused", reason: "VersionMismatch", record: taken } as const;
  const after = step(owner, { tag: "quorumAnswered", requestId: request?.requestId ?? "", outcome }).side;
  expect(after.state).toMatchObject({ tag: "ended", reason: "fenced" });
});
