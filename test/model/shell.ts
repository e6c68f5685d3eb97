/**
 * Carries out in a {@link World} what the protocol machine wants done, the way the engine does it, and checks on every step
 * what must never happen. What takes time in the engine (a copy, a start, an answer) is left to a move of its own (moves.ts).
 */
import { step } from "../../src/protocol/side.ts";
import { decideQuorumRequest } from "../../src/protocol/quorum-record.ts";
import { type Message } from "../../src/protocol/messages.ts";
import { type Effect, type Side, type SideEvent, type Step } from "../../src/protocol/side-state.ts";
import {
  type Content,
  type Engine,
  type Guest,
  type Host,
  HOSTS,
  type HostIndex,
  type Item,
  NODES,
  other,
  type Replication,
  withPlace,
  type World,
} from "./world.ts";

/** What the model runs: production's functions, or in a test ones that break a rule. */
export type Rules = {
  readonly step: (side: Side, event: SideEvent) => Step;
  readonly decide: typeof decideQuorumRequest;
};

export const productionRules: Rules = { step, decide: decideQuorumRequest };

export class Violation extends Error {
  override readonly name = "Violation";
}

type EffectOf<Tag extends Effect["tag"]> = Extract<Effect, { readonly tag: Tag }>;

export class Shell {
  readonly world: World;
  readonly #rules: Rules;

  constructor(world: World, rules: Rules) {
    this.world = world;
    this.#rules = rules;
  }

  /** Gives the machine one event and performs what it answers. */
  post(host: HostIndex, event: SideEvent): void {
    const engine = this.#engine(host);
    if (engine.side.state.tag === "ended") {
      return;
    }
    const { side, effects } = this.#rules.step(engine.side, event);
    if (side.epoch < engine.side.epoch) {
      throw new Violation(`epoch of ${NODES[host]} goes back from ${engine.side.epoch} to ${side.epoch}`);
    }
    this.setEngine(host, { side });
    for (const effect of effects) {
      this.#perform(host, effect);
    }
  }

  decide(...args: Parameters<Rules["decide"]>): ReturnType<Rules["decide"]> {
    return this.#rules.decide(...args);
  }

