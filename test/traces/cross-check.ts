/**
 * What must hold between all traces of one guest, of both its sides and of all engines one after another:
 *
 * - each version of the record is one and the same wherever it was seen, each term has one owner;
 * - no term is activated twice;
 * - output passes freely only under a record that names the node and says Stale;
 * - what was released had been acknowledged to the primary, and the standby had sent that acknowledgement;
 * - epochs of a process and of a session only grow;
 * - a takeover at an epoch lies at or after every release of that session, and no later session of the same engine released
 *   anything before it.
 */
import { type QuorumRecord } from "../../src/protocol/quorum-record.ts";
import { type EngineLife, type TraceStep } from "./replay.ts";

export type CrossCheck = {
  readonly guest: string;
  readonly activations: number;
  readonly releases: number;
  readonly acks: number;
  readonly terms: number;
  readonly problems: readonly string[];
};

type Activation = { readonly session: string; readonly epoch: number; readonly term: number; readonly where: string };

class Facts {
  readonly problems: string[] = [];
  readonly records = new Map<number, QuorumRecord>();
  readonly owners = new Map<number, string>();
  readonly activations: Activation[] = [];
  /** By session. */
  readonly released = new Map<string, number>();
  readonly ackedSent = new Map<string, number>();
  /** Sessions of which a standby's trace may lack the end. */
  readonly openEnded = new Set<string>();
  readonly seenByStandby = new Set<string>();
  readonly handedOver: { readonly term: number; readonly node: string; readonly where: string }[] = [];
  releases = 0;
  acks = 0;
}

export function checkTogether(guest: string, lives: readonly EngineLife[]): CrossCheck {
  const facts = new Facts();
  for (const life of lives) {
    const captured = new Map<string, number>();
    const acked = new Map<string, number>();
    for (const step of life.steps) {
      noteRecord(facts, step, life.where);
      noteEpochs(facts, step, captured, life.where);
      noteAck(facts, step, acked);
      noteEffects(facts, step, acked, life.where);
    }
    noteEnd(facts, life);
  }
  checkAcks(facts);
  checkActivations(facts);
  checkHandOvers(facts);
  const { activations, releases, acks, owners, problems } = facts;
  return { guest, activations: activations.length, releases, acks, terms: owners.size, problems };
}

function noteRecord(facts: Facts, { event }: TraceStep, where: string): void {
  const record =
    event.tag === "recordRead"
      ? event.record
      : event.tag === "quorumAnswered" && "record" in event.outcome
        ? event.outcome.record
        : undefined;
  if (record === null || record === undefined) {
    return;
  }
  const known = facts.records.get(record.version);
  if (known !== undefined && !isSameRecord(known, record)) {
    facts.problems.push(`${where}: version ${record.version} of the record differs from what another engine was told`);
  }
  facts.records.set(record.version, record);
  const owner = facts.owners.get(record.term);
  if (owner !== undefined && owner !== record.owner) {
    facts.problems.push(`${where}: term ${record.term} has two owners, ${owner} and ${record.owner}`);
  }
  facts.owners.set(record.term, record.owner);
}

function isSameRecord(one: QuorumRecord, other: QuorumRecord): boolean {
  const keys = ["guest", "term", "owner", "peer", "peerState", "epoch", "lastRequestId"] as const;
  return keys.every((key) => one[key] === other[key]);
}

function noteEpochs(facts: Facts, { event, before, side }: TraceStep, captured: Map<string, number>, where: string): void {
  if (side.epoch < before.epoch) {
    facts.problems.push(`${where}: the epoch went back from ${before.epoch} to ${side.epoch}`);
  }
  if (event.tag === "captured" || event.tag === "epochHeld") {
    const last = captured.get(event.session) ?? 0;
    if (event.epoch <= last) {
      facts.problems.push(`${where}: epoch ${event.epoch} of ${event.session} comes after ${last}`);
    }
    captured.set(event.session, event.epoch);
  }
}

