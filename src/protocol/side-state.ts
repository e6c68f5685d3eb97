/**
 * The state of one side of a pair, what can happen to it and what it wants done: the vocabulary of side.ts, primary.ts and
 * standby.ts.
 *
 * The machine has no clock. Time comes in as `timerFired` of a timer it started, so that the exhaustive model may let any
 * armed timer fire at any moment; liveness.ts, which has the clock, turns heartbeats into `linkUp` and `linkDown`.
 */
import {
  type AvailabilityMode,
  type Holding,
  type MachineShape,
  type Message,
  type RefusalCode,
  type SessionId,
  type SyncBasis,
} from "./messages.ts";
import { type QuorumDecision, type QuorumRecord, type QuorumRequest } from "./quorum-record.ts";

/** The timers a side may have armed; each at most once. Lengths in timing.ts. */
export type TimerName =
  /** Ask the quorum again. */
  | "retry"
  /** Without a peer: look at the record again, it may have changed. */
  | "look"
  /** Standby: all links are gone; a living primary asks before this ends. */
  | "grace"
  /** Primary that is impaired and lost its standby: one that lives, is healthy and cut off asks before this ends. */
  | "yield"
  /** Primary: an epoch waits too long for its acknowledgement. */
  | "ackOverdue"
  /** Primary: output has been held too long with no answer from the quorum. */
  | "heldTooLong"
  /** Owner without a guest: time for a standby that holds its memory to take over. */
  | "coldGrace";

/** Why the last link went, which decides how long a standby waits before it asks. */
export type LostBy = "closed" | "silent";

/** What a new engine found of its guest. */
export type FoundGuestState = "none" | "incoming" | "running";

/** A request that was put to the quorum and has no definite answer yet. */
export type Ask = {
  readonly request: QuorumRequest;
  /** The shell is carrying it now. */
  readonly underWay: boolean;
  /** An earlier attempt may have been carried out although no answer came. */
  readonly mayBeDelivered: boolean;
};

/**
 * The epochs of a session as the primary sees them; `first` is the one that made the standby's state complete. In a session of
 * HighAvailability an epoch is some writes of the guest, which have their answer when it is acknowledged.
 */
export type EpochProgress = { readonly first: number; readonly captured: number; readonly acked: number };

/** What the last session's standby is known to hold; of a session of HighAvailability that is the disks alone. */
export type LastHeld = Holding & { readonly mode: AvailabilityMode };

type InSession = { readonly session: SessionId; readonly link: string; readonly mode: AvailabilityMode };

/** `isResuming`: the link that carried the session is lost, and the standby was asked on this one how far it came. */
type WithClaim = InSession & { readonly epochs: EpochProgress; readonly isResuming: boolean };

export type PrimaryState =
  /** The quorum knows that nobody else may run: output passes. */
  | { readonly tag: "alone"; readonly last: LastHeld | null }
  /** First copy or resync, the guest running. `held`: still without the quorum's leave to run alone, output stays held. */
  | (InSession & { readonly tag: "syncing"; readonly held: boolean; readonly copied: boolean })
  /** Epochs run, the quorum has not said InSync yet. `asked`: it may have. */
  | (InSession & {
      readonly tag: "declaring";
      readonly held: boolean;
      readonly epochs: EpochProgress;
      readonly asked: boolean;
    })
  | (WithClaim & { readonly tag: "protected" })
  /** The standby is lost, the quorum asked for leave to run alone; output held. */
  | { readonly tag: "arbitrating"; readonly last: LastHeld | null; readonly paused: boolean }
  /** Planned switchover: the guest stands still at `epoch` (0 until captured). */
  | (WithClaim & {
      readonly tag: "handingOver";
      readonly finalEpoch: number;
      readonly asked: boolean;
      readonly lost: boolean;
    })
  /** Owner of the last term, its guest gone, the record InSync: a standby that holds the memory goes first. */
  | { readonly tag: "coldWaiting"; readonly asking: boolean }
  /** Starting the guest from its own disks. */
  | { readonly tag: "booting" };

export type StandbyState =
  /** Listening, or (`ready` false) until QEMU waits for its state. */
  | { readonly tag: "waiting"; readonly ready: boolean }
  | { readonly tag: "receiving"; readonly session: SessionId; readonly link: string; readonly term: number }
  /**
   * Complete at `epoch`: may take over. `link` null: the stream is gone, the state is not. `expectsGuest`: the primary's stands still
   * for a hand-over.
   */
  | {
      readonly tag: "holding";
      readonly session: SessionId;
      readonly link: string | null;
      readonly term: number;
      readonly epoch: number;
      readonly expectsGuest: boolean;
    }
  /** The primary seems lost; reading the record (`ask` null) or asking for the guest. */
  | { readonly tag: "asking"; readonly session: SessionId; readonly term: number; readonly epoch: number }
  | { readonly tag: "activating"; readonly term: number; readonly epoch: number; readonly session: SessionId };

