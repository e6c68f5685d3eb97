/**
 * The engine of one guest on one node: carries out what the protocol machine (protocol/side.ts) decides.
 *
 * Everything that happens becomes an event of the machine, one at a time; its effects are performed in order before the next
 * event. Nothing here decides who may run or what may leave. A failure that is not expected ends the process: its agent starts
 * another, and what the guest sends stays held meanwhile.
 */
import { createWriteStream, type WriteStream } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type AgentMessage,
  type CheckpointContract,
  type EngineConfig,
  type EngineMessage,
  type EngineReport,
  type FoundGuest,
  type OutputMode,
} from "../protocol/assignment.ts";
import { type Message } from "../protocol/messages.ts";
import { isPrimary, startSide, step } from "../protocol/side.ts";
import {
  type Effect,
  type FoundGuestState,
  type LostBy,
  type Side,
  type SideEvent,
  type TimerName,
} from "../protocol/side-state.ts";
import { planTiming, type Timing, timerMs } from "../protocol/timing.ts";
import { encodeTraceEvent, encodeTraceHead } from "../protocol/trace.ts";
import { readStartTime } from "../memory/guest-process.ts";
import { releaseOwnMemory } from "../memory/own-memory.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { type GuestEvent } from "../qemu/guest-events.ts";
import { announceGuest } from "../qemu/standby.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { DiskHealth } from "./disk-health.ts";
import { FailPoints } from "./fail-point.ts";
import { FaultTeller } from "./fault-teller.ts";
import { Figures } from "./figures.ts";
import { openSampleLog } from "./sample-log.ts";
import { type Guest } from "./guest.ts";
import { GuestOutput } from "./guest-output.ts";
import { HeldGuest } from "./held-guest.ts";
import { Links } from "./links.ts";
import { MachineTimers } from "./machine-timers.ts";
import { Problems } from "./problems.ts";
import { QuorumTalk } from "./quorum-talk.ts";
import { ResyncWatch } from "./resync-progress.ts";
import { type EngineSnapshot, planReport } from "./report.ts";
import { Sessions } from "./sessions.ts";
import { isTakingOver, mayGoOnElsewhere, mayRunAlone, roleOf, stateName } from "./side-names.ts";
import { bringToLife, tellSizes } from "./takeover.ts";

export type EngineOptions = {
  readonly config: EngineConfig;
  readonly found: FoundGuest | null;
  readonly credentials: TlsCredentials;
  readonly nonce: string;
  readonly log: Log;
  readonly sendToAgent: (message: EngineMessage) => void;
  readonly exit: () => void;
};

const REPORT_MS = 1_000;
/** The standby's disks to stable storage: not needed for a takeover, only so that less is left to write in one go. */
const SYNC_MS = 5_000;
/** After a synchronisation, when the pair has settled: once, for it costs a few milliseconds. */
const TIDY_AFTER_MS = 3_000;
const LAST_WORDS_MS = 50;
/** What takes longer is left to whoever holds this QEMU next. */
const LET_BE_MS = 3_000;

export class Engine {
  readonly #config: EngineConfig;
  readonly #options: EngineOptions;
  readonly #log: Log;
  readonly #links: Links;
  readonly #failPoints: FailPoints;
  readonly #quorum: QuorumTalk;
  readonly #figures: Figures;
  readonly #timers: MachineTimers;
  readonly #output: GuestOutput;
  #timing: Timing;
  #contract: CheckpointContract;
  /** Bytes a second; undefined: as much as the links carry. */
  #linkShare: number | undefined;
  #side: Side;
  #queue: SideEvent[] = [];
  #isStepping = false;
  #isOver = false;
  #lostBy: LostBy = "closed";
  readonly #held: HeldGuest;
  #isWantedAs: "primary" | "standby" | undefined;
  readonly #sessions: Sessions;
  readonly #resync: ResyncWatch;
  #takeoversCount = 0;
  #switchovers: string[] = [];
  #isActivating = false;
  #isReleasing = false;
  #isLeaving = false;
  #isNodeImpaired = false;
  #tidying: NodeJS.Timeout | undefined;
  readonly #problems: Problems;
  readonly #teller: FaultTeller;
  /** The guest that was asked to end, or whose end is known already: that its QEMU ends is no fault of its own. */
  #endingGuest: Guest | undefined;
  /** A panic device or a watchdog said so, and it has not started anew since. */
  #hasCrashed = false;
  /** Told once, however often it is seen. */
  #toldChange: string | undefined;
  readonly #disks: DiskHealth;
  #trace: WriteStream | undefined;
  readonly #intervals: NodeJS.Timeout[] = [];

