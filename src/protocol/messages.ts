/**
 * What the two engines of a guest tell one another, apart from bulk data (frames.ts has the bytes of both).
 *
 * The primary dials every replication link; on each it says `hello` first and the standby answers `welcome` or `refuse`.
 * One link carries the data (the one on which the primary sends `syncBegin`), all carry heartbeats.
 *
 *   primary                                     standby
 *     | hello {term, shape}              ------>  |   on every link
 *     | <------       welcome {holds} or refuse   |
 *     | syncBegin {session, basis}       ------>  |   on the data link; bulk pages and disk writes follow
 *     | epoch 1: pages, writes, device state, epochEnd ->|
 *     | <------                      ack {epoch}  |   it holds all of it
 *     |   (quorum grants declareInSync)           |
 *     | inSync {version}                 ------>  |   from here on the standby may ask to take over
 *     | epoch 2 ...                               |
 *     | resume {session}                 ------>  |   the data link is lost: on another one
 *     | <------                  resumed {epoch}  |   what it holds; what was sent after it is sent again
 *     | expectGuest, handOver {epoch} / guestDied / guestShutDown -> |
 */

/** A frame format or a meaning changed: other numbers do not talk to one another. */
export const PROTOCOL_VERSION = 4;

/** What a failure costs the guest: nothing at all, or a boot on the other node. */
export type AvailabilityMode = "FaultTolerant" | "HighAvailability";

export type NodeName = string;
/** One synchronisation of one standby; chosen by the primary, never used twice for a guest (term, then a count). */
export type SessionId = string;

/** What has to be equal on both sides for the standby to run what the primary ran. */
export type MachineShape = {
  readonly qemuVersion: string;
  readonly machine: string;
  readonly ramBlocks: readonly { readonly name: string; readonly bytes: number }[];
  /** The standby's disk may be larger, not smaller; null is a standby's that takes the size of the primary's. */
  readonly disks: readonly { readonly id: string; readonly bytes: number | null }[];
  /** Device models of QEMU's and how many there are of each, in a fixed order: state of one that a side lacks cannot be loaded. */
  readonly devices: readonly { readonly model: string; readonly count: number }[];
};

/** A complete state that a living standby engine has: the basis of a delta. */
export type Holding = { readonly session: SessionId; readonly epoch: number };

export type RefusalCode =
  | "ProtocolVersion"
  | "WrongGuest"
  | "StaleTerm"
  | "MachineMismatch"
  | "RamMismatch"
  | "DiskTooSmall"
  | "NotStandby"
  | "TakeoverPending";

/** Where the copy starts from: `delta` is what changed since the epoch the standby holds. */
export type SyncBasis =
  | { readonly tag: "delta"; readonly session: SessionId; readonly epoch: number }
  | { readonly tag: "hashes" }
  | { readonly tag: "full" }
  /** Of memory only what a boot needs: the session is one of HighAvailability. */
  | { readonly tag: "firmware" };

export type Message =
  | {
      readonly tag: "hello";
      readonly version: number;
      readonly guest: string;
      readonly node: NodeName;
      readonly term: number;
      readonly shape: MachineShape;
    }
  | {
      readonly tag: "welcome";
      readonly version: number;
      readonly node: NodeName;
      readonly term: number;
      readonly holds: Holding | null;
      /** True when the disks belong to what is held, so that a delta suffices for them as well. */
      readonly disksKnown: boolean;
    }
  | { readonly tag: "refuse"; readonly code: RefusalCode; readonly message: string; readonly term: number }
  | { readonly tag: "heartbeat"; readonly sequence: number; readonly echo: number }
  | { readonly tag: "syncBegin"; readonly session: SessionId; readonly ram: SyncBasis; readonly disks: SyncBasis }
  | { readonly tag: "ack"; readonly session: SessionId; readonly epoch: number }
  | { readonly tag: "inSync"; readonly session: SessionId; readonly epoch: number; readonly version: number }
  /** The link that carried the session is lost; it is to go on over the one on which this comes. */
  | { readonly tag: "resume"; readonly session: SessionId }
  /** The standby holds `epoch` of it whole, and has thrown away what it had of later ones. */
  | { readonly tag: "resumed"; readonly session: SessionId; readonly epoch: number }
  /** The standby cannot follow any more (disk full, applying failed); the primary goes on alone. */
  | { readonly tag: "stale"; readonly session: SessionId; readonly reason: string }
  /**
   * The guest stands still, and goes on at the standby once the quorum has granted that: what clients send from now on is to
   * wait there. No claim to the guest; when it stays after all, the primary announces it again.
   */
  | { readonly tag: "expectGuest"; readonly session: SessionId }
  /** The quorum granted the hand-over: the standby owns the guest from `term` on, at `epoch`. */
  | { readonly tag: "handOver"; readonly session: SessionId; readonly epoch: number; readonly term: number }
  | { readonly tag: "guestDied"; readonly epoch: number }
  | { readonly tag: "guestShutDown" };
