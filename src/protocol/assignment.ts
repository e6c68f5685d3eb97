/**
 * What a node has to run, and what its agent and the engine of each guest tell one another.
 *
 * An assignment is one guest on this node, written by whoever places guests (a file, or the cluster's GuestPair). The agent
 * starts one engine process per assignment and speaks with it over Node's IPC channel (JSON objects, in order, at most
 * once). The life of a channel:
 *
 *   agent  -> configure            the first message, always; names a QEMU of this guest that is already alive, if any
 *   engine -> guestWanted          when its role needs a QEMU; answered by guestFound or guestFailed
 *   engine -> killGuest            when its QEMU must not run any more; answered by guestDied once it is gone
 *   engine -> report, transition   transitions as they happen; a report with news, at most once a second, and without news
 *                                  at least every 5 s: an engine silent for 30 s hangs and is killed
 *   engine -> fault, repaired      what of this side fails, each time it is seen, and what works again (faults.ts)
 *   agent  -> switchover           planned hand-over; answered by switchoverAnswered with the same requestId
 *   agent  -> retuned              the mode, the latency contract or the detection time changed, or a whole copy is asked for
 *   agent  -> linkShared           what the engine may put on the links, so that the node's other guests have their share
 *   agent  -> quorumChanged        the quorum's endpoints changed; everything else needs a new engine
 *   agent  -> moveQuorum           the other quorum is to be in force; trouble says why it is not
 *   agent  -> force                a person makes this side the owner; what the quorum says to that comes by the next report
 *   agent  -> health               whether this node is fit to run guests, so that the healthier side of a cut pair goes on
 *   agent  -> release              the guest is to run on unprotected: whoever owns it gets leave to run alone, opens its
 *                                  output for good and exits as released; the other side goes on as it is
 *   agent  -> stop                 hand over when a standby is in sync and that is wanted, then leave; answered by exiting
 *   engine -> exiting              the last message, then the process exits
 *
 * Death rules: an engine exits at once when its channel closes, for then its agent is gone and the next agent starts a
 * new engine. QEMU dies with neither of them: it is adopted. What it sends stays held while no engine is there.
 */
import { type Fault, type Repair } from "./faults.ts";
import { type Override, type QuorumSeat } from "./quorum-record.ts";

/** Who makes this side the owner, why and when; `term` is the latest that anybody has reported. */
export type OverrideOrder = Override;

import { type AvailabilityMode } from "./messages.ts";

export type Link = { readonly name: string; readonly localHost: string; readonly peerHost: string };
export type TlsFiles = { readonly certPath: string; readonly keyPath: string; readonly caPath: string };
export type Endpoint = { readonly host: string; readonly port: number };

/** A disk that is copied. `id` is its name between the engines and in reports, so it is equal on both sides. */
export type DiskAssignment =
  /** On a plain host: `id` is also the QEMU drive or blockdev node-name, `path` a raw image or block device. */
  | { readonly id: string; readonly path: string }
  /** In a pod: QEMU is asked where the disk of the device with this id is; nodes and paths may differ between the sides. */
  | {
      readonly id: string;
      readonly device: string;
      /** No volume is behind it: the engine may make another file of it, and the standby's takes the primary's size. */
      readonly isOfPod?: boolean | undefined;
    };

/** How the guest's QEMU comes to be. */
export type QemuOrigin =
  /** The agent starts it. Arguments without -S, -incoming and -qmp: the agent adds those. */
  | {
      readonly tag: "local";
      readonly binary: string;
      readonly args: readonly string[];
    }
  /** A launcher pod on this node starts it; the agent finds it and waits for one of the shape that is needed. */
  | {
      readonly tag: "pod";
      /** Of that pod: one of another namespace is not the guest's, whatever it calls itself. */
      readonly namespace: string;
    };

export type CheckpointContract = {
  readonly maxAddedLatencyMs: number;
  readonly minIntervalMs: number;
  readonly maxIntervalMs: number;
  /** The most that copies to the standby may take of links and disks; undefined: as fast as they can. */
  readonly resyncMiBPerSecond?: number | undefined;
};

export type LinkCapacity = {
  readonly ownMiBPerSecond?: number | undefined;
  readonly peerMiBPerSecond?: number | undefined;
};

export type FailoverTiming = { readonly detectionTimeoutMs: number };

export type TrackerMethod = "userfaultfd" | "softDirty" | "comparison";

/** Replicas of each. */
export type Quorums = { readonly preferred: readonly Endpoint[]; readonly alternate: readonly Endpoint[] };

