/**
 * An engine process: the production machine (protocol/side.ts) in a shell that performs its effects on simulated things, the way
 * engine/engine.ts does on real ones. Events come one at a time; the effects of one are performed before the next.
 *
 * Everything that comes from outside passes `enter`: a dead engine hears nothing, a frozen one hears it when it thaws.
 */
import {
  addLink,
  echoedAtMs,
  excuse,
  type Liveness,
  noteHeard,
  noteHeartbeat,
  removeLink,
  stepLiveness,
} from "../../src/protocol/liveness.ts";
import { type MachineShape, type SyncBasis } from "../../src/protocol/messages.ts";
import { isPrimary, startSide } from "../../src/protocol/side.ts";
import {
  type Effect,
  type ExitReason,
  type FoundGuestState,
  type LostBy,
  type Side,
  type SideEvent,
  type TimerName,
} from "../../src/protocol/side-state.ts";
import { timerMs } from "../../src/protocol/timing.ts";
import { encodeTraceEvent, encodeTraceHead } from "../../src/protocol/trace.ts";
import { type Planned } from "./clock.ts";
import { type SimGuest } from "./guest.ts";
import { type SimHost } from "./host.ts";
import { connect, type Endpoint, type Frame, type LinkName, LINKS, peerOf } from "./network.ts";
import { SimReception, SimReplication } from "./replication.ts";
import { GUEST, type World } from "./world.ts";

const SHAPE: MachineShape = {
  qemuVersion: "10.0.0",
  machine: "q35",
  ramBlocks: [{ name: "pc.ram", bytes: 28_672 }],
  disks: [{ id: "root", bytes: 20_480 }],
  devices: [],
};
const FIRST_PAUSE_MS = 50;
const LAST_PAUSE_MS = 1_000;
const SETTLED_MS = 1_000;

export class SimEngine {
  readonly nonce: string;
  readonly startedMs: number;
  side: Side;
  guest: SimGuest | undefined;
  takesLinks = false;
  exitReason: ExitReason | undefined;
  readonly #world: World;
  readonly #host: SimHost;
  readonly #timers = new Map<TimerName, Planned>();
  readonly #endpoints = new Map<LinkName, Endpoint>();
  readonly #lackingPages = new Set<number>();
  readonly #lackingBlocks = new Set<number>();
  #liveness: Liveness = {};
  #tickedMs = 0;
  #isTicking = false;
  #queue: SideEvent[] = [];
  #isStepping = false;
  #isDead = false;
  #isOver = false;
  #isFrozen = false;
  #backlog: (() => void)[] = [];
  #retries = 0;
  #lostBy: LostBy = "closed";
  #dialing = 0;
  /** By this host's clock. */
  #heardSinceMs = -Infinity;
  #openAs: "dial" | "listen" | undefined;
  #wantedAs: "primary" | "standby" | undefined;
  #replication: SimReplication | undefined;
  #reception: SimReception | undefined;
  #lastReception: SimReception | undefined;

