/** What the engine tells its agent, put together from what it knows: pure. */
import { type CheckpointContract, type EngineCondition, type EngineReport } from "../protocol/assignment.ts";
import { type Side } from "../protocol/side-state.ts";
import { type DiskFault, isOfDisk } from "./disk-faults.ts";
import { type Figures } from "./figures.ts";
import { type ResyncProgress, secondsLeftOf } from "./resync-progress.ts";

const MIB = 2 ** 20;

export type EngineSnapshot = {
  readonly side: Side;
  readonly role: EngineReport["role"];
  readonly state: string;
  readonly nowMs: number;
  readonly figures: Figures;
  readonly contract: CheckpointContract;
  readonly isThrottled: boolean;
  /** Bytes a second; undefined: as much as the links carry. */
  readonly linkShare: number | undefined;
  readonly isHeldToShare: boolean;
  readonly syncPercent: number;
  readonly disks: EngineReport["disks"];
  /** Of a primary that copies to its standby. */
  readonly resync: ResyncProgress | undefined;
  /** When the oldest epoch that waits for its acknowledgement was captured. */
  readonly oldestUnacknowledgedMs: number | undefined;
  readonly heldPacketsCount: number;
  readonly outputMode: EngineReport["outputMode"];
  readonly tracker: EngineReport["tracker"];
  readonly links: EngineReport["links"];
  readonly quorums: EngineReport["quorums"];
  /** Why no quorum answers; undefined while one does. */
  readonly quorumProblem: string | undefined;
  readonly takeoversCount: number;
  /** What stands in the way, by component. */
  readonly problems: ReadonlyMap<string, string>;
  /** Of this side's disks. */
  readonly diskFaults: readonly Pick<DiskFault, "message" | "isFull">[];
  readonly slowDisks: readonly string[];
};

export function planReport(snapshot: EngineSnapshot): EngineReport {
  const { side, figures, nowMs, oldestUnacknowledgedMs } = snapshot;
  const inSync = isInSync(side);
  return {
    role: snapshot.role,
    state: snapshot.state,
    term: side.record?.term ?? 0,
    epoch: side.epoch,
    primaryNode: side.record?.owner ?? "",
    syncPercent: inSync ? 100 : snapshot.syncPercent,
    disks: snapshot.disks,
    resync: planResync(snapshot),
    checkpoint: figures.checkpoint(nowMs),
    addedLatency: figures.addedLatency(),
    ...planLinkShare(snapshot),
    lagMs: inSync ? Math.max(0, nowMs - (oldestUnacknowledgedMs ?? nowMs)) : null,
    heldPacketsCount: snapshot.heldPacketsCount,
    links: snapshot.links,
    quorums: snapshot.quorums,
    override: side.record?.override,
    tracker: snapshot.tracker,
    outputMode: snapshot.outputMode,
    takeoversCount: snapshot.takeoversCount,
    conditions: [
      planInSync(snapshot, inSync),
      planQuorum(snapshot),
      planLatency(snapshot),
      planDisks(snapshot),
      planLinks(snapshot),
    ],
  };
}

/** A standby whose primary has gone on alone keeps what it has, and may not go on from it. */
function isInSync({ state, record }: Side): boolean {
  return (
    state.tag === "protected" || (state.tag === "holding" && (state.link !== null || record?.peerState === "InSync"))
  );
}

function planResync({ state, resync }: EngineSnapshot): EngineReport["resync"] {
  return state === "syncing" && resync !== undefined
    ? { leftBytes: resync.leftBytes, secondsLeft: secondsLeftOf(resync) }
    : null;
}

function planInSync(snapshot: EngineSnapshot, inSync: boolean): EngineCondition {
  const { state, problems } = snapshot;
  if (inSync) {
    return {
      type: "InSync",
      status: "True",
      reason: "Protected",
      message: "the standby holds every acknowledged epoch",
    };
  }
  const standby = problems.get("standby");
  const why =
    problems.get("certificate") ??
    problems.get("refusal") ??
    problems.get("guest") ??
    (standby === undefined ? undefined : `the standby cannot follow: ${standby}`) ??
    problems.get("sync") ??
    sayOwnerIsAway(snapshot);
  const message = why === undefined ? `this side is ${state}` : `this side is ${state}: ${why}`;
  // The quorum has still to be told that the copy is complete.
  const isSynchronising = state === "syncing" || state === "declaring";
  return { type: "InSync", status: "False", reason: isSynchronising ? "Synchronising" : "Unprotected", message };
}

