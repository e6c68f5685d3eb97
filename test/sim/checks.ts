/**
 * What must hold, whatever happens. The checks know everything: both hosts, the record, what the outside has seen.
 *
 * - At most one gate lets output pass freely, and only while the record names its node and says Stale.
 * - Whatever has left is part of the past of everything that leaves later and of every guest that starts later; after the
 *   loss of both memories at least every answered request is, unless what was lost with them had acknowledged what its disk
 *   had not written yet. One fault alone never costs a protected guest its memory.
 * - The standby equals the primary at every epoch it holds, and at the takeover.
 * - Terms and epochs never go back; no term is activated twice; each term has one owner.
 */
import { type SyncBasis } from "../../src/protocol/messages.ts";
import { type QuorumRecord } from "../../src/protocol/quorum-record.ts";
import { type Side, type SideEvent } from "../../src/protocol/side-state.ts";
import { type Packet, type SimGuest } from "./guest.ts";
import { type Cell, hasLived, type History, isDiskWhole, isSame } from "./history.ts";
import { type SimHost } from "./host.ts";
import { type NodeName, peerOf } from "./network.ts";
import { type World } from "./world.ts";

export class SimViolation extends Error {
  override readonly name = "SimViolation";
}

type Snapshot = {
  readonly session: string;
  readonly epoch: number;
  readonly ram: readonly Cell[];
  readonly disk: readonly Cell[];
};

/** What happened, for the summary of many runs. */
export type Counts = {
  takeovers: number;
  switchovers: number;
  coldBoots: number;
  /** Boots from a disk that had not written all it was given when its host or engine died: only after a second fault. */
  lossyBoots: number;
  epochs: number;
  releases: number;
  deltas: number;
  fullCopies: number;
};

export const zeroCounts: Readonly<Counts> = {
  takeovers: 0,
  switchovers: 0,
  coldBoots: 0,
  lossyBoots: 0,
  epochs: 0,
  releases: 0,
  deltas: 0,
  fullCopies: 0,
};

export class Checks {
  readonly counts: Counts = { ...zeroCounts };
  readonly #world: World;
  /** The newest entry that anybody outside has seen. */
  #seen: History | undefined;
  /** The newest request of which anybody outside has the reply. */
  #answered: History | undefined;
  readonly #captured = new Map<string, Snapshot>();
  readonly #committed = new Map<string, Snapshot>();
  readonly #released = new Map<string, number>();
  readonly #activated = new Set<number>();
  readonly #owners = new Map<number, string>();
  readonly #torn = new Set<NodeName>();
  readonly #forgiven = new Set<History>();
  #record: QuorumRecord | undefined;

  constructor(world: World) {
    this.#world = world;
  }

  fail(says: string): never {
    throw new SimViolation(says);
  }

  expect(holds: boolean, says: string): void {
    if (!holds) {
      this.fail(says);
    }
  }

  isForgiven(entry: History): boolean {
    return this.#forgiven.has(entry);
  }

  noteStep(node: NodeName, before: Side, after: Side, event: SideEvent): void {
    const who = `${node} (${event.tag})`;
    this.expect(after.epoch >= before.epoch, `the epoch went back from ${before.epoch} to ${after.epoch} at ${who}`);
    if (before.record !== null) {
      const newer = after.record;
      this.expect(newer !== null && newer.version >= before.record.version, `the record went back at ${who}`);
      this.expect(newer !== null && newer.term >= before.record.term, `the term went back at ${who}`);
    }
    this.expect(
      !("ask" in after) || after.state.tag !== "ended" || after.timers.length === 0,
      `an engine that has ended has timers at ${who}`,
    );
  }

  noteRecord(record: QuorumRecord): void {
    const before = this.#record;
    this.expect(before === undefined || record.term >= before.term, "the term of the record went back");
    this.expect(before === undefined || record.version === before.version + 1, "the record skipped a version");
    const owner = this.#owners.get(record.term) ?? record.owner;
    this.expect(owner === record.owner, `term ${record.term} has two owners`);
    this.#owners.set(record.term, record.owner);
    this.#record = record;
  }

  /** After every event. */
  afterEvent(): void {
    const { a, b } = this.#world.hosts;
    this.#checkGate(a);
    this.#checkGate(b);
    this.expect(a.guest?.isSeen !== true || b.guest?.isSeen !== true, "two guests are seen");
  }