function noteAck(facts: Facts, { event }: TraceStep, acked: Map<string, number>): void {
  if (event.tag === "received" && event.message.tag === "ack") {
    const { session, epoch } = event.message;
    facts.acks += 1;
    acked.set(session, Math.max(epoch, acked.get(session) ?? 0));
  }
}

function noteEffects(facts: Facts, step: TraceStep, acked: ReadonlyMap<string, number>, where: string): void {
  const { side, effects } = step;
  const { state } = side;
  for (const effect of effects) {
    switch (effect.tag) {
      case "releaseOutput":
        noteRelease(facts, step, effect.throughEpoch, { acked, where });
        break;
      case "openOutput":
        noteOpening(facts, step, where);
        break;
      case "activate":
        if ("session" in state) {
          facts.activations.push({ session: state.session, epoch: effect.epoch, term: effect.term, where });
        }
        break;
      case "send":
        if (effect.message.tag === "ack") {
          const { session, epoch } = effect.message;
          facts.seenByStandby.add(session);
          facts.ackedSent.set(session, Math.max(epoch, facts.ackedSent.get(session) ?? 0));
        }
        break;
      default:
    }
  }
}

function noteOpening(facts: Facts, { before, event, side }: TraceStep, where: string): void {
  const { record, node } = side;
  if (event.tag === "activated" && "term" in before.state && (record?.term ?? 0) < before.state.term) {
    facts.handedOver.push({ term: before.state.term, node, where }); // The primary told it before the quorum did.
  } else if (record?.owner !== node || record.peerState !== "Stale") {
    facts.problems.push(`${where}: output passes freely under a record that does not allow it`);
  }
}

function checkHandOvers(facts: Facts): void {
  for (const { term, node, where } of facts.handedOver) {
    const owner = facts.owners.get(term);
    if (owner !== undefined && owner !== node) {
      facts.problems.push(`${where}: output passes freely in term ${term}, which belongs to ${owner}`);
    }
  }
}

function noteRelease(
  facts: Facts,
  { before }: TraceStep,
  throughEpoch: number,
  known: { readonly acked: ReadonlyMap<string, number>; readonly where: string },
): void {
  const session = "session" in before.state ? before.state.session : undefined;
  const { acked, where } = known;
  facts.releases += 1;
  if (session === undefined || throughEpoch > (acked.get(session) ?? 0)) {
    facts.problems.push(`${where}: epoch ${throughEpoch} was released before its acknowledgement came`);
    return;
  }
  facts.released.set(session, Math.max(throughEpoch, facts.released.get(session) ?? 0));
}

/** A process that was killed may have done a little more than it wrote: of the session it was in. */
function noteEnd(facts: Facts, { steps, isWhole }: EngineLife): void {
  const state = steps.at(-1)?.side.state;
  if (!isWhole && state !== undefined && "session" in state) {
    facts.openEnded.add(state.session);
  }
}

function checkAcks(facts: Facts): void {
  for (const [session, released] of facts.released) {
    const sent = facts.ackedSent.get(session) ?? 0;
    if (facts.seenByStandby.has(session) && !facts.openEnded.has(session) && released > sent) {
      facts.problems.push(`epoch ${released} of ${session} was released, the standby acknowledged only ${sent}`);
    }
  }
}

function checkActivations(facts: Facts): void {
  const terms = new Set<number>();
  for (const { session, epoch, term, where } of facts.activations) {
    if (terms.has(term)) {
      facts.problems.push(`${where}: term ${term} is activated twice`);
    }
    terms.add(term);
    for (const [other, released] of facts.released) {
      if (other === session && released > epoch) {
        facts.problems.push(`${where}: takeover at epoch ${epoch} of ${session}, ${released} had been released`);
      }
      if (isLater(other, session)) {
        facts.problems.push(`${where}: takeover with ${session}, the primary had released output of ${other}`);
      }
    }
  }
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
