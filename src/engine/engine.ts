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
  type OverrideOrder,
} from "../protocol/assignment.ts";
import { type Fault } from "../protocol/faults.ts";
import { type Frame } from "../protocol/frames.ts";
import { type MachineShape, type Message, type SyncBasis } from "../protocol/messages.ts";
import { isPrimary, startSide, step } from "../protocol/side.ts";
import {
  type Effect,
  type FoundGuestState,
  type LostBy,
  type Side,
  type SideEvent,
  type TimerName,
} from "../protocol/side-state.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { planTiming, type Timing, timerMs } from "../protocol/timing.ts";
import { encodeTraceEvent, encodeTraceHead } from "../protocol/trace.ts";
import { assert, present, unreachable } from "../lib/assert.ts";
import { readStartTime } from "../memory/guest-process.ts";
import { releaseOwnMemory } from "../memory/own-memory.ts";
import { applyHole } from "../memory/sparse-file.ts";
import { PageSet } from "../memory/page-runs.ts";
import { QuorumConnection, type QuorumOutcome } from "../net/quorum-connection.ts";
import { QuorumSeats } from "../net/quorum-seats.ts";
import { encodePeerUri } from "../net/peer-identity.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { type GuestEvent } from "../qemu/guest-events.ts";
import { readRequestTotals } from "../qemu/request-totals.ts";
import { type Activation, announceGuest, type ResizedNode, type Standby } from "../qemu/standby.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { type DiskFault, DiskFaults, sayDiskFault } from "./disk-faults.ts";
import { DiskStop } from "./disk-stop.ts";
import { DiskWatch } from "./disk-watch.ts";
import { FailPoints } from "./fail-point.ts";
import { Figures } from "./figures.ts";
import { openSampleLog } from "./sample-log.ts";
import { Guest } from "./guest.ts";
import { Links } from "./links.ts";
import { DiskReadFailure, PrimaryDisks } from "./primary-disks.ts";
import { Reception } from "./reception.ts";
import { Replication } from "./replication.ts";
import { observeLeft, percentOf, type ResyncProgress, startProgress } from "./resync-progress.ts";
import { StandbyDisk } from "./standby-disk.ts";
import { type EngineSnapshot, planReport } from "./report.ts";

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
const FULL: SyncBasis = { tag: "full" };
/** The standby's disks to stable storage: not needed for a takeover, only so that less is left to write in one go. */
const SYNC_MS = 5_000;
/** After a synchronisation, when the pair has settled: once, for it costs a few milliseconds. */
const TIDY_AFTER_MS = 3_000;
const LAST_WORDS_MS = 50;
/** What takes longer is left to whoever holds this QEMU next. */
const LET_BE_MS = 3_000;
/** The same fault is told once in this time, however often it is met. */
const TELL_AGAIN_MS = 1_000;

export class Engine {
  readonly #config: EngineConfig;
  readonly #options: EngineOptions;
  readonly #log: Log;
  readonly #links: Links;
  readonly #failPoints: FailPoints;
  readonly #quorum: QuorumSeats;
  readonly #figures: Figures;
  readonly #timers = new Map<TimerName, NodeJS.Timeout>();
  #timing: Timing;
  #contract: CheckpointContract;
  #side: Side;
  #queue: SideEvent[] = [];
  #isStepping = false;
  #isOver = false;
  #retries = 0;
  /** Why the last request was not decided. */
  #undecidedWhy: string | undefined;
  #lostBy: LostBy = "closed";
  /** The peer was there after this moment. */
  #heardSinceMs = -Infinity;
  #guest: Guest | undefined;
  #isWantedAs: "primary" | "standby" | undefined;
  #primaryDisks: PrimaryDisks | undefined;
  #mirrorsReady: Promise<void> = Promise.resolve();
  #standbyDisks: StandbyDisk[] = [];
  /** Those of the primary that said hello last. */
  #peerDisks: MachineShape["disks"] = [];
  #lacking: PageSet | undefined;
  #replication: Replication | undefined;
  #reception: Reception | undefined;
  #lastReception: Reception | undefined;
  #syncPercent = 0;
  #resync: ResyncProgress | undefined;
  #fullResync: string | undefined;
  #isFullWanted = false;
  #takeoversCount = 0;
  #switchovers: string[] = [];
  #isActivating = false;
  #isReleasing = false;
  #isLeaving = false;
  #isNodeImpaired = false;
  #tidying: NodeJS.Timeout | undefined;
  #problems = new Map<string, string>();
  /** When each fault was told last. */
  readonly #toldAtMs = new Map<string, number>();
  /** The guest that was asked to end, or whose end is known already: that its QEMU ends is no fault of its own. */
  #endingGuest: Guest | undefined;
  /** A panic device or a watchdog said so, and it has not started anew since. */
  #hasCrashed = false;
  /** Told once, however often it is seen. */
  #toldChange: string | undefined;
  readonly #diskFaults: DiskFaults;
  readonly #diskStop: DiskStop;
  #diskWatch = this.#openDiskWatch();
  #trace: WriteStream | undefined;
  readonly #intervals: NodeJS.Timeout[] = [];