export type SideState =
  | { readonly tag: "starting"; readonly found: FoundGuestState }
  | ({ readonly role: "primary" } & PrimaryState)
  | ({ readonly role: "standby" } & StandbyState)
  | { readonly tag: "ended"; readonly reason: ExitReason };

/** See EngineExitReason in assignment.ts. */
export type ExitReason = "fenced" | "restart" | "ended" | "stopped" | "released" | "failed";

export type Side = {
  readonly guest: string;
  readonly node: string;
  readonly peer: string;
  /** Whether this node creates the record when there is none. */
  readonly createsRecord: boolean;
  /** What is asked for now; a session that runs may still be of the other. */
  readonly mode: AvailabilityMode;
  /** Different for every engine process; part of request ids. */
  readonly nonce: string;
  /** The newest record this side has seen. */
  readonly record: QuorumRecord | null;
  readonly ask: Ask | null;
  /** Links with a connection, in the order they came up. */
  readonly links: readonly string[];
  /** Timers that are armed, sorted. */
  readonly timers: readonly TimerName[];
  /** Of our QEMU; null until it is there. */
  readonly shape: MachineShape | null;
  /** The highest epoch captured or held: epochs of a guest never go back. */
  readonly epoch: number;
  /** Sessions begun by this engine. */
  readonly sessionCount: number;
  /** Something of this node is broken that the other one may have whole: a disk, the way to the clients. */
  readonly isImpaired: boolean;
  readonly state: SideState;
};

export type QuorumOutcome =
  | QuorumDecision
  /** Certainly not carried out: no quorum could be reached. */
  | { readonly tag: "unreachable" }
  /** Sent, no answer: it may have been carried out, or may be yet. */
  | { readonly tag: "unknown" };

export type SideEvent =
  /** First event, once: what the engine found. With "running" the guest is attached and its output is held. */
  | { readonly tag: "started"; readonly found: FoundGuestState; readonly shape: MachineShape | null }
  | { readonly tag: "recordRead"; readonly record: QuorumRecord | null }
  /** The quorum could not be read. */
  | { readonly tag: "recordUnread" }
  | { readonly tag: "quorumAnswered"; readonly requestId: string; readonly outcome: QuorumOutcome }
  /** The QEMU of `startGuest` is attached: stopped, output held. */
  | { readonly tag: "guestReady"; readonly shape: MachineShape }
  | { readonly tag: "guestFailed" }
  /** QEMU is gone, or its guest cannot go on (its disk or our engine's hold on it failed). */
  | { readonly tag: "guestDied" }
  /** The guest switched itself off. */
  | { readonly tag: "guestShutDown" }
  | { readonly tag: "linkUp"; readonly link: string }
  | { readonly tag: "linkDown"; readonly link: string; readonly by: LostBy }
  | { readonly tag: "received"; readonly link: string; readonly message: Message }
  /** Primary: the copy of `beginSync` or `copyMemory` has caught up; what is left goes with the first epoch. */
  | { readonly tag: "copied"; readonly session: SessionId }
  /** Primary: the guest was stopped, everything of the epoch copied out, its output marked; shipping has begun. */
  | { readonly tag: "captured"; readonly session: SessionId; readonly epoch: number; readonly final: boolean }
  /** Primary: what was sent of this session can never become a whole epoch; only another one can go on. */
  | { readonly tag: "sessionFailed"; readonly session: SessionId }
  /** Standby: every frame of the epoch is here. */
  | { readonly tag: "epochHeld"; readonly session: SessionId; readonly epoch: number }
  /** Standby: what was received cannot be applied. */
  | { readonly tag: "applyFailed"; readonly session: SessionId; readonly reason: string }
  | { readonly tag: "activated" }
  | { readonly tag: "activateFailed" }
  | { readonly tag: "healthChanged"; readonly isImpaired: boolean }
  | { readonly tag: "switchoverAsked" }
  | { readonly tag: "modeAsked"; readonly mode: AvailabilityMode }
  /**
   * The guest is to run on here without a pair, for good. Said again after every event while it is wanted and the quorum can be
   * reached: only who may let its output go unheld ends by it, and a protected side has to give its standby up first.
   */
  | { readonly tag: "releaseAsked" }
  | { readonly tag: "stopAsked" }
  | { readonly tag: "timerFired"; readonly timer: TimerName };

