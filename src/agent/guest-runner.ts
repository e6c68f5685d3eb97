/**
 * Keeps one guest's engine running, and starts and kills QEMU on its demand.
 *
 *   starting --engine up--> running --engine ended--> waiting --backoff over--> running
 *                              |                                                  |
 *                              +-- guest shut itself down --> ended --start()-----+
 *                              +-- released --> released --setRelease(false)------+
 *                              +-- stop(), remove() --> stopped
 *
 * Invariants:
 * - At most one engine and one QEMU of the guest at any time. QEMU is started and killed in a queue, one thing at a time,
 *   and a wish of an engine that has ended meanwhile is dropped.
 * - An engine knows only disks that its QEMU has: while a QEMU lives, engines get the `qemu` and `disks` that it was
 *   started with, however the assignment has changed since.
 * - A guest whose engine says `fenced` or `ended` has no QEMU afterwards, whatever the engine managed to say before.
 * - `ended` and `released` outlive the agent (the files `ended.json` and `released.json` in the guest's run directory), not
 *   the host. A released guest's QEMU is nobody's business here, whatever becomes of it.
 * - A wait for a QEMU that others start keeps nothing else waiting: it ends when its engine ends, or does not want it any more.
 */
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { decideRestart, freshHistory } from "../decide/engine-restart.ts";
import { isOtherShare } from "../decide/link-shares.ts";
import {
  type AgentMessage,
  type Endpoint,
  type EngineConfig,
  type EngineMessage,
  type EngineReport,
  type EngineTransition,
  type FoundGuest,
  type GuestAssignment,
  type GuestShape,
  type OverrideOrder,
  type TlsFiles,
} from "../protocol/assignment.ts";
import { type Fault, type Repair } from "../protocol/faults.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { type Log } from "../telemetry/log.ts";
import { type EngineEnded, EngineProcess, type EngineProgram } from "./engine-process.ts";
import { type GuestLauncher, type LaunchedGuest, LaunchFailure } from "./guest-launcher.ts";
import { killProcess } from "./linux-process.ts";
import { type GuestTraffic } from "./link-meter.ts";
import { removeStateFile, writeStateFile } from "./state-file.ts";

/** What every guest of this node shares. */
export type NodeSettings = {
  readonly node: string;
  readonly runDirectory: string;
  readonly quorum: readonly Endpoint[];
  readonly tls: TlsFiles;
  readonly traceDirectory?: string | undefined;
};

/** Who wants to know what goes on in a guest; the metrics and the log do. */
export interface GuestListener {
  reported(guest: string, report: EngineReport): void;
  changed(guest: string, transition: EngineTransition): void;
  engineEnded(guest: string, ended: EngineEnded): void;
  faulted(guest: string, fault: Fault): void;
  repaired(guest: string, repair: Repair): void;
}

export type GuestRunnerOptions = {
  readonly settings: NodeSettings;
  readonly program: EngineProgram;
  readonly launcher: GuestLauncher;
  readonly listener: GuestListener;
  readonly log: Log;
  /** Something in the status has changed. */
  readonly onChanged: () => void;
};

export type Supervision = "starting" | "running" | "waiting" | "ended" | "released" | "stopping" | "stopped";

export type GuestStatus = {
  readonly guest: string;
  readonly mode: string;
  readonly peerNode: string;
  /** Names, as assigned. */
  readonly disks: readonly string[];
  readonly links: readonly string[];
  readonly supervision: Supervision;
  readonly enginePid: number | null;
  readonly engineRestartsCount: number;
  readonly qemu: FoundGuest | null;
  /** The assignment asks for other disks or QEMU arguments than the running QEMU has; it gets them at its next start. */
  readonly changePending: boolean;
  /** The shape of a QEMU that others are to start, for as long as it is waited for. */
  readonly wantedShape: GuestShape | null;
  /** What went wrong last, as a sentence; cleared by the next engine that lives. */
  readonly trouble: string | null;
  /** Null while no engine runs: an old report is no news. */
  readonly report: EngineReport | null;
  /** Of the links to the peer, of the last minute, as the agents measure them; added by the agent. */
  readonly roundTrips?:
    readonly { readonly link: string; readonly p50Ms: number; readonly p99Ms: number }[] | undefined;
  /** What its engine puts on the links; added by the agent. */
  readonly traffic?: GuestTraffic | undefined;
};

export type SwitchoverAnswer = { readonly accepted: boolean; readonly message: string };