  constructor(world: World, host: SimHost, found: SimGuest | undefined) {
    this.#world = world;
    this.#host = host;
    this.startedMs = world.clock.nowMs;
    this.nonce = `${host.node}${world.nextId()}`;
    this.guest = found;
    this.side = startSide({
      guest: GUEST,
      node: host.node,
      peer: peerOf(host.node),
      createsRecord: host.node === "a",
      mode: world.mode,
      nonce: this.nonce,
    });
    if (host.trace !== undefined) {
      host.trace.push(encodeTraceHead(this.side, world.clock.nowMs));
    }
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  get state(): string {
    return this.side.state.tag;
  }

  start(): void {
    this.#world.clock.after(5 + this.#world.random.below(60), () => {
      this.enter(() => {
        const { guest } = this;
        if (guest?.isAlive === false) {
          this.guest = undefined;
        }
        if (this.guest?.mode === "leased") {
          this.guest.hold();
        }
        const found: FoundGuestState =
          this.guest === undefined ? "none" : this.guest.isIncoming ? "incoming" : "running";
        if (this.guest?.mode === "open" && found === "running") {
          this.#world.log(() => `${this.#host.node}: found its guest with open output`);
        }
        this.post({ tag: "started", found, shape: this.guest === undefined ? null : SHAPE });
      });
    });
  }

  /** Runs `work` unless this process is dead; not before it thaws. */
  enter(work: () => void): void {
    if (this.#isDead) {
      return;
    }
    if (this.#isFrozen) {
      this.#backlog.push(work);
      return;
    }
    work();
  }

  /** The agent tells of a changed assignment. */
  followMode(): void {
    const { mode } = this.#world;
    if (mode !== this.side.mode) {
      this.post({ tag: "modeAsked", mode });
    }
  }

  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    const backlog = this.#backlog.splice(0);
    backlog.forEach((work) => {
      this.enter(work);
    });
  }

  /** kill -9: the kernel closes its connections. */
  kill(): void {
    this.#leave();
    for (const endpoint of this.#endpoints.values()) {
      endpoint.destroy();
    }
  }

  /** The host is gone. */
  vanish(): void {
    this.#leave();
    for (const endpoint of this.#endpoints.values()) {
      endpoint.vanish();
    }
  }

  #leave(): void {
    this.#isDead = true;
    this.takesLinks = false;
    for (const planned of this.#timers.values()) {
      planned.isCancelled = true;
    }
    const waitMs = Math.ceil(this.#world.timing.leaseMs / 1_000) * 1_000;
    this.guest?.loseWatcher(this.#replication?.takeAnswers() ?? [], waitMs);
    this.#host.dropWrites();
  }

  post(event: SideEvent): void {
    this.#queue.push(event);
    if (this.#isStepping) {
      return;
    }
    this.#isStepping = true;
    for (let next = this.#queue.shift(); next !== undefined && !this.#isOver; next = this.#queue.shift()) {
      this.#step(next);
    }
    this.#isStepping = false;
  }

  #step(event: SideEvent): void {
    const before = this.side;
    const { side, effects } = this.#world.rules.step(before, event);
    this.side = side;
    this.#host.trace?.push(encodeTraceEvent(this.#world.clock.nowMs, event, side, effects));
    if (before.state.tag !== side.state.tag) {
      this.#world.log(() => `${this.#host.node}: ${before.state.tag} -> ${side.state.tag} (${describe(event)})`);
    }
    this.#world.checks.noteStep(this.#host.node, before, side, event);
    for (const effect of effects) {
      if (this.#isDead) {
        return;
      }
      this.#performWithFaults(effect);
    }
  }

  /** Before or after any effect the process may die. */
  #performWithFaults(effect: Effect): void {
    this.#world.faults.meet(this.#host, effect, "before");
    if (!this.#isDead) {
      this.#perform(effect);
      this.#world.faults.meet(this.#host, effect, "after");
    }
  }

  #perform(effect: Effect): void {
    switch (effect.tag) {
      case "readRecord":
        this.#world.quorum.read(this.#host, (record) => {
          this.enter(() => {
            if (record === undefined) {
              this.post({ tag: "recordUnread" });
            } else {
              this.#retries = 0;
              this.post({ tag: "recordRead", record });
            }
          });
        });
        return;
      case "askQuorum":
        this.#world.log(() => `${this.#host.node}: asks ${effect.request.requestId}`);
        this.#world.quorum.ask(this.#host, effect.request, (outcome) => {
          this.enter(() => {
            this.#retries = outcome.tag === "granted" || outcome.tag === "refused" ? 0 : this.#retries;
            this.post({ tag: "quorumAnswered", requestId: effect.request.requestId, outcome });
          });
        });
        return;
      case "startTimer":
        this.#startTimer(effect.timer);
        return;
      case "stopTimer":
        this.#stopTimer(effect.timer);
        return;
      case "openLinks":
        this.#openLinks(effect.as);
        return;
      case "closeLink":
        this.#endpoints.get(effect.link as LinkName)?.close(0.1 + 3 * this.#world.random.fraction());
        return;
      case "send": {
        const { message } = effect;
        const isUrgent = message.tag === "ack" || message.tag === "guestDied";
        this.#endpoints.get(effect.link as LinkName)?.send({ tag: "message", message }, isUrgent);
        return;
      }
      case "reportRefusal":
        this.#world.log(() => `${this.#host.node}: refused ${effect.code}`);
        return;
      case "exit":
        this.#exit(effect.reason, effect.message);
        return;
      default:
        this.#performOnGuest(effect);
    }
  }

  #performOnGuest(effect: Effect): void {
    switch (effect.tag) {
      case "startGuest":
        this.#wantedAs = effect.as;
        this.#releaseGuest();
        this.#host.provideGuest(this, effect.as);
        return;
      case "killGuest":
        this.#host.killGuest();
        return;
      case "pauseGuest":
        this.guest?.stop();
        return;
      case "resumeGuest":
        this.guest?.resume();
        return;
      case "openOutput":
        this.guest?.open();
        return;
      case "announceGuest":
        return; // Simulated clients reach the guest wherever it is.
      case "holdOutput":
        this.guest?.hold();
        return;
      case "leaseOutput":
        this.#lease();
        return;
      case "releaseOutput":
        this.#replication?.release(effect.throughEpoch);
        return;
      case "discardOutput":
        this.guest?.discard();
        return;
      default:
        this.#performOnSession(effect);
    }
  }

  #performOnSession(effect: Effect): void {
    switch (effect.tag) {
      case "beginSync":
        this.#beginSync(effect);
        return;
      case "startEpochs":
        this.#startEpochs(effect.first);
        return;
      case "copyMemory":
        this.#replication?.copyMemory();
        return;
      case "captureFinal":
        this.#replication?.captureFinal();
        return;
      case "resumeStream": {
        const endpoint = this.#endpoints.get(effect.link as LinkName);
        if (endpoint !== undefined && this.#replication?.session === effect.session) {
          this.#replication.resume(endpoint, effect.from);
        }
        return;
      }
      case "endSession":
        if (this.#replication?.session === effect.session) {
          this.#replication.end(effect.acked);
          this.#replication = undefined;
        }
        return;
      case "beginReceiving":
        this.#beginReceiving(effect.session, effect.ram);
        return;
      case "commitEpoch":
        this.#reception?.commit(effect.epoch);
        return;
      case "discardStaged":
        this.#reception?.discardStaged();
        return;
      case "activate":
        this.#activate(effect.epoch, effect.term);
        return;
      default:
        this.#world.checks.fail(`the simulated shell does not know the effect ${effect.tag}`);
    }
  }

  #startTimer(timer: TimerName): void {
    this.#stopTimer(timer);
    const isLeased = this.#lastReception?.isBootOnly;
    const context = { attempt: this.#retries, lostBy: this.#lostBy, isImpaired: this.side.isImpaired, isLeased };
    const ms = timerMs(this.#world.timing, timer, context) * this.#host.clockRate;
    this.#retries += timer === "retry" ? 1 : 0;
    const planned: Planned = this.#world.clock.after(ms, () => {
      this.enter(() => {
        if (this.#timers.get(timer) === planned) {
          this.#timers.delete(timer);
          this.post({ tag: "timerFired", timer });
        }
      });
    });
    this.#timers.set(timer, planned);
  }

  #stopTimer(timer: TimerName): void {
    const planned = this.#timers.get(timer);
    if (planned !== undefined) {
      planned.isCancelled = true;
      this.#timers.delete(timer);
    }
  }

  // Guest.

  /** The agent started the QEMU that was asked for; undefined: it could not. */
  takeGuest(guest: SimGuest | undefined): void {
    if (this.#wantedAs === undefined) {
      return;
    }
    this.#wantedAs = undefined;
    this.guest = guest;
    if (guest === undefined) {
      this.post({ tag: "guestFailed" });
    } else {
      guest.mode = "held";
      this.post({ tag: "guestReady", shape: SHAPE });
    }
  }

  noteGuestDeath(guest: SimGuest): void {
    if (this.guest === guest && !this.#isOver) {
      this.post({ tag: "guestDied" });
    }
  }

  #releaseGuest(): void {
    this.#replication?.end(0);
    this.#replication = undefined;
    this.#reception?.end();
    this.#reception = undefined;
    this.#host.dropWrites();
    const { guest } = this;
    this.guest = undefined;
    guest?.kill();
  }

  // Sessions.

  #beginSync(effect: { session: string; link: string; ram: SyncBasis; disks: SyncBasis }): void {
    const { session } = effect;
    const endpoint = this.#endpoints.get(effect.link as LinkName);
    const { guest } = this;
    if (guest === undefined || endpoint === undefined) {
      endpoint?.close(1);
      return;
    }
    this.#world.log(() => `${this.#host.node}: begins ${session}, memory ${effect.ram.tag}, disks ${effect.disks.tag}`);
    this.#world.checks.noteSync(effect.ram.tag);
    this.#replication = new SimReplication({
      world: this.#world,
      host: this.#host,
      guest,
      session,
      endpoint,
      lackingPages: this.#lackingPages,
      lackingBlocks: this.#lackingBlocks,
      enter: (work) => {
        this.enter(work);
      },
      onCopied: () => {
        this.post({ tag: "copied", session });
      },
      onCaptured: (epoch, final) => {
        this.post({ tag: "captured", session, epoch, final });
      },
    });
    this.#replication.copy(effect.ram, effect.disks);
  }

  #lease(): void {
    this.guest?.lease((this.#heardSinceMs + this.#world.timing.leaseMs) * this.#host.clockRate);
  }

  #startEpochs(first: number): void {
    const { state } = this.side;
    if ("mode" in state && state.mode === "HighAvailability") {
      this.#replication?.startWrites(first);
    } else {
      this.#replication?.startEpochs(first);
    }
  }

  #beginReceiving(session: string, ram: SyncBasis): void {
    this.#lastReception?.end();
    const { guest } = this;
    if (guest === undefined) {
      return;
    }
    const reception = new SimReception({
      world: this.#world,
      host: this.#host,
      guest,
      session,
      isWithoutMemory: ram.tag === "firmware",
      enter: (work) => {
        this.enter(work);
      },
      onEpochHeld: (epoch) => {
        this.post({ tag: "epochHeld", session, epoch });
      },
      onFailed: (reason) => {
        this.post({ tag: "applyFailed", session, reason });
      },
    });
    this.#reception = reception;
    this.#lastReception = reception;
  }

  /** A connection breaks, and both ends see it. */
  breakConnection(link: LinkName): void {
    this.#endpoints.get(link)?.abandon("closed");
  }

  /** The standby's disk fails. */
  failDisk(): void {
    this.#reception?.fail("the disk is full");
  }

  #activate(epoch: number, term: number): void {
    const { guest } = this;
    const reception = this.#lastReception;
    if (guest?.isIncoming !== true || reception === undefined) {
      this.post({ tag: "activateFailed" });
      return;
    }
    this.#world.log(() => `${this.#host.node}: activates epoch ${epoch} of ${reception.session} for term ${term}`);
    this.#host.settle(() => {
      this.#world.clock.after(3 + this.#world.random.below(40), () => {
        this.enter(() => {
          if (!guest.isAlive) {
            this.post({ tag: "activateFailed" });
            return;
          }
          guest.mode = "held";
          guest.term = term;
          this.#bringToLife(guest, reception, { epoch, term });
          guest.resume();
          this.#world.clock.after(this.#world.random.fraction() * 5, () => {
            this.enter(() => {
              this.#reception?.end();
              this.#reception = undefined;
              this.post({ tag: "activated" });
              this.#host.syncLater();
            });
          });
        });
      });
    });
  }

  #bringToLife(guest: SimGuest, reception: SimReception, taken: { epoch: number; term: number }): void {
    const { session, isBootOnly, device } = reception;
    const { checks } = this.#world;
    checks.noteActivation(this.#host, { session, ...taken, ram: isBootOnly ? [] : guest.ram });
    if (isBootOnly) {
      guest.bootHere();
      checks.noteStart(this.#host, guest, "bootOfStandby");
    } else {
      guest.load(device);
      checks.noteStart(this.#host, guest, "takeover");
    }
  }

  // Links.

  #openLinks(as: "dial" | "listen"): void {
    this.#startTicking();
    if (this.#openAs === as) {
      return;
    }
    this.#closeLinks();
    this.#openAs = as;
    if (as === "listen") {
      this.takesLinks = true;
      return;
    }
    this.#dialing += 1;
    LINKS.forEach((link) => {
      this.#dial(link, this.#dialing, FIRST_PAUSE_MS);
    });
  }

  #closeLinks(): void {
    this.#openAs = undefined;
    this.#dialing += 1;
    this.takesLinks = false;
    for (const endpoint of this.#endpoints.values()) {
      endpoint.close(0.1 + 3 * this.#world.random.fraction());
    }
  }

  #dial(link: LinkName, round: number, pauseMs: number): void {
    if (this.#isDead || this.#isOver || round !== this.#dialing) {
      return;
    }
    connect(this.#world, this.#host.node, link, (endpoint) => {
      this.enter(() => {
        if (round !== this.#dialing || this.#isOver) {
          endpoint?.destroy();
          return;
        }
        if (endpoint === undefined) {
          this.#redial(link, round, pauseMs, 0);
          return;
        }
        const sinceMs = this.#world.clock.nowMs;
        this.take(link, endpoint, () => {
          this.#redial(link, round, pauseMs, this.#world.clock.nowMs - sinceMs);
        });
      });
    });
  }

  #redial(link: LinkName, round: number, pauseMs: number, livedMs: number): void {
    const nextMs = livedMs >= SETTLED_MS ? FIRST_PAUSE_MS : Math.min(LAST_PAUSE_MS, pauseMs * 2);
    this.#world.clock.after(nextMs, () => {
      this.enter(() => {
        this.#dial(link, round, nextMs);
      });
    });
  }

  take(link: LinkName, endpoint: Endpoint, whenOver: () => void = () => undefined): void {
    const before = this.#endpoints.get(link);
    if (before !== undefined) {
      this.#forget(link, before, "closed");
      before.destroy();
    }
    this.#endpoints.set(link, endpoint);
    this.#liveness = addLink(this.#liveness, link, this.#localMs());
    this.post({ tag: "linkUp", link });
    endpoint.attach(
      (frame) => {
        this.enter(() => {
          this.#receive(link, endpoint, frame);
        });
      },
      (by) => {
        this.enter(() => {
          this.#forget(link, endpoint, by);
          whenOver();
        });
      },
    );
  }

  #receive(link: LinkName, endpoint: Endpoint, frame: Frame): void {
    if (this.#endpoints.get(link) !== endpoint || this.#isOver) {
      return;
    }
    const nowMs = this.#localMs();
    if (frame.tag === "heartbeat") {
      this.#heardSinceMs = Math.max(this.#heardSinceMs, echoedAtMs(this.#liveness, link, frame) ?? -Infinity);
      this.#liveness = noteHeartbeat(this.#liveness, link, frame, nowMs);
      if (this.guest?.mode === "leased") {
        this.#lease();
      }
      return;
    }
    this.#liveness = noteHeard(this.#liveness, link, nowMs);
    if (frame.tag === "message") {
      this.post({ tag: "received", link, message: frame.message });
      return;
    }
    const { state } = this.side;
    if ("link" in state && state.link === link && this.#replication === undefined) {
      this.#reception?.take(frame.data);
    }
  }

  #forget(link: LinkName, endpoint: Endpoint, by: LostBy): void {
    if (this.#endpoints.get(link) !== endpoint) {
      return;
    }
    this.#endpoints.delete(link);
    this.#liveness = removeLink(this.#liveness, link);
    this.#lostBy = by;
    this.post({ tag: "linkDown", link, by });
  }

  #startTicking(): void {
    if (!this.#isTicking) {
      this.#isTicking = true;
      this.#tickedMs = this.#localMs();
      this.#planTick();
    }
  }

  #planTick(): void {
    this.#world.clock.after((this.#world.timing.heartbeatMs / 2) * this.#host.clockRate, () => {
      if (this.#isDead || this.#isOver) {
        return;
      }
      if (this.#isFrozen) {
        this.#backlog.push(() => {
          this.#tick();
          this.#planTick();
        });
        return;
      }
      this.#tick();
      this.#planTick();
    });
  }

  #tick(): void {
    const { heartbeatMs, primarySilenceMs, standbySilenceMs } = this.#world.timing;
    const nowMs = this.#localMs();
    const lateMs = nowMs - this.#tickedMs - heartbeatMs;
    this.#tickedMs = nowMs;
    if (lateMs > 0) {
      this.#liveness = excuse(this.#liveness, lateMs);
    }
    if (this.#endpoints.size === 0) {
      return;
    }
    const silenceMs = isPrimary(this.side) ? primarySilenceMs : standbySilenceMs;
    const { liveness, actions } = stepLiveness(this.#liveness, nowMs, { heartbeatMs, silenceMs });
    this.#liveness = liveness;
    for (const action of actions) {
      const link = action.link as LinkName;
      const endpoint = this.#endpoints.get(link);
      if (action.tag === "giveUp") {
        endpoint?.abandon("silent");
      } else {
        endpoint?.send({ tag: "heartbeat", sequence: action.sequence, echo: action.echo }, true);
      }
    }
  }

  #localMs(): number {
    return this.#world.clock.nowMs / this.#host.clockRate;
  }

  // The end.

  #exit(reason: ExitReason, message: string): void {
    this.#isOver = true;
    this.exitReason = reason;
    this.#world.log(() => `${this.#host.node}: exits, ${reason}: ${message}`);
    for (const planned of this.#timers.values()) {
      planned.isCancelled = true;
    }
    this.#replication?.end(0);
    this.#closeLinks();
    this.#world.clock.after(50 * this.#host.clockRate, () => {
      this.enter(() => {
        this.kill();
        this.#host.whenEngineEnded(this, reason);
      });
    });
  }
}

function describe(event: SideEvent): string {
  switch (event.tag) {
    case "quorumAnswered":
      return `quorum: ${event.outcome.tag}`;
    case "received":
      return `${event.link}: ${event.message.tag}`;
    case "timerFired":
      return `timer ${event.timer}`;
    case "linkUp":
      return `${event.link} up`;
    case "linkDown":
      return `${event.link} down, ${event.by}`;
    case "recordRead":
      return `record ${event.record?.owner ?? "none"} ${event.record?.peerState ?? ""}`;
    default:
      return event.tag;
  }
}