  #setHost(host: HostIndex, change: Partial<Host>): void {
    const { hosts } = this.world;
    this.world.hosts = withPlace(hosts, host, { ...hosts[host], ...change, text: "" });
  }

  /** A new process. */
  putEngine(host: HostIndex, engine: Engine): void {
    this.#setHost(host, { engine });
  }

  setEngine(host: HostIndex, change: Partial<Engine>): void {
    this.#setHost(host, { engine: { ...this.#engine(host), ...change } });
  }

  setGuest(host: HostIndex, guest: Guest | null): void {
    this.#setHost(host, { guest });
  }

  changeGuest(host: HostIndex, change: Partial<Guest>): void {
    const { guest } = this.world.hosts[host];
    if (guest !== null) {
      this.setGuest(host, { ...guest, ...change });
    }
  }

  setReplication(host: HostIndex, change: Partial<Replication>): void {
    const { replication } = this.#engine(host);
    if (replication !== null) {
      this.setEngine(host, { replication: { ...replication, ...change } });
    }
  }

  #engine(host: HostIndex): Engine {
    const { engine } = this.world.hosts[host];
    if (engine === null) {
      throw new Error("the model gave an event to a dead engine");
    }
    return engine;
  }

  // Links.

  setLink(name: string, change: Partial<World["links"][number]>): void {
    this.world.links = this.world.links.map((link) => (link.name === name ? { ...link, ...change, text: "" } : link));
  }

  push(from: HostIndex, name: string, item: Item): void {
    const link = this.world.links.find((candidate) => candidate.name === name);
    const to = other(from);
    if (link?.up[from] !== true || link.closing[from] || !link.up[to]) {
      return;
    }
    const queue = link.queues[to];
    const next = item.tag === "guestDied" ? [item, ...queue] : [...queue, item];
    this.setLink(name, { queues: withPlace(link.queues, to, next) });
  }

  /** One end is gone without a word to its engine: it ended, or will be told by the caller. */
  dropEnd(name: string, host: HostIndex): void {
    const link = this.world.links.find((candidate) => candidate.name === name);
    if (link?.up[host] !== true) {
      return;
    }
    const up = withPlace(link.up, host, false);
    const closing = withPlace(link.closing, host, false);
    const queues = withPlace(link.queues, host, [] as readonly Item[]);
    this.setLink(name, { up, closing, queues });
  }

  /** The engine's process is gone: its connections, its requests as far as anybody waits for them, its memory of everything. */
  dropEngine(host: HostIndex): void {
    for (const { name } of this.world.links) {
      this.dropEnd(name, host);
    }
    this.#setHost(host, { engine: null });
    this.changeGuest(host, { holds: null });
    this.world.calls = this.world.calls.flatMap((call) => {
      if (call.tag === "stray" || call.host !== host) {
        return [call];
      }
      return call.tag === "ask" && call.decision === null ? [{ tag: "stray", request: call.request } as const] : [];
    });
  }

  // Output.

  /** Something leaves: all of the guest's past up to `length`. */
  release(host: HostIndex, length: number, by: "gate" | "acknowledged"): void {
    const { guest } = this.world.hosts[host];
    if (guest === null || length <= guest.gone) {
      return;
    }
    this.changeGuest(host, { gone: length });
    const { record, released } = this.world;
    const past = guest.past.slice(0, length);
    const isOwner = record?.owner === NODES[host];
    const isAlone = isOwner && record.peerState === "Stale";
    if (by === "gate" && !isAlone) {
      throw new Violation(`${NODES[host]} lets output ${past} pass while the record does not say that it is alone`);
    }
    if (by === "acknowledged" && !isAlone) {
      const held = this.#engine(host).replication?.heldPast;
      if (held === undefined || held === null || !held.startsWith(past)) {
        throw new Violation(`${NODES[host]} releases ${past}, which the standby never held`);
      }
      if (!isOwner && released.startsWith("!")) {
        return; // A late packet of a life that is over.
      }
    }
    if (!past.startsWith(released) && !released.startsWith(past)) {
      throw new Violation(`${NODES[host]} shows ${past} after ${released} was seen: two guests`);
    }
    if (past.length > released.length) {
      this.world.released = past;
    }
  }

  // Effects.

  #perform(host: HostIndex, effect: Effect): void {
    switch (effect.tag) {
      case "readRecord":
        return this.#readRecord(host);
      case "askQuorum":
        return this.#ask(host, effect);
      case "startTimer":
      case "stopTimer":
      case "reportRefusal":
        return undefined;
      case "openLinks":
        return this.#openLinks(host, effect.as);
      case "closeLink":
        return this.#closeLink(host, effect.link);
      case "send":
        return this.#send(host, effect.link, effect.message);
      case "exit":
        return this.#exit(host, effect);
      default:
        return this.#performOnGuest(host, effect);
    }
  }

  #performOnGuest(host: HostIndex, effect: Effect): void {
    const { guest } = this.world.hosts[host];
    switch (effect.tag) {
      case "startGuest":
        this.setGuest(host, null);
        return this.setEngine(host, { starting: effect.as, replication: null, reception: null, deathUnheard: false });
      case "killGuest":
        return this.setGuest(host, null);
      case "pauseGuest":
        return guest?.mode === "running" ? this.changeGuest(host, { mode: "paused" }) : undefined;
      case "resumeGuest":
        return guest === null || guest.mode === "incoming" ? undefined : this.changeGuest(host, { mode: "running" });
      case "holdOutput":
        return guest?.gate === "closed" ? undefined : this.changeGuest(host, { gate: "held" });
      case "leaseOutput":
        return this.changeGuest(host, { gate: "lapsed" }); // It counts from the last heartbeat that came back.
      case "openOutput":
        this.changeGuest(host, { gate: "open" });
        return this.release(host, guest?.past.length ?? 0, "gate");
      case "releaseOutput":
        return this.#releaseOutput(host, effect);
      case "announceGuest":
        return undefined; // Where switches send what is for the guest is not modelled.
      case "discardOutput":
        return this.changeGuest(host, { gate: "closed", gone: guest?.past.length ?? 0 });
      default:
        return this.#performOnSession(host, effect);
    }
  }

  #performOnSession(host: HostIndex, effect: Effect): void {
    const { replication } = this.#engine(host);
    switch (effect.tag) {
      case "beginSync":
        return this.#beginSync(host, effect);
      case "startEpochs":
        return this.#startEpochs(host, effect);
      case "copyMemory":
        return this.setReplication(host, { copiesMemory: true });
      case "captureFinal":
        return this.setReplication(host, { finalWanted: true });
      case "resumeStream":
        return this.#resumeStream(host, effect);
      case "endSession": {
        if (replication?.session !== effect.session) {
          return undefined;
        }
        // Of a copy that was never acknowledged nobody knows what the standby has of it.
        const isKnown = replication.phase === "epochs" && effect.acked >= replication.first && effect.acked > 0;
        const base = isKnown ? { session: effect.session, epoch: effect.acked, mode: replication.mode } : null;
        return this.setEngine(host, { replication: null, base });
      }
      case "beginReceiving":
        return this.#beginReceiving(host, effect);
      case "commitEpoch":
        return this.#commit(host, effect.epoch);
      case "discardStaged": {
        const { reception } = this.#engine(host);
        return reception === null ? undefined : this.setEngine(host, { reception: { ...reception, staged: null } });
      }
      case "activate":
        return this.#activate(host, effect);
      default:
        throw new Error(`the model does not know the effect ${effect.tag}`);
    }
  }

  #resumeStream(host: HostIndex, { session, link, from }: EffectOf<"resumeStream">): void {
    const { replication } = this.#engine(host);
    const past = this.world.hosts[host].guest?.past ?? "";
    if (replication?.session !== session) {
      return;
    }
    this.setReplication(host, { link });
    for (const { epoch, length } of replication.marks.filter((mark) => mark.epoch >= from)) {
      this.push(host, link, { tag: "epochFrames", session, epoch, past: past.slice(0, length) });
    }
  }

  #readRecord(host: HostIndex): void {
    const { calls, record } = this.world;
    const isAsking = calls.some((call) => call.tag === "read" && call.host === host);
    this.world.calls = isAsking
      ? calls.map((call) => (call.tag === "read" && call.host === host ? { ...call, twice: true } : call))
      : [...calls, { tag: "read", host, records: [record], twice: false }];
  }

  #ask(host: HostIndex, { request }: EffectOf<"askQuorum">): void {
    const { guest } = this.world.hosts[host];
    if (request.change.tag === "takeOver" && guest !== null && guest.holds === null) {
      throw new Violation(`${NODES[host]} asks for the guest without a complete state`);
    }
    this.world.calls = [...this.world.calls, { tag: "ask", host, request, decision: null }];
  }

  #openLinks(host: HostIndex, as: "dial" | "listen"): void {
    if (this.#engine(host).opens === as) {
      return;
    }
    this.setEngine(host, { opens: as });
    for (const { name } of this.world.links) {
      this.#closeLink(host, name);
    }
  }

  #closeLink(host: HostIndex, name: string): void {
    const link = this.world.links.find((candidate) => candidate.name === name);
    if (link?.up[host] === true) {
      this.setLink(name, { closing: withPlace(link.closing, host, true) });
    }
  }

  #send(host: HostIndex, link: string, message: Message): void {
    this.push(host, link, message);
  }

  #exit(host: HostIndex, { reason }: EffectOf<"exit">): void {
    this.dropEngine(host);
    if (reason === "fenced" || reason === "ended") {
      this.setGuest(host, null); // By its agent.
    }
    if (reason === "ended" || reason === "released") {
      this.#setHost(host, { resting: true });
    }
  }

  #releaseOutput(host: HostIndex, { throughEpoch }: EffectOf<"releaseOutput">): void {
    const { replication } = this.#engine(host);
    const covered = replication?.marks.filter(({ epoch }) => epoch <= throughEpoch).at(-1);
    if (replication === null || covered === undefined) {
      return;
    }
    this.release(host, covered.length, "acknowledged");
    this.setReplication(host, { marks: replication.marks.filter(({ epoch }) => epoch > throughEpoch) });
  }

  /** Where memory was copied as well, output is held and writes have their answers from now on: the guest has said all it could. */
  #startEpochs(host: HostIndex, { first }: EffectOf<"startEpochs">): void {
    const { replication } = this.#engine(host);
    if (replication?.phase === "epochs") {
      this.changeGuest(host, { gate: "held" });
      return this.setReplication(host, { mode: "FaultTolerant", copiesMemory: false, next: first, first });
    }
    this.setReplication(host, { phase: "epochs", next: first, first });
  }

  #beginSync(host: HostIndex, { session, link, ram, disks }: EffectOf<"beginSync">): void {
    const { base } = this.#engine(host);
    for (const basis of [ram, disks]) {
      const isKnown = basis.tag === "delta" && base?.session === basis.session && base.epoch <= basis.epoch;
      if (basis.tag === "delta" && (!isKnown || (basis === ram && base.mode === "HighAvailability"))) {
        throw new Violation(`${NODES[host]} sends the difference to an epoch it does not know the difference to`);
      }
    }
    const replication: Replication = {
      ...{ session, link, phase: "copying", next: 0, first: 0, marks: [], copiesMemory: false, capturedLength: 0 },
      mode: ram.tag === "firmware" ? "HighAvailability" : "FaultTolerant",
      ...{ finalWanted: false, stopped: false, heldPast: null },
    };
    this.setEngine(host, { replication, base: null });
  }

  #beginReceiving(host: HostIndex, { session, ram }: EffectOf<"beginReceiving">): void {
    const holds = this.#content(host);
    if (ram.tag === "delta" && (holds?.session !== ram.session || holds.epoch !== ram.epoch)) {
      throw new Violation(`${NODES[host]} is sent the difference to an epoch that it does not hold`);
    }
    this.changeGuest(host, { holds: null });
    this.setEngine(host, { reception: { session, staged: null } });
  }

  #content(host: HostIndex): Content {
    return this.world.hosts[host].guest?.holds ?? null;
  }

  #commit(host: HostIndex, epoch: number): void {
    const { reception } = this.#engine(host);
    const staged = reception?.staged ?? null;
    const { guest } = this.world.hosts[host];
    if (reception === null || staged?.epoch !== epoch || guest === null) {
      return;
    }
    this.changeGuest(host, { holds: staged });
    this.setEngine(host, { reception: { ...reception, staged: null } });
    const { engine } = this.world.hosts[other(host)];
    if (engine?.replication?.session === staged.session) {
      this.setReplication(other(host), { heldPast: staged.past });
    }
  }

  #activate(host: HostIndex, { epoch, term }: EffectOf<"activate">): void {
    const { record, released } = this.world;
    const { guest } = this.world.hosts[host];
    if (guest === null) {
      return; // It died, which the engine is about to hear.
    }
    const holds = this.#content(host);
    if (holds?.epoch !== epoch) {
      throw new Violation(`${NODES[host]} activates epoch ${epoch} and holds ${holds?.epoch ?? "nothing complete"}`);
    }
    if (record?.owner !== NODES[host] || record.term !== term) {
      throw new Violation(
        `${NODES[host]} activates for term ${term}; the record is ${record?.owner}'s at ${record?.term}`,
      );
    }
    if (!holds.past.startsWith(released)) {
      throw new Violation(
        `${NODES[host]} takes over at "${holds.past}" after "${released}" was seen: output is taken back`,
      );
    }
    this.setEngine(host, { activating: true });
  }
}