  constructor(options: EngineOptions) {
    const { config, credentials } = options;
    this.#options = options;
    this.#config = config;
    this.#figures = new Figures(openSampleLog(config.guest, config.node));
    this.#log = options.log;
    this.#failPoints = new FailPoints(config.runDirectory);
    this.#problems = new Problems(options.log);
    this.#teller = new FaultTeller(options.sendToAgent);
    this.#disks = new DiskHealth({
      runDirectory: config.runDirectory,
      log: options.log,
      teller: this.#teller,
      mayRun: () => mayRunAlone(this.#side),
      onChanged: () => {
        this.#noteHealth();
      },
      onGoesOn: () => {
        this.#problems.delete("guest");
        this.#noteHealth();
        for (const { id } of this.#held.primaryDisks?.sizes ?? []) {
          this.#teller.tellRepaired({ component: `disk/${id}` });
        }
      },
    });
    this.#timers = new MachineTimers((timer) => {
      this.#post({ tag: "timerFired", timer });
    });
    this.#output = new GuestOutput(
      () => this.#guest?.gate,
      () => this.#timing.leaseMs,
    );
    this.#contract = config.checkpoint;
    this.#resync = new ResyncWatch(config.fullResync);
    this.#timing = planTiming(config.failover.detectionTimeoutMs);
    this.#quorum = new QuorumTalk({
      ...{ config, credentials, nonce: options.nonce, log: options.log, problems: this.#problems },
      post: (event) => {
        this.#post(event);
      },
    });
    this.#held = this.#planHeld();
    this.#links = this.#planLinks();
    this.#sessions = this.#planSessions();
    this.#side = startSide({
      guest: config.guest,
      node: config.node,
      peer: config.peerNode,
      createsRecord: config.firstPrimary === config.node,
      mode: config.mode,
      nonce: options.nonce,
    });
    if (config.traceFile !== "") {
      this.#trace = createWriteStream(config.traceFile, { flags: "a" });
      this.#trace.write(encodeTraceHead(this.#side, Date.now()));
    }
  }

  #planLinks(): Links {
    const { config, credentials } = this.#options;
    return new Links({
      links: config.links,
      port: config.port,
      peerNode: config.peerNode,
      credentials,
      onUp: (link) => {
        this.#problems.delete(link);
        this.#post({ tag: "linkUp", link });
      },
      onDown: (link, by) => {
        this.#lostBy = by;
        this.#post({ tag: "linkDown", link, by });
      },
      onEchoed: (sinceMs) => {
        this.#output.renewLease(sinceMs);
      },
      onMessage: (link, message) => {
        this.#noteWord(message);
        this.#post({ tag: "received", link, message });
      },
      onData: (link, frame) => {
        this.#sessions.take(link, frame);
      },
      onProblem: (link, failure) => {
        this.#problems.set(link ?? "listener", failure.message);
        this.#log.debug({ link, error: failure }, "a replication link has a problem");
      },
      onHeard: () => {
        this.#discardInput();
      },
    });
  }

  #planHeld(): HeldGuest {
    const { config, log } = this.#options;
    return new HeldGuest({
      ...{ config, log, problems: this.#problems },
      onDeath: (why) => {
        this.#whenQemuFailed(why);
      },
      onEvent: (event) => {
        this.#whenGuestEvent(event);
      },
      onRuns: () => {
        this.#disks.forgetPace();
      },
      onMirrorLost: () => {
        this.#sessions.fail();
      },
      leaseMs: () => this.#timing.leaseMs,
    });
  }

  #planSessions(): Sessions {
    return new Sessions({
      ...{ log: this.#log, held: this.#held, links: this.#links, disks: this.#disks, problems: this.#problems },
      ...{ figures: this.#figures, resync: this.#resync },
      side: () => this.#side,
      contract: () => this.#contract,
      linkShare: () => this.#linkShare,
      post: (event) => {
        this.#post(event);
      },
      onGuestFailed: (why) => {
        this.#whenUnanswered(why);
      },
      onTrouble: () => {
        this.#report();
      },
      keepsDevices: (guest) => this.#keepsDevices(guest),
    });
  }

  get #guest(): Guest | undefined {
    return this.#held.guest;
  }

  async start(): Promise<void> {
    this.#intervals.push(
      setInterval(() => {
        this.#held.standbyDisks.forEach((disk) => {
          disk.checkStall(monotonicMs());
        });
        this.#sessions.observe();
        this.#report();
      }, REPORT_MS),
    );
    this.#intervals.push(
      setInterval(() => {
        this.#syncDisks();
        void this.#disks.look(this.#held.standbyDisks, this.#held.primaryDisks === undefined ? undefined : this.#guest);
        void this.#watchDevices();
      }, SYNC_MS),
    );
    const { found } = this.#options;
    let state: FoundGuestState = "none";
    if (found !== null) {
      try {
        state = await this.#attach(found);
      } catch (error) {
        if (!(await this.#mayReplace(found, error))) {
          return;
        }
      }
    }
    this.#post({ tag: "started", found: state, shape: this.#held.shape() });
  }

  /**
   * A QEMU that cannot be held (no shim, another engine's, hung): replaced when it is dead or the guest belongs elsewhere. If it
   * may be the running guest itself it is left alone and the error is the agent's to show.
   */
  async #mayReplace(found: FoundGuest, error: unknown): Promise<boolean> {
    const why = error instanceof Error ? error.message : String(error);
    this.#log.warn({ error }, "the QEMU that was found cannot be held");
    await this.#releaseGuestParts();
    const reading = await this.#quorum.seats.read(this.#config.guest);
    const owner = reading.tag === "read" ? reading.record?.owner : this.#config.node;
    if (readStartTime(found.pid) !== found.startTime || (owner !== undefined && owner !== this.#config.node)) {
      return true;
    }
    const message = `the running guest cannot be protected: ${why}`;
    this.#end({ tag: "exit", reason: "failed", message });
    return false;
  }

  takeAgentMessage(message: AgentMessage): void {
    switch (message.tag) {
      case "configure":
        return;
      case "guestFound":
        void this.#whenGuestFound(message);
        return;
      case "guestFailed":
        this.#log.error({ reason: message.message }, "the guest could not be started");
        this.#post({ tag: "guestFailed" });
        return;
      case "guestDied":
        if (this.#guest?.found.pid === message.pid) {
          this.#whenGuestDied("the agent saw it end");
        }
        return;
      case "retuned":
        this.#retune(message);
        return;
      case "quorumChanged":
        this.#quorum.seats.setEndpoints(message.quorum);
        return;
      case "switchover":
        this.#whenSwitchoverAsked(message.requestId);
        return;
      case "release":
        this.#isReleasing = true;
        this.#askRelease();
        return;
      case "stop":
        this.#whenStopAsked(message.handOver);
        return;
      default:
        this.#takeRareMessage(message);
    }
  }

  #takeRareMessage(
    message: Extract<AgentMessage, { readonly tag: "force" | "health" | "moveQuorum" | "linkShared" }>,
  ): void {
    switch (message.tag) {
      case "force":
        void this.#quorum.force(message.override);
        return;
      case "health":
        this.#isNodeImpaired = message.isImpaired;
        this.#noteHealth();
        return;
      case "linkShared":
        this.#linkShare = message.bytesPerSecond ?? undefined;
        this.#sessions.replication?.setLinkShare(this.#linkShare);
        return;
      case "moveQuorum":
        void this.#quorum.move(message.to).then(() => {
          this.#report();
        });
        return;
    }
  }

  #retune({ mode, checkpoint, failover, fullResync }: Extract<AgentMessage, { tag: "retuned" }>): void {
    if (mode !== this.#side.mode) {
      this.#post({ tag: "modeAsked", mode });
    }
    this.#contract = checkpoint;
    this.#sessions.replication?.setContract(checkpoint);
    this.#timing = planTiming(failover.detectionTimeoutMs);
    this.#applyLimits();
    if (this.#resync.isAskedAnew(fullResync)) {
      this.#log.info({}, "everything is copied to the standby once more, as asked");
      this.#sessions.fail();
    }
  }

  /** Without a hand-over QEMU stays as it is: nobody has said that the guest belongs elsewhere. */
  #whenStopAsked(handOver: boolean): void {
    if (handOver) {
      this.#post({ tag: "stopAsked" });
    } else if (!this.#isOver) {
      this.#isLeaving = true;
      this.#end({
        tag: "exit",
        reason: "stopped",
        message: "asked to leave the guest as it is",
      });
    }
  }

  /** A disk that failed once is not trusted any more by this engine. */
  #noteHealth(): void {
    const isImpaired = this.#isNodeImpaired || this.#disks.listFailed().length > 0;
    if (isImpaired !== this.#side.isImpaired) {
      this.#post({ tag: "healthChanged", isImpaired });
    }
  }

  /** Without the quorum the pair would only be torn and joined again, over and over. */
  #askRelease(): void {
    if (this.#isReleasing && this.#quorum.seats.reachable) {
      this.#post({ tag: "releaseAsked" });
    }
  }

  // The machine.

  #post(event: SideEvent): void {
    this.#queue.push(event);
    if (this.#isStepping) {
      return;
    }
    this.#isStepping = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined && !this.#isOver; next = this.#queue.shift()) {
        this.#step(next);
      }
    } finally {
      this.#isStepping = false;
    }
  }

  #step(event: SideEvent): void {
    const before = this.#side;
    const { side, effects } = step(before, event);
    this.#side = side;
    this.#trace?.write(encodeTraceEvent(Date.now(), event, side, effects));
    for (const effect of effects) {
      this.#failPoints.pass(effect.tag, this.#killGuestNow);
      this.#perform(effect);
    }
    this.#failPoints.pass(event.tag, this.#killGuestNow);
    if (stateName(before) !== stateName(side)) {
      this.#whenStateChanged(before, event);
    }
    if (event.tag !== "releaseAsked" || stateName(before) !== stateName(side)) {
      this.#askRelease();
    }
  }

  readonly #killGuestNow = (): void => {
    this.#guest?.process.sendSignal("SIGKILL");
  };

  #whenStateChanged(before: Side, event: SideEvent): void {
    const { epoch, record } = this.#side;
    const role = roleOf(this.#side);
    const transition = {
      role,
      from: stateName(before),
      to: stateName(this.#side),
      term: record?.term ?? 0,
      epoch,
      cause: event.tag,
    };
    this.#log.info(transition, `${transition.from} -> ${transition.to} (${event.tag})`);
    this.#options.sendToAgent({ tag: "transition", transition });
    this.#applyLimits();
    this.#guest?.setButtonOnly(mayGoOnElsewhere(this.#side));
    this.#report();
    if (transition.to === "protected") {
      this.#problems.delete("standby");
      if (this.#disks.isStopped) {
        this.#whenGuestDied("its disk has failed, and now another side can go on");
        return;
      }
    }
    if (transition.to === "protected" || transition.to === "holding") {
      this.#disks.heal();
      clearTimeout(this.#tidying);
      this.#tidying = setTimeout(releaseOwnMemory, TIDY_AFTER_MS).unref();
    }
  }

  #perform(effect: Effect): void {
    switch (effect.tag) {
      case "readRecord":
        void this.#quorum.readRecord();
        return;
      case "askQuorum":
        void this.#quorum.ask(effect.request);
        return;
      case "startTimer":
        this.#startTimer(effect.timer);
        return;
      case "stopTimer":
        this.#timers.stop(effect.timer);
        return;
      case "openLinks":
        this.#openLinks(effect.as);
        return;
      case "closeLink":
        this.#links.closeLink(effect.link);
        return;
      case "send":
        this.#problems.noteSent(effect.message);
        this.#links.send(effect.link, effect.message);
        return;
      case "reportRefusal":
        this.#problems.noteRefusal(effect.code, effect.message);
        return;
      case "exit":
        this.#end(effect);
        return;
      default:
        this.#performOnGuest(effect);
    }
  }

  #performOnGuest(
    effect: Exclude<
      Effect,
      {
        tag:
          | "readRecord"
          | "askQuorum"
          | "startTimer"
          | "stopTimer"
          | "openLinks"
          | "closeLink"
          | "send"
          | "reportRefusal"
          | "exit";
      }
    >,
  ): void {
    switch (effect.tag) {
      case "startGuest":
        void this.#startGuest(effect.as);
        return;
      case "killGuest":
        this.#endingGuest = this.#guest;
        this.#guest?.process.sendSignal("SIGKILL");
        this.#options.sendToAgent({ tag: "killGuest" });
        return;
      case "pauseGuest":
        void this.#command("stop");
        return;
      case "resumeGuest":
        void this.#command("cont");
        return;
      case "announceGuest":
        this.#announce();
        return;
      case "openOutput":
      case "holdOutput":
      case "leaseOutput":
      case "discardOutput":
        this.#output.perform(effect);
        return;
      case "activate":
        void this.#activate(effect.epoch);
        return;
      default:
        this.#sessions.perform(effect);
    }
  }

  /** Not of a side that is about to run the guest: what comes in now is for it. */
  #discardInput(): void {
    if (!isTakingOver(this.#side)) {
      this.#guest?.discardInput();
    }
  }

  #announce(): void {
    const guest = this.#guest;
    if (guest?.standby !== undefined) {
      guest.announceStandby();
    } else if (guest !== undefined) {
      announceGuest(guest.qmp).catch((error: unknown) => {
        this.#log.warn({ error }, "the guest could not be announced");
      });
    }
  }

  /** A guest with an obstacle runs on, unprotected; no standby is asked for. */
  #openLinks(as: "dial" | "listen"): void {
    this.#applyLimits();
    const [obstacle] = this.#guest?.obstacles ?? [];
    if (obstacle === undefined) {
      this.#links.open(as);
      return;
    }
    this.#problems.set("guest", obstacle);
    this.#log.error({ obstacles: this.#guest?.obstacles }, "the guest cannot be protected");
  }

  #noteWord(message: Message): void {
    this.#problems.noteReceived(message);
    if (message.tag === "hello") {
      this.#sessions.noteHello(message.shape);
    }
  }

  #startTimer(timer: TimerName): void {
    const { isImpaired } = this.#side;
    const isLeased = this.#sessions.lastReception?.isBootOnly ?? false;
    const context = { attempt: this.#quorum.attempts, lostBy: this.#lostBy, isImpaired, isLeased };
    if (timer === "retry") {
      this.#quorum.attempts += 1;
    }
    this.#timers.start(timer, timerMs(this.#timing, timer, context));
  }

  #applyLimits(): void {
    const { heartbeatMs, primarySilenceMs, standbySilenceMs } = this.#timing;
    const silenceMs = isPrimary(this.#side) ? primarySilenceMs : standbySilenceMs;
    this.#links.setLimits({ heartbeatMs, silenceMs });
  }

  // The guest.

  async #startGuest(as: "primary" | "standby"): Promise<void> {
    this.#isWantedAs = as;
    await this.#releaseGuest();
    if (as === "standby") {
      await sleep(this.#disks.restMs);
    }
    this.#options.sendToAgent({ tag: "guestWanted", as, fresh: true });
  }

  async #whenGuestFound(found: FoundGuest): Promise<void> {
    if (this.#isWantedAs === undefined) {
      return;
    }
    this.#isWantedAs = undefined;
    try {
      await this.#attach(found);
      this.#guest?.gate?.setMode("held");
      const shape = this.#held.shape();
      if (shape !== null) {
        this.#post({ tag: "guestReady", shape });
      }
    } catch (error) {
      this.#log.error({ error }, "the guest that was started cannot be held");
      this.#problems.set("guest", error instanceof Error ? error.message : String(error));
      this.#post({ tag: "guestFailed" });
    }
  }

  #attach(found: FoundGuest): Promise<FoundGuestState> {
    this.#hasCrashed = false;
    return this.#held.attach(found);
  }

  async #releaseGuest(): Promise<void> {
    const guest = this.#guest;
    await this.#releaseGuestParts();
    guest?.process.sendSignal("SIGKILL");
    await guest?.close();
  }

  async #releaseGuestParts(): Promise<void> {
    this.#sessions.endAll();
    this.#disks.endStop();
    await this.#held.letGo();
  }

  #whenQemuFailed(why: string): void {
    if (this.#hasCrashed && !this.#isOver) {
      this.#log.warn({ why }, "the guest has crashed, and its QEMU is gone");
      this.#post({ tag: "guestShutDown" });
      return;
    }
    if (this.#guest !== undefined && this.#guest !== this.#endingGuest && !this.#isOver) {
      this.#teller.tell({ component: "qemu", code: "QemuDied", message: why });
    }
    this.#whenGuestDied(why);
  }

  /** A QEMU that lives, and does not stop its guest when it is told to: it waits for every request that it made of a disk. */
  #whenUnanswered(why: string): void {
    const stuck = this.#disks.noteStuck(this.#guest);
    if (stuck === undefined) {
      this.#whenQemuFailed(why);
    } else {
      this.#whenGuestDied(`${stuck} (${why})`);
    }
  }

  #whenGuestDied(why: string): void {
    if (this.#guest === undefined || this.#isOver) {
      return;
    }
    this.#endingGuest = this.#guest;
    this.#log.warn({ why }, "the guest's QEMU is gone");
    this.#guest.process.sendSignal("SIGKILL");
    this.#post({ tag: "guestDied" });
  }

  #whenGuestEvent(event: GuestEvent): void {
    switch (event.tag) {
      case "shapeChanged":
        void this.#watchDevices();
        return;
      case "panicked":
        this.#whenCrashed("its kernel has panicked", event.action !== "run");
        return;
      case "watchdogFired":
        this.#whenCrashed("its watchdog has fired", ["poweroff", "shutdown"].includes(event.action));
        return;
      case "reset":
        this.#hasCrashed = false;
        this.#log.info(event, "the guest starts anew");
        return;
      case "shutDown":
        this.#endingGuest = this.#guest;
        if (event.byGuest || this.#hasCrashed) {
          this.#post({ tag: "guestShutDown" });
        } else if (stateName(this.#side) === "protected") {
          // Somebody ends QEMU in order. Its mirrors would end first, and look like a standby that is lost: the quorum would
          // let this side run alone a moment before it is gone, and nobody could go on.
          this.#whenGuestDied(`it was told to end: ${event.reason}`);
        }
        return;
      case "powerButtonPressed":
        this.#whenPowerButtonPressed();
        return;
      case "diskFailed":
        this.#whenDiskFailed(event);
        return;
      default:
        this.#log.info(event, "the guest reports");
    }
  }

  /**
   * The guest's own affair, and on its other side it would be in the same state: it is not taken over, for ever and ever. What
   * becomes of it is for whoever runs QEMU to say (`-action panic=`, libvirt's on_crash, a watchdog's action): where that ends QEMU
   * the guest has ended, as if it had switched itself off; where it is left to stand it stands; a reset is one of many.
   */
  #whenCrashed(what: string, isEnding: boolean): void {
    this.#hasCrashed = isEnding;
    this.#log.warn({ isEnding }, `the guest has crashed: ${what}`);
  }

  /**
   * A guest that was stopped has not seen the error. Where a standby is in sync, whose disk works, it goes on there from the last
   * epoch; in a hand-over it does so anyway. Else it stands still until the disk works.
   */
  #whenDiskFailed(event: Extract<GuestEvent, { tag: "diskFailed" }>): void {
    const guest = this.#guest;
    const message = this.#disks.noteFailed(event, guest);
    if (!event.stopped || guest === undefined) {
      return;
    }
    if (stateName(this.#side) === "protected") {
      this.#whenGuestDied(message);
    } else if (stateName(this.#side) !== "handingOver") {
      this.#problems.set("guest", `the guest stands still and goes on by itself once its disk works: ${message}`);
      this.#disks.beginStop(guest.qmp);
    }
    this.#report();
  }

  /**
   * KubeVirt presses it where a pod is to end: its node shuts down in order, somebody deletes the instance. The guest is not to
   * end with that side of it: the standby goes on from an epoch in which nobody has pressed anything, and a guest that begins to
   * shut down here is not seen doing so, for its output is held.
   *
   * The agent in the guest, where there is one, would be asked first; the shim refuses that (Guest.setButtonOnly).
   *
   * QEMU says so before it answers the checkpoint that stops the guest next, and a capture that has not been answered is not
   * shipped any more; what was answered before was captured before.
   */
  #whenPowerButtonPressed(): void {
    if (this.#hasCrashed) {
      return; // It is its watchdog's.
    }
    if (mayGoOnElsewhere(this.#side)) {
      this.#whenGuestDied("somebody asked it to shut down, by its power button");
    } else {
      this.#log.warn({}, "the guest's power button is pressed, and no standby could go on: it shuts down");
    }
  }

  async #keepsDevices(guest: Guest): Promise<boolean> {
    const change = await guest.findDeviceChange();
    if (change !== undefined && this.#guest === guest && !this.#isOver) {
      this.#whenDevicesChanged(change);
    }
    return change === undefined;
  }

  /**
   * Somebody plugged something into QEMU, or out of it, past everything that refuses it. The state of such a machine cannot be
   * loaded at the other side: the guest goes on there from the last epoch of the machine that both have. Without a standby the
   * next engine takes the machine for what it is, and its standby is refused until it is the same.
   *
   * In HighAvailability no state is loaded: the other side boots, without that device.
   */
  #whenDevicesChanged(change: string): void {
    const message = `${change} while the guest runs; its other side has other devices`;
    const { state } = this.#side;
    if (this.#toldChange !== message) {
      this.#toldChange = message;
      this.#teller.tell({ component: "devices", code: "DevicesChanged", message });
      this.#log.error({}, message);
    }
    if ("mode" in state && state.mode === "HighAvailability") {
      return;
    }
    if (mayGoOnElsewhere(this.#side)) {
      this.#whenGuestDied(message);
    } else {
      this.#end({ tag: "exit", reason: "restart", message });
    }
  }

  /** What checkpoints do not show: those of a guest that has none, and what has no state of its own. */
  async #watchDevices(): Promise<void> {
    const guest = this.#guest;
    if (guest === undefined || guest.obstacles.length > 0 || isTakingOver(this.#side)) {
      return;
    }
    try {
      await this.#keepsDevices(guest);
    } catch (error) {
      this.#log.debug({ error }, "QEMU does not tell which devices it has");
    }
  }

  async #command(command: "stop" | "cont"): Promise<void> {
    try {
      await this.#guest?.qmp.execute(command, {});
    } catch (error) {
      this.#log.warn({ error, command }, "QEMU refused");
    }
  }

  /** Takeover: everything acknowledged is on disk and in memory; load the state, run, and let it be seen. */
  async #activate(epoch: number): Promise<void> {
    const guest = this.#guest;
    const standby = guest?.standby;
    const reception = this.#sessions.lastReception;
    if (this.#isActivating || guest === undefined || standby === undefined || reception === undefined) {
      this.#post({ tag: "activateFailed" });
      return;
    }
    this.#isActivating = true;
    const startedAtMs = monotonicMs();
    guest.keepInput();
    try {
      const parts = { guest, standby, reception, disks: this.#held.standbyDisks };
      const phases = await bringToLife(parts);
      guest.standby = undefined;
      this.#takeoversCount += 1;
      this.#log.info({ epoch, ...phases, totalMs: monotonicMs() - startedAtMs }, "the guest runs here now");
      this.#sessions.endReception();
      this.#post({ tag: "activated" });
      tellSizes(parts, this.#log);
      await this.#held.becomePrimary(guest);
    } catch (error) {
      this.#log.error({ error, epoch }, "the takeover failed");
      this.#post({ tag: "activateFailed" });
    } finally {
      this.#isActivating = false;
    }
  }

  #whenSwitchoverAsked(requestId: string): void {
    const message = this.#whyNoSwitchover();
    if (message !== undefined) {
      this.#options.sendToAgent({ tag: "switchoverAnswered", requestId, accepted: false, message });
      return;
    }
    this.#switchovers.push(requestId);
    this.#options.sendToAgent({ tag: "switchoverAnswered", requestId, accepted: true, message: "handing over" });
    this.#post({ tag: "switchoverAsked" });
  }

  /** A guest that is handed over stands still until the quorum has answered. */
  #whyNoSwitchover(): string | undefined {
    if (stateName(this.#side) !== "protected") {
      return `this side is ${stateName(this.#side)}; a switchover needs a protected guest: wait until it is in sync`;
    }
    const { problem } = this.#quorum.seats;
    return problem === undefined ? undefined : `a switchover needs the quorum, which does not answer: ${problem}`;
  }

  #syncDisks(): void {
    for (const disk of this.#held.standbyDisks) {
      disk.sync().catch((error: unknown) => {
        const session = this.#sessions.name;
        if (session !== undefined) {
          this.#post({ tag: "applyFailed", session, reason: error instanceof Error ? error.message : String(error) });
        }
      });
    }
  }

  // The end, and reports.

  #end(effect: Extract<Effect, { tag: "exit" }>): void {
    this.#isOver = true;
    this.#held.end();
    this.#log.info({ reason: effect.reason }, effect.message);
    this.#disks.endStop();
    for (const { id, failure } of this.#held.standbyDisks) {
      if (failure !== undefined) {
        this.#disks.note(id, { message: failure.message, isFull: failure.detail.errno === "ENOSPC" });
      }
    }
    this.#intervals.forEach((interval) => {
      clearInterval(interval);
    });
    this.#timers.stopAll();
    if (this.#guest?.gate?.mode === "leased") {
      this.#output.hold(); // Before writes are answered that the standby may lack.
    }
    this.#sessions.replication?.end(0);
    this.#report();
    // Where no engine comes after this one QEMU must be as if there had never been any.
    const isLast = effect.reason === "released" || this.#isLeaving;
    void (isLast ? this.#letGuestBe() : Promise.resolve()).finally(() => {
      this.#options.sendToAgent({
        tag: "exiting",
        reason: effect.reason,
        message: effect.message,
      });
      // Last words to the peer, that the guest died for one, need a moment to leave.
      this.#links.close();
      setTimeout(() => {
        this.#trace?.end();
        this.#quorum.seats.close();
        this.#options.exit();
      }, LAST_WORDS_MS);
    });
  }

  /** Ends the mirrors and a checkpoint under way, and gives memory and monitor back; the guest goes on as it is. */
  async #letGuestBe(): Promise<void> {
    const guest = this.#guest;
    const disks = this.#held.primaryDisks;
    const tidied = (async (): Promise<void> => {
      await this.#held.mirrorsReady.catch(() => undefined);
      await disks?.stopMirrors();
      await guest?.close();
    })().catch((error: unknown) => {
      this.#log.warn({ error }, "QEMU keeps something of this engine");
    });
    await Promise.race([tidied, new Promise((resolve) => setTimeout(resolve, LET_BE_MS))]);
  }

  #report(): void {
    this.#options.sendToAgent({ tag: "report", report: this.report() });
  }

  /** Also of one that answers and cannot decide. */
  get #quorumProblem(): string | undefined {
    return this.#quorum.seats.problem ?? (this.#side.ask === null ? undefined : this.#quorum.undecidedWhy);
  }

  report(): EngineReport {
    const gate = this.#guest?.gate;
    this.#problems.noteOwnCertificate(this.#options.credentials, this.#config.node);
    const snapshot: EngineSnapshot = {
      side: this.#side,
      role: roleOf(this.#side),
      state: stateName(this.#side),
      nowMs: monotonicMs(),
      figures: this.#figures,
      contract: this.#contract,
      linkShare: this.#linkShare,
      ...this.#sessions.figures,
      syncPercent: this.#resync.percent,
      disks: this.#held.primaryDisks?.progress() ?? [],
      resync: this.#resync.progress,
      heldPacketsCount: gate?.heldPackets ?? 0,
      outputMode: (gate?.mode ?? (this.#guest === undefined ? "closed" : "open")) satisfies OutputMode,
      tracker: this.#guest?.tracker ?? "none",
      links: this.#links.figures().map((link) => ({ ...link, carriesData: link.name === this.#sessions.link })),
      quorums: this.#quorum.seats.figures(),
      quorumProblem: this.#quorumProblem,
      takeoversCount: this.#takeoversCount,
      problems: this.#problems,
      diskFaults: this.#disks.listFailed(),
      slowDisks: this.#disks.listSlow(),
    };
    return planReport(snapshot);
  }
}
