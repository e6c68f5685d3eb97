/**
 * The small world in which the exhaustive model lives: two hosts, the quorum's record, the links between the hosts and the
 * requests on their way to the quorum. Values never change in place except for the world itself, which is copied for each
 * transition; so equal parts are shared and their encoding is computed once.
 *
 * A guest is the string of the outputs it has made: each letter one output, each life of the guest (boot or takeover) with a
 * letter of its own. What has been seen outside is such a string too. "Nothing seen outside may be taken back" then reads: what
 * was seen is a prefix of the past of whatever runs later.
 */
import { type AvailabilityMode, type Message } from "../../src/protocol/messages.ts";
import { type QuorumDecision, type QuorumRecord, type QuorumRequest } from "../../src/protocol/quorum-record.ts";
import { type Side } from "../../src/protocol/side-state.ts";

export type HostIndex = 0 | 1;
export const NODES = ["a", "b"] as const;
export const HOSTS: readonly HostIndex[] = [0, 1];

export function other(host: HostIndex): HostIndex {
  return host === 0 ? 1 : 0;
}

/** What a waiting QEMU has in its memory: complete at an epoch, or (null) nothing that could run. */
export type Content = { readonly session: string; readonly epoch: number; readonly past: string } | null;

/** One QEMU process. */
export type Guest = {
  readonly mode: "incoming" | "prelaunch" | "running" | "paused";
  /** Letter of the outputs of this life. */
  readonly life: string;
  readonly past: string;
  /** `lapsed`: a lease that is over, so that nothing leaves until it is renewed. */
  readonly gate: "open" | "held" | "closed" | "leased" | "lapsed";
  /** How much of `past` has left, or was thrown away. */
  readonly gone: number;
  readonly holds: Content;
};

/** The primary's end of a session. */
export type Replication = {
  readonly session: string;
  readonly link: string;
  readonly mode: AvailabilityMode;
  readonly phase: "copying" | "copied" | "epochs";
  /** HighAvailability: the guest's memory is being copied as well. */
  readonly copiesMemory: boolean;
  /** How long the guest's past was at the last capture. */
  readonly capturedLength: number;
  readonly next: number;
  readonly first: number;
  /** Captured and not released: how long the guest's past was at each. */
  readonly marks: readonly { readonly epoch: number; readonly length: number }[];
  readonly finalWanted: boolean;
  readonly stopped: boolean;
  /** What the standby really held last of this session. */
  readonly heldPast: string | null;
};

export type Engine = {
  readonly side: Side;
  readonly opens: "dial" | "listen" | null;
  readonly replication: Replication | null;
  /** From which acknowledged epoch on this engine knows all that was written since. */
  readonly base: { readonly session: string; readonly epoch: number; readonly mode: AvailabilityMode } | null;
  readonly reception: { readonly session: string; readonly staged: Content } | null;
  readonly starting: "primary" | "standby" | null;
  readonly activating: boolean;
  /** QEMU is gone and the engine has not heard of it. */
  readonly deathUnheard: boolean;
};

export type Host = {
  readonly engine: Engine | null;
  readonly guest: Guest | null;
  /** The guest switched itself off: nothing is started any more. */
  readonly resting: boolean;
  /** What fingerprint.ts writes for it, once written. */
  text: string;
};

export type EpochFrames = {
  readonly tag: "epochFrames";
  readonly session: string;
  readonly epoch: number;
  readonly past: string;
};
export type Item = Message | EpochFrames;

/** One replication link. An end is up as long as its engine has not heard that the connection is gone. */
export type Link = {
  readonly name: string;
  readonly up: readonly [boolean, boolean];
  readonly closing: readonly [boolean, boolean];
  /** On the way to each host. */
  readonly queues: readonly [readonly Item[], readonly Item[]];
  /** What fingerprint.ts writes for it, once written. */
  text: string;
};

export type Call =
  | {
      readonly tag: "read";
      readonly host: HostIndex;
      /** What the record was at some time since the question: any of it may be the answer. */
      readonly records: readonly (QuorumRecord | null)[];
      /** The side asked again meanwhile, so it is answered twice. */
      readonly twice: boolean;
    }
  | {
      readonly tag: "ask";
      readonly host: HostIndex;
      readonly request: QuorumRequest;
      readonly decision: QuorumDecision | null;
    }
  /** A request nobody waits for: a duplicate, or one whose sender gave up or died. It may yet be carried out. */
  | { readonly tag: "stray"; readonly request: QuorumRequest };

export type Budget = {
  readonly faults: number;
  readonly outputs: number;
  readonly epochs: number;
  readonly switchovers: number;
  /** How often somebody may say that the guest is to run on unprotected: a protected side has to be told twice. */
  readonly releases: number;
  /** How often the mode is changed. */
  readonly modes: number;
};

export type World = {
  /** What the assignments say now. */
  mode: AvailabilityMode;
  record: QuorumRecord | null;
  hosts: [Host, Host];
  links: readonly Link[];
  calls: readonly Call[];
  /** The longest past of which an output was seen outside. */
  released: string;
  livesCount: number;
  coldBoots: number;
  budget: Budget;
};

export function createWorld(linksCount: number, budget: Budget, mode: AvailabilityMode = "FaultTolerant"): World {
  const host: Host = { engine: null, guest: null, resting: false, text: "" };
  const names = ["l", "m", "n"].slice(0, linksCount);
  return {
    mode,
    record: null,
    hosts: [host, host],
    links: names.map((name) => emptyLink(name)),
    calls: [],
    released: "",
    livesCount: 0,
    coldBoots: 0,
    budget,
  };
}

export function emptyLink(name: string): Link {
  return { name, up: [false, false], closing: [false, false], queues: [[], []], text: "" };
}

export function copyWorld(world: World): World {
  return { ...world, hosts: [world.hosts[0], world.hosts[1]] };
}

/** A pair with one place replaced. */
export function withPlace<T>(pair: readonly [T, T], place: HostIndex, value: T): [T, T] {
  return place === 0 ? [value, pair[1]] : [pair[0], value];
}