/** For people: nobody can go on here, and why. */
function sayOwnerIsAway({ role, side, links }: EngineSnapshot): string | undefined {
  const isAlone = role === "standby" && links.every(({ alive }) => !alive);
  const owner = side.record?.owner;
  return isAlone && owner !== undefined && owner !== side.node
    ? `the guest belongs to ${owner}, which cannot be reached; the copy here is not up to date and cannot go on: bring ${owner} back`
    : undefined;
}

function planQuorum({ quorumProblem, state }: EngineSnapshot): EngineCondition {
  if (quorumProblem === undefined) {
    return { type: "QuorumReachable", status: "True", reason: "Reachable", message: "the quorum answers" };
  }
  const meanwhile =
    state === "starting"
      ? "nobody knows where the guest belongs, so it is not started here"
      : "a healthy pair goes on, but no failover is possible";
  const message = `the quorum does not answer: ${meanwhile}; check the quorum service (${quorumProblem})`;
  return { type: "QuorumReachable", status: "False", reason: "Unreachable", message };
}

function planLinkShare({ linkShare, isHeldToShare }: EngineSnapshot): Pick<EngineReport, "linkShare"> {
  return linkShare === undefined ? {} : { linkShare: { bytesPerSecond: linkShare, isHeldTo: isHeldToShare } };
}

function planLatency(snapshot: EngineSnapshot): EngineCondition {
  const { figures, contract, outputMode } = snapshot;
  const { recentAddedLatency } = figures;
  if (outputMode === "leased") {
    const message = "in HighAvailability nothing that the guest sends is held back";
    return { type: "LatencyWithinBound", status: "True", reason: "WithinBound", message };
  }
  if (recentAddedLatency.count === 0) {
    const message = "nothing that the guest sent was held back yet";
    return { type: "LatencyWithinBound", status: "Unknown", reason: "NoOutput", message };
  }
  const p99Ms = Math.round(recentAddedLatency.quantile(0.99) * 10) / 10;
  const says = `99 of the last 100 packets waited at most ${p99Ms.toString()} ms, allowed are ${contract.maxAddedLatencyMs.toString()}`;
  if (p99Ms <= contract.maxAddedLatencyMs) {
    return { type: "LatencyWithinBound", status: "True", reason: "WithinBound", message: says };
  }
  const message = `${says}: ${sayLateness(snapshot)}`;
  return { type: "LatencyWithinBound", status: "False", reason: "BoundExceeded", message };
}

function sayLateness({ isThrottled, linkShare, isHeldToShare }: EngineSnapshot): string {
  if (linkShare !== undefined && isHeldToShare) {
    return (
      `the guest changes more than its share of the links carries (${Math.round(linkShare / MIB)} MiB/s, so that its neighbours ` +
      "have theirs); reduce its load, move it or its neighbours to other nodes, or give the links more bandwidth and declare it"
    );
  }
  return isThrottled ? "the guest is throttled; reduce its load or give the link more bandwidth" : "throttling";
}

/** The standby's disks as well: its own report is not the one that people read. */
function planDisks({ problems, diskFaults, slowDisks }: EngineSnapshot): EngineCondition {
  const mirrors = [...problems].filter(([component]) => component.startsWith("mirror"));
  const peer = problems.get("standby") ?? "";
  const failed = [
    ...diskFaults,
    ...mirrors.map(([component, why]) => ({ message: `${component}: ${why}`, isFull: false })),
    ...(isOfDisk(peer) ? [{ message: `the standby's ${peer}`, isFull: peer.includes("ENOSPC") }] : []),
  ];
  if (failed.length === 0) {
    return slowDisks.length === 0
      ? { type: "DisksHealthy", status: "True", reason: "Healthy", message: "no disk has failed" }
      : { type: "DisksHealthy", status: "False", reason: "DiskSlow", message: slowDisks.join("; ") };
  }
  const reason = failed.every(({ isFull }) => isFull) ? "VolumeFull" : "DiskFailed";
  return { type: "DisksHealthy", status: "False", reason, message: failed.map(({ message }) => message).join("; ") };
}

function planLinks({ links, problems }: EngineSnapshot): EngineCondition {
  const down = links.filter(({ alive }) => !alive).map(({ name }) => name);
  if (down.length === 0) {
    return { type: "LinksHealthy", status: "True", reason: "Healthy", message: "every replication link is up" };
  }
  const refusal = problems.get("refusal");
  if (refusal !== undefined) {
    return { type: "LinksHealthy", status: "Unknown", reason: "Refused", message: `the links work, but: ${refusal}` };
  }
  const why = down.map((name) => `${name}${problems.has(name) ? ` (${problems.get(name) ?? ""})` : ""}`).join(", ");
  return { type: "LinksHealthy", status: "False", reason: "LinkDown", message: `not connected: ${why}` };
}
