/**
 * What must hold between all traces of one guest, of both its sides and of all engines one after another:
 *
 * - each version of the record is one and the same wherever it was seen, each term has one owner;
 * - no term is activated twice;
 * - output passes freely only under a record that names the node and says Stale;
 * - what was released had been acknowledged to the primary, and the standby had sent that acknowledgement;
 * - output passes by a lease only in a session of HighAvailability whose standby has acknowledged something; when such a session
 *   that may be in sync is lost, output is held and the guest paused before the quorum is asked;
 * - epochs of a process and of a session only grow;
 * - a takeover at an epoch lies at or after every release of that session, and no later session of the same engine released
 *   anything before it.
 */
import { type Message } from "../../src/protocol/messages.ts";
import { type QuorumRecord } from "../../src/protocol/quorum-record.ts";
import { type Side } from "../../src/protocol/side-state.ts";
import { type TraceStep } from "./replay.ts";

type Activation = { readonly session: string; readonly epoch: number; readonly term: number; readonly where: string };
type Opening = { readonly term: number; readonly node: string; readonly where: string };

export class CrossCheck {
  readonly problems: string[] = [];
  processes = 0;
  releases = 0;
  leases = 0;
  acks = 0;
  readonly #records = new Map<number, QuorumRecord>();
  readonly #owners = new Map<number, string>();
  readonly #activations: Activation[] = [];
  readonly #openings: Opening[] = [];
  /** Highest epoch of each session: released by the primary, acknowledged by the standby. */
  readonly #released = new Map<string, number>();
  readonly #ackSent = new Map<string, number>();
  /** Sessions in which a process was killed: it may have done a little more than it wrote. */
  readonly #openEnded = new Set<string>();
  // Of the process at hand, by session.
  #epochs = new Map<string, number>();
  #ackReceived = new Map<string, number>();
  #where = "";

  get takeovers(): number {
    return this.#activations.length;
  }

  get terms(): number {
    return this.#owners.size;
  }

  begin(where: string): void {
    this.processes += 1;
    this.#where = where;
    this.#epochs = new Map();
    this.#ackReceived = new Map();
  }

  take(step: TraceStep): void {
    this.#noteRecord(step);
    this.#noteEpochs(step);
    const { event } = step;
    if (event.tag === "received" && isAcknowledgement(event.message)) {
      this.acks += 1;
      raise(this.#ackReceived, event.message.session, event.message.epoch);
    }
    this.#noteEffects(step);
  }

  end(last: Side): void {
    const { state } = last;
    if (state.tag !== "ended" && "session" in state) {
      this.#openEnded.add(state.session);
    }
  }

  /** What can be said only when all traces have been read. */
  finish(): void {
    for (const { term, node, where } of this.#openings) {
      const owner = this.#owners.get(term);
      if (owner !== undefined && owner !== node) {
        this.problems.push(`${where}: output passes freely in term ${term}, which belongs to ${owner}`);
      }
    }
    for (const [session, released] of this.#released) {
      const sent = this.#ackSent.get(session);
      if (sent !== undefined && !this.#openEnded.has(session) && released > sent) {
        this.problems.push(`epoch ${released} of ${session} was released, the standby acknowledged only ${sent}`);
      }
    }
    this.#checkActivations();
  }

  #report(problem: string): void {
    this.problems.push(`${this.#where}: ${problem}`);
  }