const LEFT_HELD =
  "the guest's pair is gone while its output is held: it runs on, but nothing of it can be seen; " +
  "protect it again, or delete its VirtualMachineInstance; to end protection in order delete the ProtectedVM";

const SWITCHOVER_ANSWER_MS = 10_000;
/** An engine reports at least every 5 s. One that is silent for this long hangs. */
const ENGINE_SILENCE_MS_MAX = 30_000;

export class GuestRunner {
  readonly #options: GuestRunnerOptions;
  readonly #log: Log;
  #assignment: GuestAssignment;
  #supervision: Supervision = "starting";
  #engine: EngineProcess | undefined;
  #launched: LaunchedGuest | undefined;
  #launching: AbortController | undefined;
  #wantedShape: GuestShape | undefined;
  #isReleasing = false;
  #isImpaired = false;
  /** As the engine was told. */
  #linkShare: number | undefined;
  #quorum: readonly Endpoint[];
  #report: EngineReport | undefined;
  #trouble: string | undefined;
  #history = freshHistory;
  #restartsCount = 0;
  #restartTimer: NodeJS.Timeout | undefined;
  #restartAtOnce = false;
  /** The QEMU that was killed because somebody asked for it: its end is no fault. */
  #failedPid: number | undefined;
  #queue: Promise<void> = Promise.resolve();
  readonly #switchovers = new Map<string, (answer: SwitchoverAnswer) => void>();
  readonly #whenEngineEnded = new Set<() => void>();

  constructor(assignment: GuestAssignment, options: GuestRunnerOptions) {
    this.#assignment = assignment;
    this.#options = options;
    this.#quorum = options.settings.quorum;
    this.#log = options.log.child({ guest: assignment.guest });
  }

  get assignment(): GuestAssignment {
    return this.#assignment;
  }