/** One guest on this node. */
export type GuestAssignment = {
  readonly guest: string;
  readonly mode: AvailabilityMode;
  readonly peerNode: string;
  /** The node that creates the quorum record when there is none. */
  readonly firstPrimary: string;
  /** Engines of this guest listen on this port on the localHost of every link. */
  readonly port: number;
  readonly links: readonly Link[];
  readonly disks: readonly DiskAssignment[];
  readonly qemu: QemuOrigin;
  readonly checkpoint: CheckpointContract;
  readonly failover: FailoverTiming;
  readonly tracker: "auto" | TrackerMethod;
  /** Quorums of its own instead of the node's; see quorum-seat.ts. */
  readonly quorums?: Quorums | undefined;
  /** The guest is to run on unprotected; see `release` above. */
  readonly isReleasing?: boolean | undefined;
  /** Over which clients reach the guest here; undefined: those that the agent was told of. Engines do not know them. */
  readonly uplinks?: readonly string[] | undefined;
  /** What all links of this node, and of the peer's, carry together; undefined: nobody has said. Engines do not know it. */
  readonly linkCapacity?: LinkCapacity | undefined;
  /** Another word than before: the running engine copies everything once more. One that starts compares anyway. */
  readonly fullResync?: string | undefined;
};

export type EngineConfig = GuestAssignment & {
  readonly node: string;
  /** Of this guest alone, on tmpfs if possible. */
  readonly runDirectory: string;
  readonly quorum: readonly Endpoint[];
  readonly tls: TlsFiles;
  /** JSON lines with what the engine saw and did, for the trace checker; empty when nobody asked for one. */
  readonly traceFile: string;
};

/** The shape a QEMU was started in. A standby that took over runs on as a primary and keeps `startedAs: "standby"`. */
export type GuestShape = "primary" | "standby";

/** Whether a QEMU in this run state runs its guest, or was stopped for a while: by somebody, or by QEMU because a disk failed. */
export const hasRunGuest = (runState: string): boolean => ["running", "paused", "io-error"].includes(runState);

/** A QEMU of this guest that is alive now. */
export type FoundGuest = {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: tells this process from a later one with the same id. Decimal, for it may pass 2^53. */
  readonly startTime: string;
  /** As the engine sees it. */
  readonly qmpPath: string;
  /** Root of QEMU's mount namespace as seen from the engine: "/" for a QEMU the agent started itself. */
  readonly qemuRoot: string;
  /** As QEMU sees it: the directory for sockets and pipes that both use, which both may write. */
  readonly sharedDirectory: string;
  readonly startedAs: GuestShape;
};

// What the engine tells its agent.

export type EngineRole = "starting" | "primary" | "standby" | "fenced";
/** `leased`: open for as long as the standby is heard from. */
export type OutputMode = "open" | "held" | "closed" | "leased";

/** Parts of a checkpoint. The guest stands still in all of `pause`; `ship` and `acknowledge` run beside it. */
export type CheckpointPhase =
  "pause" | "stop" | "mark" | "deviceState" | "scan" | "copy" | "resume" | "ship" | "acknowledge";

/** Quantiles over the last samples; `count` and `sumMs` over the life of the engine, so they only grow. */
export type DurationFigures = {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly sumMs: number;
  readonly count: number;
};

export type CheckpointFigures = {
  /** Checkpoints taken since the engine started. */
  readonly count: number;
  readonly perSecond: number;
  readonly phases: Readonly<Partial<Record<CheckpointPhase, DurationFigures>>>;
  readonly dirtyPagesP50: number;
  readonly dirtyPagesMax: number;
  /** Page and device state bytes put on the wire since the engine started. */
  readonly sentBytes: number;
  readonly dirtyPagesCount: number;
  readonly diskBytes: number;
};

export type LinkShareFigures = {
  readonly bytesPerSecond: number;
  /** The guest changes more than that, or did a moment ago, and is slowed down. */
  readonly isHeldTo: boolean;
};

export type LinkFigures = {
  readonly name: string;
  readonly alive: boolean;
  readonly rttMs: number | null;
  /** Whether checkpoints go over it; heartbeats go over every one. */
  readonly carriesData?: boolean | undefined;
};

/** One of a guest's quorums as this side sees it. */
export type QuorumSeatFigures = {
  readonly seat: QuorumSeat;
  readonly reachable: boolean;
  /** A question and its answer; null while it is not reachable. */
  readonly latencyMs: number | null;
  readonly inForce: boolean;
};

export type EngineConditionType = "InSync" | "QuorumReachable" | "LatencyWithinBound" | "DisksHealthy" | "LinksHealthy";