  constructor(options: EngineOptions) {
    const { config, credentials } = options;
    this.#options = options;
    this.#config = config;
    this.#figures = new Figures(openSampleLog(config.guest, config.node));
    this.#log = options.log;
    this.#failPoints = new FailPoints(config.runDirectory);
    this.#diskFaults = new DiskFaults(config.runDirectory);
    this.#diskStop = new DiskStop({
      faults: this.#diskFaults,
      log: this.#log,
      mayRun: () => mayRunAlone(this.#side),
      onEnded: () => {
        this.#problems.delete("guest");
        this.#noteHealth();
        for (const { id } of this.#primaryDisks?.sizes ?? []) {
          this.#options.sendToAgent({ tag: "repaired", component: `disk/${id}` });
        }
      },
    });
    this.#contract = config.checkpoint;
    this.#fullResync = config.fullResync;
    this.#timing = planTiming(config.failover.detectionTimeoutMs);
    this.#quorum = openQuorum(options);
    this.#links = new Links({
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
        this.#heardSinceMs = Math.max(this.#heardSinceMs, sinceMs);
        this.#renewLease();
      },
      onMessage: (link, message) => {
        this.#noteWord(message);
        this.#post({ tag: "received", link, message });
      },
      onData: (link, frame) => {
        this.#takeData(link, frame);
      },
      onProblem: (link, failure) => {
        this.#problems.set(link ?? "listener", failure.message);
        this.#log.debug({ link, error: failure }, "a replication link has a problem");
      },
      onHeard: () => {
        this.#discardInput();
      },
    });
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

  async start(): Promise<void> {
    this.#intervals.push(
      setInterval(() => {
        this.#standbyDisks.forEach((disk) => {
          disk.checkStall(monotonicMs());
        });
        this.#observeResync();
        this.#report();
      }, REPORT_MS),
    );
    this.#intervals.push(
      setInterval(() => {
        this.#syncDisks();
        void this.#watchDisks();
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
    this.#post({ tag: "started", found: state, shape: this.#shape() });
  }

  /**
   * A QEMU that cannot be held (no shim, another engine's, hung): replaced when it is dead or the guest belongs elsewhere. If it
   * may be the running guest itself it is left alone and the error is the agent's to show.
   */
  async #mayReplace(found: FoundGuest, error: unknown): Promise<boolean> {
    const why = error instanceof Error ? error.message : String(error);
    this.#log.warn({ error }, "the QEMU that was found cannot be held");
    await this.#releaseGuestParts();
    const reading = await this.#quorum.read(this.#config.guest);
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
        this.#quorum.setEndpoints(message.quorum);
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

  #takeRareMessage(message: Extract<AgentMessage, { readonly tag: "force" | "health" | "moveQuorum" }>): void {
    switch (message.tag) {
      case "force":
        void this.#force(message.override);
        return;
      case "health":
        this.#isNodeImpaired = message.isImpaired;
        this.#noteHealth();
        return;
      case "moveQuorum":
        void this.#moveQuorum(message.to);
        return;
    }
  }

  #retune({ mode, checkpoint, failover, fullResync }: Extract<AgentMessage, { tag: "retuned" }>): void {
    if (mode !== this.#side.mode) {
      this.#post({ tag: "modeAsked", mode });
    }
    this.#contract = checkpoint;
    this.#replication?.setContract(checkpoint);
    this.#timing = planTiming(failover.detectionTimeoutMs);
    this.#applyLimits();
    if (fullResync !== undefined && fullResync !== this.#fullResync) {
      this.#fullResync = fullResync;
      this.#isFullWanted = true;
      this.#log.info({}, "everything is copied to the standby once more, as asked");
      this.#failSession();
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
    const isImpaired = this.#isNodeImpaired || this.#diskFaults.list().length > 0;
    if (isImpaired !== this.#side.isImpaired) {
      this.#post({ tag: "healthChanged", isImpaired });
    }
  }

  /** Without the quorum the pair would only be torn and joined again, over and over. */
  #askRelease(): void {
    if (this.#isReleasing && this.#quorum.reachable) {
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
      if (this.#diskStop.isStopped) {
        this.#whenGuestDied("its disk has failed, and now another side can go on");
        return;
      }
    }
    if (transition.to === "protected" || transition.to === "holding") {
      this.#diskFaults.heal();
      this.#noteHealth();
      clearTimeout(this.#tidying);
      this.#tidying = setTimeout(releaseOwnMemory, TIDY_AFTER_MS).unref();
    }
  }

  #perform(effect: Effect): void {
    switch (effect.tag) {
      case "readRecord":
        void this.#readRecord();
        return;
      case "askQuorum":
        void this.#quorum.ask(effect.request).then((outcome) => {
          const isDecided = outcome.tag === "granted" || outcome.tag === "refused";
          this.#retries = isDecided ? 0 : this.#retries;
          this.#undecidedWhy = isDecided ? undefined : sayUndecided(outcome);
          const plain = isDecided ? outcome : { tag: outcome.tag };
          this.#post({ tag: "quorumAnswered", requestId: effect.request.requestId, outcome: plain });
        });
        return;
      case "startTimer":
        this.#startTimer(effect.timer);
        return;
      case "stopTimer":
        clearTimeout(this.#timers.get(effect.timer));
        this.#timers.delete(effect.timer);
        return;
      case "openLinks":
        this.#openLinks(effect.as);
        return;
      case "closeLink":
        this.#links.closeLink(effect.link);
        return;
      case "send":
        this.#noteAnswer(effect.message);
        this.#links.send(effect.link, effect.message);
        return;
      case "reportRefusal":
        this.#noteRefusal(effect.code, effect.message);
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
      case "releaseOutput":
      case "holdOutput":
      case "leaseOutput":
      case "discardOutput":
        this.#performOnOutput(effect);
        return;
      default:
        this.#performOnSession(effect);
    }
  }

  #performOnOutput(
    effect: Extract<Effect, { tag: "openOutput" | "releaseOutput" | "holdOutput" | "leaseOutput" | "discardOutput" }>,
  ): void {
    switch (effect.tag) {
      case "openOutput":
        this.#guest?.gate?.openAndRelease();
        return;
      case "releaseOutput":
        this.#replication?.release(effect.throughEpoch);
        return;
      case "holdOutput":
        this.#holdOutput();
        return;
      case "leaseOutput":
        this.#guest?.gate?.lease(this.#leasedUntilMs());
        return;
      case "discardOutput":
        this.#discardOutput();
        return;
      default:
        unreachable(effect);
    }
  }

  #performOnSession(
    effect: Extract<
      Effect,
      {
        tag:
          | "beginSync"
          | "startEpochs"
          | "copyMemory"
          | "captureFinal"
          | "endSession"
          | "beginReceiving"
          | "commitEpoch"
          | "discardStaged"
          | "activate";
      }
    >,
  ): void {
    switch (effect.tag) {
      case "beginSync":
        void this.#beginSync(effect.session, effect.link, effect.ram, effect.disks);
        return;
      case "startEpochs":
        this.#startEpochs(effect.first);
        return;
      case "copyMemory":
        this.#copyMemory(effect.session);
        return;
      case "captureFinal":
        this.#replication?.captureFinal();
        return;
      case "endSession":
        this.#endSession(effect.session, effect.acked);
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
        void this.#activate(effect.epoch);
        return;
      default:
        unreachable(effect);
    }
  }

  /** Not of a side that is about to run the guest: what comes in now is for it. */
  #discardInput(): void {
    if (!isTakingOver(this.#side)) {
      this.#guest?.discardInput();
    }
  }

  #holdOutput(): void {
    const gate = this.#guest?.gate;
    if (gate !== undefined && gate.mode !== "closed") {
      gate.setMode("held");
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

  #leasedUntilMs(): number {
    return this.#heardSinceMs + this.#timing.leaseMs;
  }

  #renewLease(): void {
    const gate = this.#guest?.gate;
    if (gate?.mode === "leased") {
      gate.lease(this.#leasedUntilMs());
    }
  }

  #discardOutput(): void {
    const gate = this.#guest?.gate;
    gate?.setMode("closed");
    gate?.discard();
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

  /** What keeps the two sides apart is shown on both, and goes when they have found together. */
  #noteAnswer(message: Message): void {
    if (message.tag === "refuse") {
      this.#noteRefusal(message.code, message.message);
    } else if (message.tag === "welcome" || message.tag === "syncBegin") {
      this.#problems.delete("refusal");
    }
  }

  /** Why the standby cannot follow is shown here too: it starts over, and here is where a person looks. */
  #noteWord(message: Message): void {
    if (message.tag === "hello") {
      this.#peerDisks = message.shape.disks;
    } else if (message.tag === "stale") {
      this.#problems.set("standby", message.reason);
      this.#log.warn({ reason: message.reason }, "the standby cannot follow");
    }
  }

  #noteRefusal(code: string, message: string): void {
    if (this.#problems.get("refusal") !== message) {
      this.#problems.set("refusal", message);
      this.#log.warn({ code }, message);
    }
  }

  #startTimer(timer: TimerName): void {
    clearTimeout(this.#timers.get(timer));
    const { isImpaired } = this.#side;
    const isLeased = this.#lastReception?.isBootOnly ?? false;
    const context = { attempt: this.#retries, lostBy: this.#lostBy, isImpaired, isLeased };
    const ms = timerMs(this.#timing, timer, context);
    if (timer === "retry") {
      this.#retries += 1;
    }
    this.#timers.set(
      timer,
      setTimeout(() => {
        this.#timers.delete(timer);
        this.#post({ tag: "timerFired", timer });
      }, ms),
    );
  }

  #applyLimits(): void {
    const { heartbeatMs, primarySilenceMs, standbySilenceMs } = this.#timing;
    const silenceMs = isPrimary(this.#side) ? primarySilenceMs : standbySilenceMs;
    this.#links.setLimits({ heartbeatMs, silenceMs });
  }

  async #readRecord(): Promise<void> {
    const reading = await this.#quorum.read(this.#config.guest);
    if (reading.tag === "read") {
      this.#retries = 0;
      this.#post({ tag: "recordRead", record: reading.record ?? null });
    } else {
      this.#post({ tag: "recordUnread" });
    }
  }

  /** Read again in any case: the side's next question is then asked on the version that the move made. */
  async #moveQuorum(to: QuorumSeat): Promise<void> {
    const trouble = await this.#quorum.move(this.#config.guest, to);
    this.#log[trouble === undefined ? "info" : "warn"]({ to }, trouble ?? `the ${to} quorum is in force`);
    const reading = await this.#quorum.read(this.#config.guest);
    if (reading.tag === "read" && reading.record !== undefined) {
      this.#post({ tag: "recordRead", record: reading.record });
    }
    this.#report();
  }

  /** What follows is as if the record had said so before: whoever owns it boots the guest, or goes on from what it holds. */
  async #force({ term, ...override }: OverrideOrder): Promise<void> {
    const { guest, peerNode } = this.#config;
    const outcome = await this.#quorum.force(guest, { tag: "force", peer: peerNode, term, override });
    if (outcome.tag === "granted") {
      this.#problems.delete("override");
      this.#log.warn({ override, record: outcome.record }, "this side owns the guest now, because a person said so");
      this.#post({ tag: "recordRead", record: outcome.record });
      return;
    }
    const why = outcome.tag === "unreachable" ? outcome.failure.message : outcome.tag;
    this.#problems.set("override", `the override was not recorded: ${why}`);
    this.#log.error({ override, outcome }, "the override was not recorded");
  }

  // The guest.

  async #startGuest(as: "primary" | "standby"): Promise<void> {
    this.#isWantedAs = as;
    await this.#releaseGuest();
    if (as === "standby") {
      await sleep(this.#diskFaults.restMs);
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
      const shape = this.#shape();
      if (shape !== null) {
        this.#post({ tag: "guestReady", shape });
      }
    } catch (error) {
      this.#log.error({ error }, "the guest that was started cannot be held");
      this.#problems.set("guest", error instanceof Error ? error.message : String(error));
      this.#post({ tag: "guestFailed" });
    }
  }

  async #attach(found: FoundGuest): Promise<FoundGuestState> {
    const listener = {
      onDeath: (why: string) => {
        this.#whenQemuFailed(why);
      },
      onEvent: (event: GuestEvent) => {
        this.#whenGuestEvent(event);
      },
      onMakingRaw: (id: string, percent: number) => {
        this.#problems.set("guest", `disk ${id} is being made raw, ${percent}%`);
      },
    };
    const guest = await Guest.attach(found, this.#config, listener, this.#log);
    this.#problems.delete("guest");
    this.#guest = guest;
    this.#hasCrashed = false;
    this.#lacking = new PageSet(guest.pageCount);
    if (guest.isIncoming) {
      this.#standbyDisks = await Promise.all(guest.disks.map((place) => StandbyDisk.open(place, applyHole)));
      return "incoming";
    }
    if (guest.obstacles.length === 0) {
      await this.#openPrimaryDisks(guest);
      await this.#mirrorsReady;
    }
    return guest.hasRun ? "running" : "none";
  }

  async #openPrimaryDisks(guest: Guest): Promise<void> {
    const disks = await PrimaryDisks.open(guest.disks, Math.ceil(this.#timing.leaseMs / 1000));
    disks.onMirrorLost = (device, reason) => {
      this.#log.warn({ device, reason }, "a disk is not mirrored any more");
      if (this.#guest === guest && guest.qmp.isOpen && !this.#isOver) {
        this.#problems.set(`mirror ${device}`, reason);
        this.#failSession();
        this.#mirrorsReady = this.#restartMirrors(disks, guest, device);
        this.#mirrorsReady.catch(() => undefined);
      }
    };
    this.#primaryDisks = disks;
    this.#diskWatch = this.#openDiskWatch(); // A standby's writes are of another kind.
    this.#mirrorsReady = disks.startMirrors(guest.qmp, guest.mirrorSocket);
    this.#mirrorsReady.catch(() => undefined);
  }

  /** No session begins before every write is seen again. */
  async #restartMirrors(disks: PrimaryDisks, guest: Guest, device: string): Promise<void> {
    await this.#mirrorsReady.catch(() => undefined);
    await disks.restartMirrors(guest.qmp, guest.mirrorSocket);
    this.#problems.delete(`mirror ${device}`);
  }

  #shape(): MachineShape | null {
    const sizes =
      this.#primaryDisks?.sizes ??
      this.#standbyDisks.map(({ bytes }, index) => {
        const { id = "", isElastic = false } = this.#guest?.disks[index] ?? {};
        return { id, bytes: isElastic ? null : bytes };
      });
    return this.#guest?.shape(sizes) ?? null;
  }

  async #releaseGuest(): Promise<void> {
    const guest = this.#guest;
    await this.#releaseGuestParts();
    guest?.process.sendSignal("SIGKILL");
    await guest?.close();
  }

  async #releaseGuestParts(): Promise<void> {
    this.#replication?.end(0);
    this.#replication = undefined;
    this.#reception?.end();
    this.#reception = undefined;
    this.#guest = undefined;
    this.#diskStop.end();
    await this.#primaryDisks?.close();
    this.#primaryDisks = undefined;
    await Promise.all(this.#standbyDisks.map((disk) => disk.close()));
    this.#standbyDisks = [];
  }

  /** For the records of faults; its end is told where the catalogue of faults wants that. */
  #tellFault(fault: Fault): void {
    const key = `${fault.component} ${fault.code}`;
    const nowMs = monotonicMs();
    if (nowMs - (this.#toldAtMs.get(key) ?? -Infinity) >= TELL_AGAIN_MS) {
      this.#toldAtMs.set(key, nowMs);
      this.#options.sendToAgent({ tag: "fault", ...fault });
    }
  }

  #whenQemuFailed(why: string): void {
    if (this.#hasCrashed && !this.#isOver) {
      this.#log.warn({ why }, "the guest has crashed, and its QEMU is gone");
      this.#post({ tag: "guestShutDown" });
      return;
    }
    if (this.#guest !== undefined && this.#guest !== this.#endingGuest && !this.#isOver) {
      this.#tellFault({ component: "qemu", code: "QemuDied", message: why });
    }
    this.#whenGuestDied(why);
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

  #noteDiskFault(id: string, fault: Pick<DiskFault, "message" | "isFull">): void {
    const { message, isFull } = fault;
    this.#diskFaults.note(id, fault);
    this.#tellFault({ component: `disk/${id}`, code: isFull ? "DiskFull" : "DiskFailed", message });
    this.#log.error({ disk: id }, message);
    this.#noteHealth();
  }

  /**
   * A guest that was stopped has not seen the error. Where a standby is in sync, whose disk works, it goes on there from the last
   * epoch; in a hand-over it does so anyway. Else it stands still until the disk works.
   */
  #whenDiskFailed(event: Extract<GuestEvent, { tag: "diskFailed" }>): void {
    const guest = this.#guest;
    const { id, path } = guest?.findDisk(event) ?? { id: event.device, path: event.device };
    const what = event.noSpace ? "is full: enlarge the volume or free some" : "is to be mended or replaced";
    const message = sayDiskFault(id, `${event.operation} failed: ${event.reason}; ${path} ${what}`);
    this.#noteDiskFault(id, { message, isFull: event.noSpace });
    if (!event.stopped || guest === undefined) {
      return;
    }
    if (stateName(this.#side) === "protected") {
      this.#whenGuestDied(message);
    } else if (stateName(this.#side) !== "handingOver") {
      this.#problems.set("guest", `the guest stands still and goes on by itself once its disk works: ${message}`);
      this.#diskStop.begin(guest.qmp);
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
      this.#tellFault({ component: "devices", code: "DevicesChanged", message });
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

  async #command(command: "stop" | "cont"): Promise<void> {
    try {
      await this.#guest?.qmp.execute(command, {});
    } catch (error) {
      this.#log.warn({ error, command }, "QEMU refused");
    }
  }

  // Sessions.

  async #beginSync(session: string, link: string, ram: SyncBasis, disks: SyncBasis): Promise<void> {
    const guest = this.#guest;
    const primaryDisks = this.#primaryDisks;
    const lacking = this.#lacking;
    const connection = this.#links.connection(link);
    if (guest === undefined || primaryDisks === undefined || lacking === undefined || connection === undefined) {
      this.#links.closeLink(link);
      return;
    }
    this.#syncPercent = 0;
    const events = {
      onCopied: () => {
        this.#isFullWanted = false;
        this.#post({ tag: "copied", session });
      },
      onCaptured: (epoch: number, final: boolean) => {
        this.#syncPercent = 100;
        this.#post({ tag: "captured", session, epoch, final });
      },
      onBroken: () => {
        this.#links.closeLink(link);
      },
      onFailed: (why: string) => {
        if (mayGoOnElsewhere(this.#side)) {
          this.#whenQemuFailed(why);
          return;
        }
        this.#problems.set("sync", why);
        this.#links.closeLink(link);
      },
      keepsDevices: () => this.#keepsDevices(guest),
    };
    try {
      await this.#mirrorsReady;
      if (this.#sessionOf() !== session) {
        return;
      }
      const parts = { session, guest, disks: primaryDisks, connection, contract: this.#contract, lacking };
      const replication = new Replication({ ...parts, figures: this.#figures, events, log: this.#log });
      this.#replication = replication;
      const copied = this.#isFullWanted ? replication.copy(FULL, FULL) : replication.copy(ram, disks);
      this.#resync = startProgress(replication.leftBytes, monotonicMs());
      await copied;
    } catch (error) {
      this.#log.warn({ error, session }, "the copy to the standby failed");
      const message = error instanceof Error ? error.message : String(error);
      this.#problems.set("sync", message);
      if (error instanceof DiskReadFailure) {
        this.#noteDiskFault(error.detail.disk, { message, isFull: false });
        this.#report();
        await sleep(this.#diskFaults.restMs); // The next session begins as soon as this one has ended.
      }
      this.#links.closeLink(link);
    }
  }

  #observeResync(): void {
    if (this.#replication !== undefined && this.#resync !== undefined && stateName(this.#side) === "syncing") {
      this.#resync = observeLeft(this.#resync, this.#replication.leftBytes, monotonicMs());
      this.#syncPercent = percentOf(this.#resync);
    }
  }

  #startEpochs(first: number): void {
    const { state } = this.#side;
    if ("mode" in state && state.mode === "HighAvailability") {
      this.#replication?.startWrites(first);
    } else {
      this.#replication?.startEpochs(first);
    }
  }

  #copyMemory(session: string): void {
    this.#replication?.copyMemory().catch((error: unknown) => {
      this.#log.warn({ error, session }, "the guest's memory could not be copied");
      this.#problems.set("sync", error instanceof Error ? error.message : String(error));
      this.#failSession();
    });
  }

  #endSession(session: string, acked: number): void {
    if (this.#replication?.session === session) {
      this.#replication.end(acked);
      this.#replication = undefined;
    }
  }

  /** Ends the running session by ending its link; the machine does the rest. */
  #failSession(): void {
    const { state } = this.#side;
    if ("role" in state && "link" in state && state.link !== null) {
      this.#links.closeLink(state.link);
    }
  }

  #dataLink(): string | null {
    const { state } = this.#side;
    return "link" in state ? state.link : null;
  }

  #sessionOf(): string | undefined {
    const { state } = this.#side;
    return "session" in state ? state.session : undefined;
  }

  #beginReceiving(session: string, ram: SyncBasis): void {
    const { state } = this.#side;
    const link = "link" in state ? state.link : null;
    const connection = link === null ? undefined : this.#links.connection(link);
    this.#lastReception?.end();
    if (this.#guest === undefined || connection === undefined || link === null) {
      return;
    }
    const reception = new Reception({
      session,
      memory: this.#guest.memory,
      disks: this.#disksInPeersOrder(this.#guest),
      connection,
      isWithoutMemory: ram.tag === "firmware",
      events: {
        onEpochHeld: (epoch) => {
          this.#post({ tag: "epochHeld", session, epoch });
        },
        onFailed: (reason) => {
          this.#log.error({ reason }, "what the primary sent cannot be applied");
          this.#post({ tag: "applyFailed", session, reason });
        },
        onPressure: (paused) => {
          this.#links.setPaused(link, paused);
        },
      },
    });
    this.#reception = reception;
    this.#lastReception = reception;
  }

  /** What comes is for the disk at a place in the primary's list; ours may have one more, or another order. */
  #disksInPeersOrder({ disks }: Guest): StandbyDisk[] {
    return this.#peerDisks.flatMap(({ id, bytes }) => {
      const index = disks.findIndex((disk) => disk.id === id);
      const disk = this.#standbyDisks[index];
      if (disk !== undefined && bytes !== null && disks[index]?.isElastic === true) {
        disk.resize(bytes);
      }
      return disk === undefined ? [] : [disk];
    });
  }

  #takeData(link: string, frame: Frame): void {
    const { state } = this.#side;
    if (!("link" in state) || state.link !== link) {
      return;
    }
    if (this.#replication !== undefined) {
      this.#replication.take(frame);
    } else {
      this.#reception?.take(frame);
    }
  }

  /** Takeover: everything acknowledged is on disk and in memory; load the state, run, and let it be seen. */
  async #activate(epoch: number): Promise<void> {
    const guest = this.#guest;
    const [standby, reception] = [guest?.standby, this.#lastReception];
    if (this.#isActivating || guest === undefined || standby === undefined || reception === undefined) {
      this.#post({ tag: "activateFailed" });
      return;
    }
    this.#isActivating = true;
    const startedAtMs = monotonicMs();
    guest.keepInput();
    try {
      await Promise.all(this.#standbyDisks.map((disk) => disk.settle()));
      guest.shim.gate.setMode("held");
      const phases = await this.#bringToLife(standby, reception);
      guest.standby = undefined;
      this.#takeoversCount += 1;
      this.#log.info({ epoch, ...phases, totalMs: monotonicMs() - startedAtMs }, "the guest runs here now");
      this.#reception?.end();
      this.#reception = undefined;
      this.#post({ tag: "activated" });
      void standby.tellSizes(this.#listResized(guest)).catch((error: unknown) => {
        this.#log.warn({ error }, "a disk's device was not told its size");
      });
      await guest.openCheckpointer();
      await this.#openPrimaryDisks(guest);
      await Promise.all(this.#standbyDisks.map((disk) => disk.sync().then(() => disk.close())));
      this.#standbyDisks = [];
    } catch (error) {
      this.#log.error({ error, epoch }, "the takeover failed");
      this.#post({ tag: "activateFailed" });
    } finally {
      this.#isActivating = false;
    }
  }

  async #bringToLife(standby: Standby, { deviceState, isBootOnly }: Reception): Promise<Activation> {
    if (deviceState !== undefined) {
      return standby.activate(deviceState);
    }
    assert(isBootOnly, "a takeover has a device state, or disks to boot from");
    // Power may go here too, and what the guest was told to be on its disk has to be there after that.
    await Promise.all(this.#standbyDisks.map((disk) => disk.sync()));
    return standby.boot(present(this.#guest, "the waiting QEMU").bootState);
  }

  /** Disks that have another size now than the device saw when QEMU was started. */
  #listResized({ disks }: Guest): readonly ResizedNode[] {
    return disks.flatMap(({ device, bytesInQemu, isElastic, isReadOnly }, index) => {
      const bytes = this.#standbyDisks[index]?.bytes;
      const isTold = !isElastic || isReadOnly || bytes === undefined || bytes === bytesInQemu;
      return isTold ? [] : [{ node: device, bytes }];
    });
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
    const { problem } = this.#quorum;
    return problem === undefined ? undefined : `a switchover needs the quorum, which does not answer: ${problem}`;
  }

  #openDiskWatch(): DiskWatch {
    const watch = new DiskWatch();
    watch.onChanged = (id, isSlow) => {
      const slow = { component: `disk/${id}`, code: "DiskSlow" } as const;
      if (isSlow) {
        this.#tellFault({ ...slow, message: "requests take far longer than is usual for this disk" });
      } else {
        this.#options.sendToAgent({ tag: "repaired", ...slow });
      }
    };
    return watch;
  }

  async #watchDisks(): Promise<void> {
    for (const disk of this.#standbyDisks) {
      this.#diskWatch.note(disk.id, disk.takeSample());
    }
    const guest = this.#guest;
    if (guest === undefined || this.#primaryDisks === undefined) {
      return;
    }
    try {
      for (const { node, device, ...totals } of await readRequestTotals(guest.qmp)) {
        const disk = guest.findDisk({ node, device });
        if (disk !== undefined) {
          this.#diskWatch.noteTotals(disk.id, totals);
        }
      }
    } catch (error) {
      this.#log.debug({ error }, "QEMU does not tell how long its disks take");
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

  #syncDisks(): void {
    for (const disk of this.#standbyDisks) {
      disk.sync().catch((error: unknown) => {
        const session = this.#sessionOf();
        if (session !== undefined) {
          this.#post({ tag: "applyFailed", session, reason: error instanceof Error ? error.message : String(error) });
        }
      });
    }
  }

  // The end, and reports.

  #end(effect: Extract<Effect, { tag: "exit" }>): void {
    this.#isOver = true;
    this.#log.info({ reason: effect.reason }, effect.message);
    this.#diskStop.end();
    for (const { id, failure } of this.#standbyDisks) {
      if (failure !== undefined) {
        this.#noteDiskFault(id, { message: failure.message, isFull: failure.detail.errno === "ENOSPC" });
      }
    }
    this.#intervals.forEach((interval) => {
      clearInterval(interval);
    });
    for (const timer of this.#timers.values()) {
      clearTimeout(timer);
    }
    if (this.#guest?.gate?.mode === "leased") {
      this.#holdOutput(); // Before writes are answered that the standby may lack.
    }
    this.#replication?.end(0);
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
        this.#quorum.close();
        this.#options.exit();
      }, LAST_WORDS_MS);
    });
  }

  /** Ends the mirrors and a checkpoint under way, and gives memory and monitor back; the guest goes on as it is. */
  async #letGuestBe(): Promise<void> {
    const guest = this.#guest;
    const disks = this.#primaryDisks;
    const tidied = (async (): Promise<void> => {
      await this.#mirrorsReady.catch(() => undefined);
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
    return this.#quorum.problem ?? (this.#side.ask === null ? undefined : this.#undecidedWhy);
  }

  /** Every peer refuses it, but none of them can say whose mistake it is. */
  #noteOwnCertificate(): void {
    const problem = findCertificateProblem(this.#options.credentials, this.#config.node);
    if (problem === undefined) {
      this.#problems.delete("certificate");
    } else if (this.#problems.get("certificate") !== problem) {
      this.#problems.set("certificate", problem);
      this.#log.error({}, problem);
    }
  }

  report(): EngineReport {
    const gate = this.#guest?.gate;
    this.#noteOwnCertificate();
    const snapshot: EngineSnapshot = {
      side: this.#side,
      role: roleOf(this.#side),
      state: stateName(this.#side),
      nowMs: monotonicMs(),
      figures: this.#figures,
      contract: this.#contract,
      isThrottled: this.#replication?.isThrottled ?? false,
      syncPercent: this.#syncPercent,
      disks: this.#primaryDisks?.progress() ?? [],
      resync: this.#resync,
      oldestUnacknowledgedMs: this.#replication?.oldestUnacknowledgedMs,
      heldPacketsCount: gate?.heldPackets ?? 0,
      outputMode: (gate?.mode ?? (this.#guest === undefined ? "closed" : "open")) satisfies OutputMode,
      tracker: this.#guest?.tracker ?? "none",
      links: this.#links.figures().map((link) => ({ ...link, carriesData: link.name === this.#dataLink() })),
      quorums: this.#quorum.figures(),
      quorumProblem: this.#quorumProblem,
      takeoversCount: this.#takeoversCount,
      problems: this.#problems,
      diskFaults: this.#diskFaults.list(),
      slowDisks: this.#diskWatch.listSlow(),
    };
    return planReport(snapshot);
  }
}

function openQuorum({ config, credentials, nonce }: EngineOptions): QuorumSeats {
  const alternate = config.quorums?.alternate ?? [];
  return new QuorumSeats({
    preferred: new QuorumConnection({ endpoints: config.quorum, credentials }),
    alternate: alternate.length === 0 ? undefined : new QuorumConnection({ endpoints: alternate, credentials }),
    node: config.node,
    nonce,
  });
}

function sayUndecided(outcome: Extract<QuorumOutcome, { tag: "unreachable" | "unknown" }>): string {
  return outcome.tag === "unreachable" ? outcome.failure.message : outcome.why;
}

/** Whether the quorum knows of a standby that could take over. */
function mayGoOnElsewhere(side: Side): boolean {
  const name = stateName(side);
  return name === "protected" || name === "handingOver";
}

/** Whether it is about to run the guest, or nearly so. */
function isTakingOver(side: Side): boolean {
  return ["asking", "activating"].includes(stateName(side));
}

/** Whether nothing but its disk keeps this side's guest from running. */
function mayRunAlone(side: Side): boolean {
  return ["alone", "syncing", "declaring"].includes(stateName(side));
}

export function stateName(side: Side): string {
  return side.state.tag;
}

function roleOf(side: Side): EngineReport["role"] {
  const { state } = side;
  if ("role" in state) {
    return state.role;
  }
  return state.tag === "ended" ? "fenced" : "starting";
}

function findCertificateProblem(
  { identity, files, isOfOurAuthority }: TlsCredentials,
  node: string,
): string | undefined {
  const { certPath, caPath } = files;
  if (!isOfOurAuthority) {
    return `${certPath} was not issued by the CA of ${caPath}: issue one for node ${node} from that CA`;
  }
  return identity.service === "node" && identity.name === node
    ? undefined
    : `${certPath} speaks for ${encodePeerUri(identity)}: issue one for node ${node}`;
}