  /** Adopts what runs, then starts the engine, unless the guest was shut down from inside. */
  async start(): Promise<void> {
    mkdirSync(this.#runDirectory, { recursive: true, mode: 0o700 });
    await this.#enqueue(async () => {
      this.#launched = await this.#options.launcher.adopt(this.#assignment);
      if (this.#launched !== undefined) {
        this.#log.info({ pid: this.#launched.found.pid }, "adopted a QEMU that runs already");
      }
    });
    if (existsSync(this.#endedPath)) {
      this.#supervision = "ended";
      await this.#enqueue(() => this.#killGuest());
    } else if (this.#isReleasing && existsSync(this.#releasedPath)) {
      this.#supervision = "released";
    } else if (this.#supervision === "starting") {
      removeStateFile(this.#releasedPath);
      this.#startEngine();
    }
    this.#options.onChanged();
  }

  /** Whether the guest is to run on unprotected; see protocol/assignment.ts. */
  setRelease(isReleasing: boolean): void {
    if (isReleasing === this.#isReleasing) {
      return;
    }
    this.#isReleasing = isReleasing;
    if (isReleasing) {
      this.#send({ tag: "release" });
    } else if (this.#supervision === "released") {
      removeStateFile(this.#releasedPath);
      this.#startEngine();
    } else if (this.#engine !== undefined) {
      this.restartEngine(this.#assignment); // An engine does not forget that it was asked.
    }
  }

  /** Other endpoints of the same quorum. */
  setQuorum(quorum: readonly Endpoint[]): void {
    this.#quorum = quorum;
    if (this.#assignment.quorums === undefined) {
      this.#send({ tag: "quorumChanged", quorum });
    }
  }

  /** Whether this node has what a guest needs, as far as the agent can see. */
  setHealth(isImpaired: boolean): void {
    this.#isImpaired = isImpaired;
    this.#send({ tag: "health", isImpaired });
  }

  /** What the engine may put on the links, in bytes a second; undefined: as much as they carry. */
  setLinkShare(bytesPerSecond: number | undefined): void {
    if (isOtherShare(this.#linkShare, bytesPerSecond)) {
      this.#linkShare = bytesPerSecond;
      this.#send({ tag: "linkShared", bytesPerSecond: bytesPerSecond ?? null });
    }
  }

  /** Whether the guest changes more than its share of the links carries. */
  get isHeldToShare(): boolean {
    return this.#report?.linkShare?.isHeldTo === true;
  }

  /** A person makes this side the owner. False when no engine is there to ask for it. */
  force(override: OverrideOrder): boolean {
    this.#log.warn({ override }, "a person makes this side the owner of the guest");
    this.#send({ tag: "force", override });
    return this.#engine !== undefined;
  }

  /** The other quorum of the guest is to be in force. */
  moveQuorum(to: QuorumSeat): void {
    this.#send({ tag: "moveQuorum", to });
  }

  /** Kills the guest's QEMU as a fault would: whatever follows is the engine's affair. False when there is none. */
  failGuest(): boolean {
    const found = this.#launched?.found;
    if (found === undefined) {
      return false;
    }
    this.#failedPid = found.pid;
    void killProcess(found, this.#log);
    return true;
  }

  /** Starts a guest that had shut itself down. Without effect on any other. */
  startEnded(): boolean {
    if (this.#supervision !== "ended") {
      return false;
    }
    removeStateFile(this.#endedPath);
    this.#startEngine();
    return true;
  }

  /** Takes a changed contract or detection time over into the running engine. */
  retune(assignment: GuestAssignment): void {
    this.#assignment = assignment;
    const { mode, checkpoint, failover, fullResync } = assignment;
    this.#send({ tag: "retuned", mode, checkpoint, failover, fullResync });
  }

  /** Takes an assignment over that waits for the next start of QEMU. */
  awaitNextStart(assignment: GuestAssignment): void {
    this.retune(assignment);
    this.#log.warn(
      {},
      "the changed disks or QEMU arguments take effect when this guest's QEMU is started the next time",
    );
  }

  /** Takes an assignment over that needs a new engine; QEMU runs on. */
  restartEngine(assignment: GuestAssignment): void {
    this.#assignment = assignment;
    this.#restartAtOnce = this.#engine !== undefined;
    this.#engine?.kill();
  }

  /** Asks the engine for a planned hand-over; resolves with what it says. */
  requestSwitchover(): Promise<SwitchoverAnswer> {
    if (this.#engine === undefined) {
      return Promise.resolve({ accepted: false, message: `no engine runs for ${this.#guest}; see its status` });
    }
    const requestId = randomUUID();
    return new Promise((resolve) => {
      const answer = (given: SwitchoverAnswer): void => {
        clearTimeout(timer);
        this.#switchovers.delete(requestId);
        resolve(given);
      };
      const timer = setTimeout(() => {
        answer({ accepted: false, message: "the engine did not answer; look at the status before asking again" });
      }, SWITCHOVER_ANSWER_MS);
      this.#switchovers.set(requestId, answer);
      this.#send({ tag: "switchover", requestId });
    });
  }

  /** The engine hands over if it can, and leaves. What it leaves running stays for the next agent to adopt. */
  async stop(timeoutMs: number, handOver = true): Promise<void> {
    clearTimeout(this.#restartTimer);
    this.#supervision = "stopping";
    this.#launching?.abort();
    const engine = this.#engine;
    if (engine !== undefined) {
      const ended = new Promise<void>((resolve) => this.#whenEngineEnded.add(resolve));
      const timer = setTimeout(() => {
        this.#log.warn({ timeoutMs }, "the engine did not stop in time; killing it");
        engine.kill();
      }, timeoutMs);
      engine.send({ tag: "stop", handOver });
      await ended;
      clearTimeout(timer);
    }
    await this.#queue;
    this.#supervision = "stopped";
  }

  /**
   * This node has nothing to do with the guest any more: hand over if possible, then no engine and no QEMU. A QEMU that others
   * started stays as it is: it is theirs to end, and the pair may only have been out of sight.
   */
  async remove(timeoutMs: number): Promise<void> {
    const { ownsGuests } = this.#options.launcher;
    const mode = this.#report?.outputMode;
    const isReleased = this.#supervision === "released";
    await this.stop(timeoutMs, ownsGuests);
    if (ownsGuests) {
      await this.#enqueue(() => this.#killGuest());
      removeStateFile(this.#endedPath);
    } else if (this.#launched !== undefined && !isReleased && mode !== "open") {
      this.#log.error({ pid: this.#launched.found.pid }, LEFT_HELD);
    }
  }

  /** To be called when the launcher saw this guest's QEMU die. */
  guestDied(pid: number): void {
    if (this.#launched?.found.pid === pid) {
      this.#launched = undefined;
      this.#send({ tag: "guestDied", pid });
    }
  }

  /** To be called every few seconds: an engine that hangs neither ends nor speaks. */
  checkEngine(): void {
    if (this.#engine !== undefined && this.#engine.silentMs > ENGINE_SILENCE_MS_MAX) {
      this.#log.error({ silentMs: this.#engine.silentMs, pid: this.#engine.pid }, "the engine hangs; killing it");
      this.#engine.kill();
    }
  }

  readStatus(): GuestStatus {
    return {
      guest: this.#guest,
      mode: this.#assignment.mode,
      peerNode: this.#assignment.peerNode,
      disks: this.#assignment.disks.map(({ id }) => id),
      links: this.#assignment.links.map(({ name }) => name),
      supervision: this.#supervision,
      enginePid: this.#engine?.pid ?? null,
      engineRestartsCount: this.#restartsCount,
      qemu: this.#launched?.found ?? null,
      changePending: this.#hasPendingChange(),
      wantedShape: this.#wantedShape ?? null,
      trouble: this.#trouble ?? null,
      report: this.#report ?? null,
    };
  }

  get #guest(): string {
    return this.#assignment.guest;
  }

  get #runDirectory(): string {
    return join(this.#options.settings.runDirectory, this.#guest);
  }

  get #endedPath(): string {
    return join(this.#runDirectory, "ended.json");
  }

  get #releasedPath(): string {
    return join(this.#runDirectory, "released.json");
  }

  #hasPendingChange(): boolean {
    const { qemu, disks } = this.#assignment;
    const running = this.#launched;
    return running !== undefined && JSON.stringify([qemu, disks]) !== JSON.stringify([running.qemu, running.disks]);
  }

  #configOf(): EngineConfig {
    const { node, tls, traceDirectory } = this.#options.settings;
    const { qemu, disks } = this.#launched ?? this.#assignment;
    return {
      ...this.#assignment,
      qemu,
      disks,
      node,
      quorum: this.#assignment.quorums?.preferred ?? this.#quorum,
      tls,
      runDirectory: this.#runDirectory,
      traceFile: traceDirectory === undefined ? "" : join(traceDirectory, `${this.#guest}.${node}.jsonl`),
    };
  }

  #startEngine(): void {
    this.#supervision = "running";
    const engine = new EngineProcess(this.#options.program, this.#runDirectory);
    this.#engine = engine;
    engine.onMessage = (message) => {
      if (message.tag === "fault") {
        this.#noteFault(message);
      } else if (message.tag === "repaired") {
        this.#options.listener.repaired(this.#guest, message);
      } else {
        this.#take(engine, message);
      }
    };
    engine.onEnded = (ended) => {
      this.#takeEnd(ended);
    };
    this.#log.info({ pid: engine.pid }, "started an engine");
    engine.send({
      tag: "configure",
      config: this.#configOf(),
      found: this.#launched?.found ?? null,
    });
    if (this.#isReleasing) {
      engine.send({ tag: "release" });
    }
    if (this.#isImpaired) {
      engine.send({ tag: "health", isImpaired: true });
    }
    if (this.#linkShare !== undefined) {
      engine.send({ tag: "linkShared", bytesPerSecond: this.#linkShare });
    }
    this.#options.onChanged();
  }

  #send(message: AgentMessage): void {
    this.#engine?.send(message);
  }

  #take(engine: EngineProcess, message: Exclude<EngineMessage, { tag: "fault" | "repaired" }>): void {
    switch (message.tag) {
      case "report":
        this.#report = message.report;
        this.#trouble = undefined;
        this.#options.listener.reported(this.#guest, message.report);
        this.#options.onChanged();
        break;
      case "transition":
        // The engine has logged it itself, at the moment it happened.
        this.#log.debug({ transition: message.transition }, "the engine's state changed");
        this.#options.listener.changed(this.#guest, message.transition);
        break;
      case "guestWanted":
        this.#launching?.abort();
        void this.#enqueue(() => this.#provideGuest(engine, message.as, message.fresh));
        break;
      case "killGuest":
        this.#launching?.abort();
        void this.#enqueue(async () => {
          const pid = this.#launched?.found.pid;
          await this.#killGuest();
          engine.send({ tag: "guestDied", pid: pid ?? 0 });
        });
        break;
      case "switchoverAnswered":
        this.#switchovers.get(message.requestId)?.({ accepted: message.accepted, message: message.message });
        break;
      case "exiting":
        this.#log.info({ reason: message.reason, says: message.message }, "the engine leaves");
        break;
      default:
        // An engine of another build than the agent's, in the moment of an upgrade: nothing to obey.
        this.#log.error({ message: message satisfies never }, "the engine said what this agent does not know");
    }
  }

  #noteFault({ component, code, message }: Fault): void {
    const isAsked = component === "qemu" && this.#failedPid !== undefined;
    if (!isAsked) {
      this.#options.listener.faulted(this.#guest, { component, code, message });
    }
  }

  async #provideGuest(engine: EngineProcess, as: GuestShape, fresh: boolean): Promise<void> {
    if (engine !== this.#engine) {
      return;
    }
    if (!fresh && this.#launched !== undefined) {
      engine.send({ tag: "guestFound", started: false, ...this.#launched.found });
      return;
    }
    // With the disks this engine knows, not with those of an assignment that came since.
    const { qemu, disks } = this.#launched ?? this.#assignment;
    this.#launched = undefined;
    const launching = new AbortController();
    this.#launching = launching;
    const onWaiting = (): void => {
      if (this.#wantedShape !== as) {
        this.#wantedShape = as;
        this.#options.onChanged();
      }
    };
    try {
      const { launcher } = this.#options;
      const launched = await launcher.start({ ...this.#assignment, qemu, disks }, as, {
        signal: launching.signal,
        onWaiting,
      });
      this.#launched = launched;
      this.#failedPid = undefined;
      this.#log.info({ pid: launched.found.pid, as }, "a QEMU is there");
      engine.send({ tag: "guestFound", started: true, ...launched.found });
    } catch (error) {
      this.#noteLaunchFailure(engine, error);
    } finally {
      this.#launching = undefined;
      this.#wantedShape = undefined;
      this.#options.onChanged();
    }
  }

  /** A start that was cancelled is missed by nobody. */
  #noteLaunchFailure(engine: EngineProcess, error: unknown): void {
    if (error instanceof LaunchFailure && error.detail.code === "StartCancelled") {
      return;
    }
    this.#trouble = error instanceof Error ? error.message : String(error);
    this.#log.error({ error }, "cannot start a QEMU");
    engine.send({ tag: "guestFailed", message: this.#trouble });
  }

  async #killGuest(): Promise<void> {
    this.#launched = undefined;
    await this.#options.launcher.kill(this.#guest);
  }

  #takeEnd(ended: EngineEnded): void {
    this.#engine = undefined;
    this.#report = undefined;
    this.#launching?.abort();
    this.#options.listener.engineEnded(this.#guest, ended);
    for (const answer of this.#switchovers.values()) {
      answer({ accepted: false, message: "the engine ended before it answered" });
    }
    if (!this.#restartAtOnce) {
      this.#noteEnd(ended);
    }
    if (ended.reason === "fenced" || ended.reason === "ended") {
      void this.#enqueue(() => this.#killGuest());
    }
    if (this.#supervision === "running") {
      this.#planNext(ended);
    }
    for (const resolve of this.#whenEngineEnded) {
      resolve();
    }
    this.#whenEngineEnded.clear();
    this.#options.onChanged();
  }

  #noteEnd({ reason, message, livedMs }: EngineEnded): void {
    if (reason === undefined && this.#supervision === "running") {
      this.#noteFault({ component: "engine", code: "EngineFailed", message });
    }
    if (reason === undefined || reason === "failed") {
      this.#trouble = message;
      this.#log.error({ reason, livedMs }, message);
    }
  }

  #planNext(ended: EngineEnded): void {
    if (this.#restartAtOnce) {
      this.#restartAtOnce = false;
      this.#scheduleRestart(0);
      return;
    }
    const decision = decideRestart(ended, this.#history);
    if (decision.tag === "rest") {
      const isReleased = ended.reason === "released";
      this.#supervision = isReleased ? "released" : "ended";
      writeStateFile(isReleased ? this.#releasedPath : this.#endedPath, {
        version: 1,
        message: ended.message,
      });
      return;
    }
    this.#history = decision.history;
    this.#scheduleRestart(decision.afterMs);
  }

  #scheduleRestart(afterMs: number): void {
    this.#supervision = "waiting";
    this.#restartTimer = setTimeout(() => {
      // Behind what is under way with QEMU, so that the new engine is told of the QEMU there really is.
      void this.#enqueue(() => {
        if (this.#supervision === "waiting") {
          this.#restartsCount += 1;
          this.#startEngine();
        }
        return Promise.resolve();
      });
    }, afterMs);
  }

  /** Runs after everything that was put into the queue before. A failure is logged: the queue goes on. */
  #enqueue(work: () => Promise<void>): Promise<void> {
    this.#queue = this.#queue.then(work).catch((error: unknown) => {
      this.#trouble = error instanceof Error ? error.message : String(error);
      this.#log.error({ error }, "cannot carry out what the engine needs");
    });
    return this.#queue;
  }
}