  #noteRecord({ event }: TraceStep): void {
    const record = recordIn(event);
    if (record === null || record === undefined) {
      return;
    }
    const known = this.#records.get(record.version);
    if (known !== undefined && !isSameRecord(known, record)) {
      this.#report(`version ${record.version} of the record differs from what another engine was told`);
    }
    this.#records.set(record.version, record);
    const owner = this.#owners.get(record.term);
    if (owner !== undefined && owner !== record.owner) {
      this.#report(`term ${record.term} has two owners, ${owner} and ${record.owner}`);
    }
    this.#owners.set(record.term, record.owner);
  }

  #noteEpochs({ event, before, side }: TraceStep): void {
    if (side.epoch < before.epoch) {
      this.#report(`the epoch went back from ${before.epoch} to ${side.epoch}`);
    }
    if (event.tag === "captured" || event.tag === "epochHeld") {
      const last = this.#epochs.get(event.session) ?? 0;
      if (event.epoch <= last) {
        this.#report(`epoch ${event.epoch} of ${event.session} comes after ${last}`);
      }
      this.#epochs.set(event.session, event.epoch);
    }
  }

  #noteEffects(step: TraceStep): void {
    const { state } = step.side;
    for (const effect of step.effects) {
      switch (effect.tag) {
        case "releaseOutput":
          this.#noteRelease(step, effect.throughEpoch);
          break;
        case "openOutput":
          this.#noteOpening(step);
          break;
        case "leaseOutput":
          this.#noteLease(step);
          break;
        case "askQuorum":
          this.#noteAsking(step);
          break;
        case "activate":
          if ("session" in state) {
            const { epoch, term } = effect;
            this.#activations.push({ session: state.session, epoch, term, where: this.#where });
          }
          break;
        case "send":
          if (isAcknowledgement(effect.message)) {
            raise(this.#ackSent, effect.message.session, effect.message.epoch);
          }
          break;
        default:
          break;
      }
    }
  }

  #noteLease({ before: { state } }: TraceStep): void {
    this.leases += 1;
    const isAllowed = "mode" in state && state.mode === "HighAvailability" && this.#ackReceived.has(state.session);
    if (!isAllowed) {
      this.#report(
        `output passes by a lease in ${state.tag}, where nothing was acknowledged at the level HighAvailability`,
      );
    }
  }

  #noteAsking({ before: { state }, effects }: TraceStep): void {
    const mayBeInSync = state.tag === "declaring" ? state.asked : ["protected", "handingOver"].includes(state.tag);
    const isLeased = "mode" in state && state.mode === "HighAvailability" && mayBeInSync;
    const asksToRun = effects.some((effect) => effect.tag === "askQuorum" && effect.request.change.tag === "runAlone");
    if (!isLeased || !asksToRun) {
      return;
    }
    const order = effects.map(({ tag }) => tag);
    const before = order.slice(0, order.indexOf("askQuorum"));
    if (!before.includes("holdOutput") || !before.includes("pauseGuest")) {
      this.#report(`the quorum is asked after a loss in ${state.tag} while the guest runs and its output passes`);
    }
  }

  #noteRelease({ before }: TraceStep, throughEpoch: number): void {
    const session = "session" in before.state ? before.state.session : undefined;
    this.releases += 1;
    if (session === undefined || throughEpoch > (this.#ackReceived.get(session) ?? 0)) {
      this.#report(`epoch ${throughEpoch} was released before its acknowledgement came`);
    } else {
      raise(this.#released, session, throughEpoch);
    }
  }

  #noteOpening({ before, event, side }: TraceStep): void {
    const { record, node } = side;
    if (event.tag === "activated" && "term" in before.state && (record?.term ?? 0) < before.state.term) {
      // After a hand-over the primary may have told it before the quorum did.
      this.#openings.push({ term: before.state.term, node, where: this.#where });
    } else if (record?.owner !== node || record.peerState !== "Stale") {
      this.#report("output passes freely under a record that does not allow it");
    }
  }

  #checkActivations(): void {
    const terms = new Set<number>();
    for (const { session, epoch, term, where } of this.#activations) {
      if (terms.has(term)) {
        this.problems.push(`${where}: term ${term} is activated twice`);
      }
      terms.add(term);
      for (const [other, released] of this.#released) {
        if (other === session && released > epoch) {
          this.problems.push(`${where}: takeover at epoch ${epoch} of ${session}, ${released} had been released`);
        }
        if (isLater(other, session)) {
          this.problems.push(`${where}: takeover with ${session}, the primary had released output of ${other}`);
        }
      }
    }
  }
}

function recordIn(event: TraceStep["event"]): QuorumRecord | null | undefined {
  if (event.tag === "recordRead") {
    return event.record;
  }
  return event.tag === "quorumAnswered" && "record" in event.outcome ? event.outcome.record : undefined;
}

function isSameRecord(one: QuorumRecord, other: QuorumRecord): boolean {
  const keys = ["guest", "term", "owner", "peer", "peerState", "epoch", "lastRequestId"] as const;
  return keys.every((key) => one[key] === other[key]);
}

function raise(highest: Map<string, number>, session: string, epoch: number): void {
  highest.set(session, Math.max(epoch, highest.get(session) ?? 0));
}

/** Of one engine in one term: sessions are `term.nonce.count`. */
function isLater(one: string, other: string): boolean {
  const [term, nonce, count] = splitSession(one);
  const [otherTerm, otherNonce, otherCount] = splitSession(other);
  return term === otherTerm && nonce === otherNonce && Number(count) > Number(otherCount);
}

function splitSession(session: string): readonly [string, string, string] {
  const first = session.indexOf(".");
  const last = session.lastIndexOf(".");
  return [session.slice(0, first), session.slice(first + 1, last), session.slice(last + 1)];
}

/** Of all epochs up to the one it names: whoever goes on on another link says it there once more. */
function isAcknowledgement(message: Message): message is Extract<Message, { tag: "ack" | "resumed" }> {
  return message.tag === "ack" || message.tag === "resumed";
}