  #checkGate(host: SimHost): void {
    const { guest } = host;
    if (guest?.isAlive !== true || guest.mode !== "open") {
      return;
    }
    const record = this.#record;
    if (record?.owner !== host.node || record.peerState !== "Stale") {
      const says = record === undefined ? "there is no record" : `the record says ${record.owner}, ${record.peerState}`;
      this.fail(`output passes freely at ${host.node} while ${says}`);
    }
    const other = this.#world.hosts[peerOf(host.node)].guest;
    this.expect(other?.isAlive !== true || other.mode !== "open", "output passes freely at both hosts");
  }

  /** A packet leaves for the outside. */
  noteExposed(host: SimHost, { entry, reply }: Packet): void {
    const seen = this.#seen;
    if (reply && entry.index >= (this.#answered?.index ?? 0)) {
      this.#answered = entry;
    }
    if (seen === undefined || entry.index > seen.index) {
      this.expect(
        seen === undefined || hasLived(entry, seen),
        `${host.node} shows a past that lacks what was seen outside before`,
      );
      this.#seen = entry;
    } else {
      this.expect(hasLived(seen, entry), `${host.node} shows what is not part of the past that was seen outside`);
    }
    const other = this.#world.hosts[peerOf(host.node)].guest;
    if (other?.isAlive === true && !other.isIncoming && other.term > (host.guest?.term ?? 0)) {
      this.expect(
        hasLived(other.head, entry),
        `${host.node} shows what the guest of the newer term has not lived through`,
      );
    }
    this.counts.releases += 1;
  }

  /** A guest begins to run that did not before. */
  noteStart(host: SimHost, guest: SimGuest, how: "boot" | "takeover" | "bootOfStandby"): void {
    const record = this.#record;
    this.expect(
      record?.owner === host.node,
      `${host.node} starts the guest although the record names ${record?.owner}`,
    );
    if (how === "takeover") {
      this.counts.takeovers += 1;
      const seen = this.#seen;
      this.expect(
        seen === undefined || hasLived(guest.head, seen),
        `the takeover by ${host.node} takes back what was seen outside`,
      );
      return;
    }
    if (how === "bootOfStandby") {
      this.counts.takeovers += 1;
      this.#noteBootOfStandby(host, guest);
      return;
    }
    this.#noteBoot(host, guest);
  }

  /** HighAvailability: the guest loses its memory and nothing that it was told is on its disk. */
  #noteBootOfStandby(host: SimHost, guest: SimGuest): void {
    const answered = this.#answered;
    this.expect(isDiskWhole(host.disk.cells), `${host.node} boots from a disk that was never whole`);
    this.expect(
      answered === undefined || hasLived(guest.head, answered),
      `${host.node} boots from a disk that lacks answered requests`,
    );
    this.#seen = guest.head?.before;
  }

  #expectMemoryLost(host: SimHost): void {
    const { faults, mayLoseMemory } = this.#world;
    const isAllowed = mayLoseMemory || faults.sinceProtected !== 1;
    this.expect(isAllowed, `one fault cost a protected guest its memory: ${host.node} boots`);
  }

  /** Nothing that leaves a FaultTolerant guest tells of what is not held; of another's, only an answer says that a write is done. */
  get #lastOnDisk(): History | undefined {
    return this.#world.mayLoseMemory ? this.#answered : this.#seen?.lastRequest;
  }

  #noteBoot(host: SimHost, guest: SimGuest): void {
    const answered = this.#lastOnDisk;
    this.#expectMemoryLost(host);
    const isTorn = this.#torn.has(host.node);
    this.expect(isTorn || isDiskWhole(host.disk.cells), `${host.node} boots from a disk that was never whole`);
    this.expect(this.#record?.peerState === "Stale", `${host.node} boots although the other side may take over`);
    this.counts.coldBoots += answered === undefined ? 0 : 1;
    const keepsAll = answered === undefined || hasLived(guest.head, answered);
    if (!keepsAll) {
      this.expect(isTorn, `${host.node} boots from a disk that lacks answered requests`);
      this.counts.lossyBoots += 1;
      for (
        let at: History | undefined = answered;
        at !== undefined && !hasLived(guest.head, at);
        at = at.before?.lastRequest
      ) {
        this.#forgiven.add(at);
      }
      this.#world.client.forgetAfter(guest.head?.request ?? 0);
      this.#answered = guest.head?.lastRequest;
    }
    if (isTorn) {
      this.#torn.delete(host.node);
      host.disk.repair();
    }
    this.#seen = guest.head?.before;
  }

  /** Power, or the engine, was lost before everything that this disk was given had been written. */
  noteTornDisk(node: NodeName): void {
    this.#torn.add(node);
  }

  noteCapture({ session, epoch, ram, disk }: Snapshot): void {
    this.counts.epochs += 1;
    this.#captured.set(`${session}/${epoch}`, { session, epoch, ram: [...ram], disk: [...disk] });
    this.#captured.delete(`${session}/${epoch - 16}`);
  }

  noteCommit(held: Snapshot): void {
    const captured = this.#captured.get(`${held.session}/${held.epoch}`);
    const which = `epoch ${held.epoch} of ${held.session}`;
    if (captured === undefined) {
      this.fail(`the standby holds ${which}, which the primary never captured`);
    }
    this.expect(isSame(captured.ram, held.ram), `the standby's memory differs from the primary's at ${which}`);
    this.expect(isSame(captured.disk, held.disk), `the standby's disk differs from the primary's at ${which}`);
    this.#committed.set(held.session, captured);
  }

  noteRelease(session: string, throughEpoch: number): void {
    this.#released.set(session, Math.max(throughEpoch, this.#released.get(session) ?? 0));
  }

  noteActivation(host: SimHost, taken: { session: string; epoch: number; term: number; ram: readonly Cell[] }): void {
    const { session, epoch, term, ram } = taken;
    this.expect(!this.#activated.has(term), `term ${term} is activated twice`);
    this.#activated.add(term);
    const released = this.#released.get(session) ?? 0;
    this.expect(epoch >= released, `${host.node} takes over at epoch ${epoch}, epoch ${released} has been released`);
    const committed = this.#committed.get(session);
    this.expect(committed?.epoch === epoch, `${host.node} takes over at epoch ${epoch}, which it does not hold`);
    this.expect(
      committed !== undefined && isSame(ram, committed.ram),
      "memory changed since the epoch that is taken over",
    );
    this.expect(
      committed !== undefined && isSame(host.disk.cells, committed.disk),
      "the disk changed since the epoch that is taken over",
    );
    this.#torn.delete(host.node);
  }

  noteSync(ram: SyncBasis["tag"]): void {
    if (ram === "delta") {
      this.counts.deltas += 1;
    } else {
      this.counts.fullCopies += 1;
    }
  }
}
