/**
 * The agent of one node: runs the engine of every guest assigned here, and nothing that is not.
 *
 * Start, in this order: take the lock of the run directory (one agent at a time, for two would each start an engine),
 * remove engines that outlived an earlier agent, adopt or remove what QEMU runs, start engines.
 * Stop: ask every engine to hand over and leave; QEMU processes that are left run on for the next agent.
 *
 * The lock is an abstract unix socket named after the run directory: the kernel gives it to one process and takes it back
 * when that dies, however it dies.
 */
import { mkdirSync, realpathSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { planAssignmentChange, type AssignmentAction } from "../decide/assignment-change.ts";
import { type FaultEvent, type FaultRecord } from "../decide/fault-log.ts";
import { planLinkShares } from "../decide/link-shares.ts";
import { type PeerWatch, stepPeers } from "../decide/peer-watch.ts";
import { type GuestOnUplink, planUplinkHandOver } from "../decide/uplink-hand-over.ts";
import { stepUplinks, type UplinkWatch } from "../decide/uplink-watch.ts";
import { Failure } from "../lib/failure.ts";
import { type TlsCredentials } from "../net/tls.ts";
import {
  type Endpoint,
  type EngineTransition,
  type GuestAssignment,
  type OverrideOrder,
} from "../protocol/assignment.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { AgentMetrics } from "./agent-metrics.ts";
import { type AssignmentSource } from "./assignment-source.ts";
import { type EngineProgram, killStrayEngines, openEngineCache } from "./engine-process.ts";
import { FaultRecorder } from "./fault-recorder.ts";
import { type GuestLauncher } from "./guest-launcher.ts";
import {
  type GuestListener,
  GuestRunner,
  type GuestStatus,
  type NodeSettings,
  type SwitchoverAnswer,
} from "./guest-runner.ts";
import { LinkMeter } from "./link-meter.ts";
import { LocalEndpoint, type NodeControl } from "./local-endpoint.ts";
import { NodeHeartbeats } from "./node-heartbeat.ts";
import { readUplinks, type UplinkStatus } from "./uplinks.ts";

export type AgentOptions = {
  readonly settings: NodeSettings;
  readonly program: EngineProgram;
  readonly source: AssignmentSource;
  readonly launcher: GuestLauncher;
  readonly credentials: TlsCredentials;
  readonly heartbeatPort?: number | undefined;
  readonly uplinks: readonly string[];
  readonly metrics?: Endpoint | undefined;
  /** Told of every change of state of an engine, beside the metrics. */
  readonly onTransition?: ((guest: string, transition: EngineTransition) => void) | undefined;
  readonly stopTimeoutMs: number;
  readonly log: Log;
};

export type AgentFailureDetail =
  | { readonly code: "AlreadyRunning"; readonly runDirectory: string }
  | { readonly code: "CannotListen"; readonly where: string };
export class AgentFailure extends Failure<AgentFailureDetail> {}

const CHECK_ENGINES_MS = 5_000;
const CHECK_UPLINKS_MS = 250;
const CHECK_PEERS_MS = 1_000;
const SHARE_LINKS_MS = 1_000;

export class Agent implements NodeControl {
  readonly #options: AgentOptions;
  readonly #log: Log;
  readonly #metrics: AgentMetrics;
  readonly #linkMeter = new LinkMeter();
  readonly #listener: GuestListener;
  readonly #endpoint: LocalEndpoint;
  readonly #heartbeats: NodeHeartbeats | undefined;
  #program: EngineProgram;
  #settings: NodeSettings;
  /** Called when the status of a guest may read differently. */
  onGuestChanged: (guest: string) => void = () => undefined;
  readonly #runners = new Map<string, GuestRunner>();
  /** Guests on their way out: their name must not be used again before they are gone. */
  readonly #leaving = new Map<string, Promise<void>>();
  #assignmentProblem: string | undefined;
  #lock: Server | undefined;
  readonly #timers: NodeJS.Timeout[] = [];
  #uplinks: readonly UplinkStatus[] = [];
  #uplinkDownAtMs: number | undefined;
  readonly #faults: FaultRecorder;
  #peerWatch: PeerWatch = [];
  #peersCheckedAtMs = 0;
  #uplinkWatch: UplinkWatch = [];
  /** When a hand-over was asked for on account of an uplink, by guest. */
  readonly #askedAtMs = new Map<string, number>();
  #isStopping = false;

  constructor(options: AgentOptions) {
    const { settings, credentials, heartbeatPort, log } = options;
    this.#options = options;
    this.#program = options.program;
    this.#settings = settings;
    this.#log = log;
    this.#metrics = new AgentMetrics(settings.node);
    this.#faults = new FaultRecorder({
      ...{ node: settings.node, runDirectory: settings.runDirectory, log },
      onChanged: (guest, effects) => {
        this.#metrics.faultsChanged(guest, effects);
        this.onGuestChanged(guest);
      },
    });
    this.#listener = this.#listenTo(options.onTransition);
    this.#endpoint = new LocalEndpoint(this, log);
    this.#heartbeats =
      heartbeatPort === undefined
        ? undefined
        : new NodeHeartbeats({ node: settings.node, port: heartbeatPort, credentials, log });
  }

  async start(): Promise<void> {
    const { settings, program, launcher, source, log } = this.#options;
    mkdirSync(settings.runDirectory, { recursive: true, mode: 0o700 });
    this.#lock = await takeLock(settings.runDirectory);
    await killStrayEngines(settings.runDirectory, log);
    await this.#listen();
    const cacheDirectory = await openEngineCache(program.cacheDirectory, program.path, log);
    this.#program = { ...program, cacheDirectory };
    launcher.onDied = (guest, pid) => {
      log.warn({ guest, pid }, "QEMU is gone");
      this.#runners.get(guest)?.guestDied(pid);
    };
    this.#startChecks();
    source.watch({
      onAssignments: (assignments) => {
        this.#applyAssignments(assignments);
      },
      onProblem: (problem) => {
        this.#assignmentProblem = problem;
        this.#metrics.assignmentsRead(problem === undefined);
        if (problem !== undefined) {
          log.error({}, problem);
        }
      },
    });
  }

  /** Hands over what can be handed over; leaves QEMU running. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#timers.forEach(clearInterval);
    this.#options.source.close();
    await Promise.all([...this.#runners.values()].map((runner) => runner.stop(this.#options.stopTimeoutMs)));
    await Promise.all(this.#leaving.values());
    this.#options.launcher.close();
    await this.#heartbeats?.close();
    await this.#endpoint.close();
    this.#lock?.close();
  }

  writeMetrics(): string {
    const guests = this.#listGuests();
    return this.#metrics.write({ guests, links: this.#heartbeats?.listLinks() ?? [], uplinks: this.#uplinks });
  }

  readStatus(): unknown {
    return {
      node: this.#options.settings.node,
      assignmentProblem: this.#assignmentProblem ?? null,
      guests: this.#listGuests(),
      leaving: [...this.#leaving.keys()],
      links: this.#heartbeats?.listLinks() ?? [],
      uplinks: this.#uplinks,
    };
  }

  #listGuests(): readonly (GuestStatus & { readonly faults: readonly FaultRecord[] })[] {
    return [...this.#runners.values()].map((runner) => {
      const status = runner.readStatus();
      return { ...status, faults: this.#faults.read(status.guest) };
    });
  }

  /** Undefined when the guest is not assigned here. */
  readGuest(guest: string): GuestStatus | undefined {
    const status = this.#runners.get(guest)?.readStatus();
    const traffic = this.#linkMeter.read(guest);
    return status === undefined ? undefined : { ...status, roundTrips: this.#readRoundTrips(status), traffic };
  }

  #readRoundTrips({ peerNode }: GuestStatus): GuestStatus["roundTrips"] {
    const measured = (this.#heartbeats?.listLinks() ?? []).filter(({ peer, alive, rtt }) => {
      return peer === peerNode && alive && rtt.count > 0;
    });
    return measured.map(({ link, rtt: { p50Ms, p99Ms } }) => ({ link, p50Ms, p99Ms }));
  }

  /** What failed of the guest's sides as far as this node has seen it; the one that changed last first. */
  readFaults(guest: string): readonly FaultRecord[] {
    return this.#faults.read(guest);
  }

  /** Other endpoints of the same quorum: every engine goes over to them while it runs. */
  setQuorum(quorum: readonly Endpoint[]): void {
    this.#settings = { ...this.#settings, quorum };
    for (const runner of this.#runners.values()) {
      runner.setQuorum(quorum);
    }
  }

  /** A person makes this node the owner of the guest, whatever the quorum says. False when no engine is there to ask for it. */
  force(guest: string, override: OverrideOrder): boolean {
    return this.#runners.get(guest)?.force(override) ?? false;
  }

  /** The guest's other quorum is to decide from now on. */
  moveQuorum(guest: string, to: QuorumSeat): void {
    this.#runners.get(guest)?.moveQuorum(to);
  }

  /** Kills the guest's QEMU as a fault would, so that the peer takes over. False when there is none. */
  failGuest(guest: string): boolean {
    return this.#runners.get(guest)?.failGuest() ?? false;
  }

  requestSwitchover(guest: string): Promise<SwitchoverAnswer> | undefined {
    return this.#runners.get(guest)?.requestSwitchover();
  }

  startEnded(guest: string): SwitchoverAnswer | undefined {
    const runner = this.#runners.get(guest);
    if (runner === undefined) {
      return undefined;
    }
    return runner.startEnded()
      ? { accepted: true, message: `starting ${guest}` }
      : { accepted: false, message: `${guest} has not shut itself down; there is nothing to start` };
  }

  #startChecks(): void {
    const checkEngines = (): void => {
      this.#runners.forEach((runner) => {
        runner.checkEngine();
      });
    };
    this.#timers.push(setInterval(checkEngines, CHECK_ENGINES_MS));
    const checkPeers = (): void => {
      this.#checkPeers();
    };
    this.#timers.push(setInterval(checkPeers, CHECK_PEERS_MS));
    const shareLinks = (): void => {
      this.#shareLinks();
    };
    this.#timers.push(setInterval(shareLinks, SHARE_LINKS_MS));
    const checkUplinks = (): void => {
      const names = this.#listUplinks();
      if (names.length > 0 || this.#uplinks.length > 0) {
        this.#checkUplinks(names);
      }
    };
    checkUplinks();
    this.#timers.push(setInterval(checkUplinks, CHECK_UPLINKS_MS));
  }

  #checkPeers(): void {
    const { node } = this.#options.settings;
    const nowMs = monotonicMs();
    const isLate = nowMs - this.#peersCheckedAtMs > 2 * CHECK_PEERS_MS;
    this.#peersCheckedAtMs = nowMs;
    if (isLate) {
      return; // This process stood still, and what peers sent meanwhile is yet to be read.
    }
    const { watch, events } = stepPeers(this.#peerWatch, this.#heartbeats?.listPeers() ?? [], { node, nowMs });
    this.#peerWatch = watch;
    for (const { peer, event } of events) {
      this.#noteFault(event, ({ peerNode }) => peerNode === peer);
    }
  }

  #shareLinks(): void {
    const runners = [...this.#runners.values()];
    const guests = runners.map(({ assignment, isHeldToShare }) => ({
      ...{ assignment, isHeldTo: isHeldToShare },
      bytesPerSecond: this.#linkMeter.readNeed(assignment.guest),
    }));
    const shares = planLinkShares(guests, this.#options.settings.node);
    for (const runner of runners) {
      runner.setLinkShare(shares.get(runner.assignment.guest));
    }
  }

  /** For every guest that it concerns. */
  #noteFault(event: FaultEvent, concerns: (assignment: GuestAssignment) => boolean): void {
    for (const { assignment } of this.#runners.values()) {
      if (concerns(assignment)) {
        this.#faults.note(assignment.guest, event);
      }
    }
  }

  /** What assignments say counts more than what the agent was told. */
  #listUplinks(): readonly string[] {
    const assigned = [...this.#runners.values()].flatMap(({ assignment }) => assignment.uplinks ?? []);
    return assigned.length === 0 ? this.#options.uplinks : [...new Set(assigned)];
  }

  #checkUplinks(names: readonly string[]): void {
    const nowMs = monotonicMs();
    this.#uplinks = readUplinks(names);
    const { watch, events } = stepUplinks(this.#uplinkWatch, this.#uplinks, {
      node: this.#options.settings.node,
      nowMs,
    });
    this.#uplinkWatch = watch;
    events.forEach((event) => {
      this.#noteFault(event, () => true);
    });
    const isUp = this.#uplinks.every(({ up }) => up);
    if (isUp !== (this.#uplinkDownAtMs === undefined)) {
      this.#uplinkDownAtMs = isUp ? undefined : nowMs;
      this.#log.warn({ uplinks: this.#uplinks }, isUp ? "every uplink is up again" : "an uplink is down");
      this.#runners.forEach((runner) => {
        runner.setHealth(!isUp);
      });
    }
    if (this.#heartbeats !== undefined) {
      this.#heartbeats.ownUplinksUp = isUp;
    }
    const downForMs = this.#uplinkDownAtMs === undefined ? 0 : nowMs - this.#uplinkDownAtMs;
    const guests = [...this.#runners.values()].map((runner) => this.#viewOnUplink(runner, nowMs));
    for (const guest of planUplinkHandOver({ downForMs, guests })) {
      this.#handOverForUplink(guest, nowMs);
    }
  }

  #viewOnUplink(runner: GuestRunner, nowMs: number): GuestOnUplink {
    const { guest, peerNode, report } = runner.readStatus();
    const isInSync = report?.conditions.some(({ type, status }) => type === "InSync" && status === "True") ?? false;
    return {
      guest,
      isProtectedPrimary: report?.role === "primary" && isInSync,
      peerUplinksUp: this.#heartbeats?.readPeerUplinks(peerNode),
      askedBeforeMs: nowMs - (this.#askedAtMs.get(guest) ?? -Infinity),
    };
  }

  #handOverForUplink(guest: string, nowMs: number): void {
    this.#askedAtMs.set(guest, nowMs);
    this.#log.warn({ guest }, "handing the guest over, for clients reach it only through the peer");
    void this.requestSwitchover(guest)?.then(({ accepted, message }) => {
      if (!accepted) {
        this.#log.warn({ guest }, `the hand-over was refused: ${message}`);
      }
    });
  }

  #listenTo(onTransition: AgentOptions["onTransition"]): GuestListener {
    const metrics = this.#metrics;
    const { node } = this.#options.settings;
    return {
      reported: (guest, report) => {
        metrics.reported(guest, report);
        this.#linkMeter.note(guest, report.checkpoint.sentBytes, monotonicMs());
        this.#faults.reported(guest, report);
      },
      changed: (guest, transition) => {
        metrics.changed(guest, transition);
        onTransition?.(guest, transition);
      },
      engineEnded: (guest, ended) => {
        metrics.engineEnded(guest, ended);
        this.#linkMeter.forget(guest);
      },
      faulted: (guest, fault) => {
        this.#faults.note(guest, { tag: "faulted", node, ...fault });
      },
      repaired: (guest, repair) => {
        this.#faults.note(guest, { ...repair, tag: "repaired", node });
      },
    };
  }

  async #listen(): Promise<void> {
    const { settings, metrics, credentials } = this.#options;
    const socketPath = join(settings.runDirectory, "agent.sock");
    await this.#endpoint.listenLocally(socketPath).catch((error: unknown) => {
      throw cannotListen(socketPath, error);
    });
    if (metrics !== undefined) {
      await this.#endpoint.listenSecurely(metrics, credentials).catch((error: unknown) => {
        throw cannotListen(`${metrics.host}:${metrics.port}`, error);
      });
    }
  }

  #applyAssignments(assignments: readonly GuestAssignment[]): void {
    if (this.#isStopping) {
      return;
    }
    const running = [...this.#runners.values()].map(({ assignment }) => assignment);
    this.#log.info({ guests: assignments.map(({ guest }) => guest) }, "took assignments over");
    for (const action of planAssignmentChange(running, assignments)) {
      this.#apply(action);
    }
    this.#heartbeats?.setPeers(assignments);
    this.#removeUnassigned(new Set(assignments.map(({ guest }) => guest)));
  }

  #apply(action: AssignmentAction): void {
    if (action.tag === "startGuest") {
      this.#startGuest(action.assignment);
      return;
    }
    const runner = this.#runners.get("guest" in action ? action.guest : action.assignment.guest);
    if (runner !== undefined) {
      this.#applyTo(runner, action);
    }
  }

  #applyTo(runner: GuestRunner, action: Exclude<AssignmentAction, { readonly tag: "startGuest" }>): void {
    switch (action.tag) {
      case "retuneGuest":
        runner.retune(action.assignment);
        break;
      case "restartEngine":
        runner.restartEngine(action.assignment);
        break;
      case "awaitNextStart":
        runner.awaitNextStart(action.assignment);
        break;
      case "setRelease":
        runner.setRelease(action.isReleasing);
        break;
      case "removeGuest":
        this.#removeGuest(action.guest);
        break;
      default:
        action satisfies never;
    }
  }

  #startGuest(assignment: GuestAssignment): void {
    const { launcher, log } = this.#options;
    const runner = new GuestRunner(assignment, {
      settings: this.#settings,
      program: this.#program,
      launcher,
      listener: this.#listener,
      log,
      onChanged: () => {
        this.onGuestChanged(assignment.guest);
      },
    });
    runner.setRelease(assignment.isReleasing === true);
    runner.setHealth(this.#uplinkDownAtMs !== undefined);
    this.#runners.set(assignment.guest, runner);
    const before = this.#leaving.get(assignment.guest) ?? Promise.resolve();
    before
      .then(() => (this.#runners.get(assignment.guest) === runner ? runner.start() : undefined))
      .catch((error: unknown) => {
        log.error({ error, guest: assignment.guest }, "cannot start the guest's engine");
      });
  }

  #removeGuest(guest: string): void {
    const runner = this.#runners.get(guest);
    if (runner === undefined) {
      return;
    }
    const { ownsGuests } = this.#options.launcher;
    const says = ownsGuests ? "removing it" : "its engine ends, its QEMU stays";
    this.#log.info({ guest }, `the guest is no longer assigned to this node; ${says}`);
    this.#runners.delete(guest);
    this.#leave(
      guest,
      runner.remove(this.#options.stopTimeoutMs).then(() => {
        this.#metrics.guestRemoved(guest);
        this.#faults.forget(guest);
        this.onGuestChanged(guest);
      }),
    );
  }

  /** QEMU processes of guests that were unassigned while no agent ran. */
  #removeUnassigned(assigned: ReadonlySet<string>): void {
    for (const guest of this.#options.launcher.listGuests()) {
      if (!assigned.has(guest) && !this.#leaving.has(guest)) {
        this.#log.warn({ guest }, "killing the QEMU of a guest that is not assigned to this node");
        this.#leave(guest, this.#options.launcher.kill(guest));
      }
    }
  }

  #leave(guest: string, leaving: Promise<void>): void {
    const done = (this.#leaving.get(guest) ?? Promise.resolve())
      .then(() => leaving)
      .catch((error: unknown) => {
        this.#log.error({ error, guest }, "cannot remove the guest");
      })
      .finally(() => {
        if (this.#leaving.get(guest) === done) {
          this.#leaving.delete(guest);
        }
      });
    this.#leaving.set(guest, done);
  }
}

function takeLock(runDirectory: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      const says = `another agent runs with the directory ${runDirectory}: stop it, or give this one another runDirectory`;
      reject(new AgentFailure({ code: "AlreadyRunning", runDirectory }, says, { cause: error }));
    });
    server.listen({ path: `\0twinrun-agent:${realpathSync(runDirectory)}` }, () => {
      server.unref();
      resolve(server);
    });
  });
}

function cannotListen(where: string, error: unknown): AgentFailure {
  const reason = error instanceof Error ? error.message : String(error);
  return new AgentFailure(
    { code: "CannotListen", where },
    `cannot listen on ${where} (${reason}): choose a free address of this host`,
    { cause: error },
  );
}