/**
 * What the shell has to do, in this order, before it gives the machine the next event. None of them waits inside the machine:
 * what takes time answers with an event.
 */
export type Effect =
  | { readonly tag: "readRecord" }
  /** Answered by `quorumAnswered`, always. */
  | { readonly tag: "askQuorum"; readonly request: QuorumRequest }
  /** Arms a timer, anew when it was armed. */
  | { readonly tag: "startTimer"; readonly timer: TimerName }
  | { readonly tag: "stopTimer"; readonly timer: TimerName }
  /** Dial the peer on every link (primary) or listen (standby); links of the other kind are closed. */
  | { readonly tag: "openLinks"; readonly as: "dial" | "listen" }
  /** Ends one connection; answered by linkDown. */
  | { readonly tag: "closeLink"; readonly link: string }
  | { readonly tag: "send"; readonly link: string; readonly message: Message }
  /** Start a QEMU, killing one that runs: from its disks, stopped (`primary`), or waiting for state (`standby`). */
  | { readonly tag: "startGuest"; readonly as: "primary" | "standby" }
  | { readonly tag: "killGuest" }
  | { readonly tag: "pauseGuest" }
  | { readonly tag: "resumeGuest" }
  /** Let everything held leave, in order, and everything later pass. */
  | { readonly tag: "openOutput" }
  /** Hold what the guest sends from now on. */
  | { readonly tag: "holdOutput" }
  /** Let output pass for as long as the standby is certain to have been heard from, and not a moment longer; see output-gate.ts. */
  | { readonly tag: "leaseOutput" }
  | { readonly tag: "releaseOutput"; readonly throughEpoch: number }
  /** Throw away what is held; nothing leaves any more. */
  | { readonly tag: "discardOutput" }
  /**
   * Tell switches that the guest's addresses are here. A standby does it before it asks for the guest, so that what clients send
   * meanwhile waits at its taps; a primary whenever it stays the owner, in case the standby did.
   */
  | { readonly tag: "announceGuest" }
  /** Copy memory and disks on `link`, answered by `copied`. */
  | {
      readonly tag: "beginSync";
      readonly session: SessionId;
      readonly link: string;
      readonly ram: SyncBasis;
      readonly disks: SyncBasis;
    }
  /** HighAvailability: copy the guest's memory too while it runs and its writes go on as before, answered by `copied`. */
  | { readonly tag: "copyMemory"; readonly session: SessionId }
  /**
   * Take epochs from `first` on, each answered by `captured`. Output is held from the stop of the first one on, or at once where
   * `copyMemory` came before. In a session of HighAvailability an epoch is what the guest wrote since the one before; no write of
   * the guest is answered before `releaseOutput` of its epoch, or the end of the session.
   */
  | { readonly tag: "startEpochs"; readonly session: SessionId; readonly first: number }
  /** Take one more epoch at once, answered by `captured` with `final`, and leave the guest stopped. */
  | { readonly tag: "captureFinal" }
  /** Send everything from epoch `from` on again, on `link`, and what comes then. */
  | { readonly tag: "resumeStream"; readonly session: SessionId; readonly link: string; readonly from: number }
  /** The session is over: no more epochs; what was not acknowledged through `acked` counts as lacking at the standby. */
  | { readonly tag: "endSession"; readonly session: SessionId; readonly acked: number }
  /** Standby: prepare for the frames of this session. */
  | { readonly tag: "beginReceiving"; readonly session: SessionId; readonly ram: SyncBasis; readonly disks: SyncBasis }
  /** Standby: apply the epoch, which is here whole. */
  | { readonly tag: "commitEpoch"; readonly epoch: number }
  /** Standby: throw away what has arrived of epochs that are not whole. */
  | { readonly tag: "discardStaged" }
  /** Let the guest run from `epoch`, or boot it from the disks of a session without memory; output held until `activated`. */
  | { readonly tag: "activate"; readonly epoch: number; readonly term: number }
  /** A refusal that a person has to know of. */
  | { readonly tag: "reportRefusal"; readonly code: RefusalCode; readonly message: string }
  | { readonly tag: "exit"; readonly reason: ExitReason; readonly message: string };

export type Step = { readonly side: Side; readonly effects: readonly Effect[] };
export type PrimarySide = Side & { readonly state: { readonly role: "primary" } & PrimaryState };
export type StandbySide = Side & { readonly state: { readonly role: "standby" } & StandbyState };