/** What has to be true at rest, between any two steps. */
export function checkWorld(world: World): void {
  for (const host of HOSTS) {
    checkGate(world, host);
    checkClaim(world, host);
  }
  if (HOSTS.every((host) => isSeen(world, host))) {
    throw new Violation("two guests are seen");
  }
}

/** Whether what a guest says can be heard now. */
export function isSeen({ hosts }: World, host: HostIndex): boolean {
  const { guest } = hosts[host];
  return guest?.mode === "running" && (guest.gate === "open" || guest.gate === "leased");
}

function checkGate({ hosts, record }: World, host: HostIndex): void {
  const { guest } = hosts[host];
  const isVisible = guest?.gate === "open" && (guest.mode === "running" || guest.mode === "paused");
  if (isVisible && (record?.owner !== NODES[host] || record.peerState !== "Stale")) {
    const says = `the record: ${record?.owner ?? "nobody"} owns, ${record?.peerState ?? ""}`;
    throw new Violation(`the output of ${NODES[host]} passes freely although the record does not say so (${says})`);
  }
}

/** A side that may ask for the guest has all of the epoch it claims. */
function checkClaim({ hosts }: World, host: HostIndex): void {
  const { engine, guest } = hosts[host];
  const state = engine?.side.state;
  if (state === undefined || !("role" in state) || state.role !== "standby" || guest === null) {
    return;
  }
  const claims = state.tag === "holding" || state.tag === "asking" || state.tag === "activating";
  if (!claims || guest.mode !== "incoming") {
    return;
  }
  if (guest.holds?.session !== state.session || guest.holds.epoch !== state.epoch) {
    throw new Violation(`${NODES[host]} claims epoch ${state.epoch} of ${state.session} and does not have it`);
  }
}