export type EngineCondition = {
  readonly type: EngineConditionType;
  readonly status: "True" | "False" | "Unknown";
  /** PascalCase. */
  readonly reason: string;
  readonly message: string;
};

/** What the engine knows now. Complete every time: the newest report replaces the one before. */
export type EngineReport = {
  readonly role: EngineRole;
  /** Tag of the machine's state inside the role, such as `protected` or `holding`. */
  readonly state: string;
  readonly term: number;
  readonly epoch: number;
  /** Owner in the quorum record as last read; empty before the first read. */
  readonly primaryNode: string;
  /** 0..100; 100 while in sync. */
  readonly syncPercent: number;
  readonly disks: readonly { readonly id: string; readonly syncPercent: number; readonly dirtyBytes: number }[];
  /** Of the copy under way, memory and disks; null while there is none. `secondsLeft` is null while nobody can tell. */
  readonly resync: { readonly leftBytes: number; readonly secondsLeft: number | null } | null;
  readonly checkpoint: CheckpointFigures;
  /** From the moment a packet was held to the moment it left. */
  readonly addedLatency: DurationFigures;
  /** What the engine may put on the links; absent while it may use all they carry. */
  readonly linkShare?: LinkShareFigures | undefined;
  /** Age of the newest state that the standby acknowledged; null while there is none. */
  readonly lagMs: number | null;
  readonly heldPacketsCount: number;
  readonly links: readonly LinkFigures[];
  readonly quorums?: readonly QuorumSeatFigures[] | undefined;
  readonly tracker: TrackerMethod | "none";
  readonly outputMode: OutputMode;
  /** The last time that a person decided who owns the guest; absent when nobody ever did. */
  readonly override?: Override | undefined;
  /** Takeovers this engine carried out. The agent adds up over restarts. */
  readonly takeoversCount: number;
  readonly conditions: readonly EngineCondition[];
};

/** A change of state worth a line in the log and an event; `cause` is what the log prints. */
export type EngineTransition = {
  readonly role: EngineRole;
  readonly from: string;
  readonly to: string;
  readonly term: number;
  readonly epoch: number;
  readonly cause: string;
};

/**
 * Why an engine leaves, and so what its agent does next:
 * - `fenced`, `restart`: a new engine at once (it will be a standby or read the record anew);
 * - `ended`: the guest shut itself down: QEMU is removed and nothing starts until somebody asks;
 * - `stopped`: the agent asked for it;
 * - `released`: the guest runs on without an engine, its output open for good; nothing starts until protection is asked for;
 * - `failed`: a new engine after the backoff; `message` goes to status.
 */
export type EngineExitReason = "fenced" | "restart" | "ended" | "stopped" | "released" | "failed";

export type EngineMessage =
  | {
      readonly tag: "guestWanted";
      readonly as: GuestShape;
      /** Kill what runs and start anew. */
      readonly fresh: boolean;
    }
  | { readonly tag: "killGuest" }
  | { readonly tag: "report"; readonly report: EngineReport }
  | { readonly tag: "transition"; readonly transition: EngineTransition }
  | ({ readonly tag: "fault" } & Fault)
  | ({ readonly tag: "repaired" } & Repair)
  | {
      readonly tag: "switchoverAnswered";
      readonly requestId: string;
      readonly accepted: boolean;
      readonly message: string;
    }
  | { readonly tag: "exiting"; readonly reason: EngineExitReason; readonly message: string };

// What the agent tells an engine.

export type AgentMessage =
  | { readonly tag: "configure"; readonly config: EngineConfig; readonly found: FoundGuest | null }
  | ({ readonly tag: "guestFound"; readonly started: boolean } & FoundGuest)
  | { readonly tag: "guestFailed"; readonly message: string }
  /** `pid` is 0 when there was none to kill. */
  | { readonly tag: "guestDied"; readonly pid: number }
  | {
      readonly tag: "retuned";
      readonly mode: AvailabilityMode;
      readonly checkpoint: CheckpointContract;
      readonly failover: FailoverTiming;
      readonly fullResync?: string | undefined;
    }
  /** Null: as much as the links carry. */
  | { readonly tag: "linkShared"; readonly bytesPerSecond: number | null }
  | { readonly tag: "quorumChanged"; readonly quorum: readonly Endpoint[] }
  | { readonly tag: "moveQuorum"; readonly to: QuorumSeat }
  | { readonly tag: "force"; readonly override: OverrideOrder }
  | { readonly tag: "health"; readonly isImpaired: boolean }
  | { readonly tag: "switchover"; readonly requestId: string }
  | { readonly tag: "release" }
  | { readonly tag: "stop"; readonly handOver: boolean };
