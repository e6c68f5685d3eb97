/**
 * The system under test on the lab's hosts: a quorum on Q, an agent on A and on B, each kept running as an init system would,
 * and protected guests.
 *
 * What it knows of them it learns as an operator could: from the agents' status, their logs, /proc. What it does to them is
 * what a data centre does: kill -9, power, cables.
 */
import { execFile } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type AssignmentFile } from "../../src/api/assignment-file.ts";
import { type GuestStatus, type SwitchoverAnswer } from "../../src/agent/guest-runner.ts";
import { assert, present } from "../../src/lib/assert.ts";
import {
  type CheckpointContract,
  type EngineReport,
  type FailoverTiming,
  type LinkCapacity,
  type TlsFiles,
  type TrackerMethod,
} from "../../src/protocol/assignment.ts";
import { type AvailabilityMode } from "../../src/protocol/messages.ts";
import { readAgentStatus, requestSwitchover, type AgentStatus } from "./agent-client.ts";
import { listGuestArguments, qemuBinary } from "./guests.ts";
import { addressOf, readStartTime, type Lab } from "./hosts.ts";
import { issueCertificates, type LabCertificates, nodeName } from "./lab-certificates.ts";
import { otherHost, pairHosts, type PairHost, type PlacedGuest } from "./placement.ts";
import { Supervised } from "./supervised.ts";
import { TransitionLog, type LoggedTransition } from "./transition-log.ts";

const root = new URL("../..", import.meta.url).pathname;
const main = (name: string): string => join(root, "src/main", `${name}.ts`);
export const shimPath = join(root, "build/twinrun-shim.so");

const quorumPort = 7400;
const heartbeatPort = 7401;
const firstGuestPort = 7500;

export type ClusterOptions = {
  readonly guests: readonly PlacedGuest[];
  readonly firstPrimary: PairHost;
  readonly mode?: AvailabilityMode;
  readonly checkpoint?: Partial<CheckpointContract>;
  readonly failover?: Partial<FailoverTiming>;
  readonly tracker?: "auto" | TrackerMethod;
  /** Hosts whose agent is not told of the shim. */
  readonly withoutShim?: readonly PairHost[];
  /** Over which clients reach guests, on either host. */
  readonly uplinks?: readonly string[];
  /** Kept outside of the lab, for whoever replays them: traces of the engines, one file a guest and node. */
  readonly traceDirectory?: string;
  /** Of the agents, and so of the engines. */
  readonly environment?: Readonly<Record<string, string>>;
};

/** Both sides of one guest as they are now. */
export type GuestView = {
  readonly name: string;
  readonly sides: Readonly<Record<PairHost, GuestStatus | undefined>>;
  /** The host whose engine runs the guest and may; undefined while nobody does. */
  readonly primary: PairHost | undefined;
  readonly report: EngineReport | undefined;
  readonly isProtected: boolean;
};

export type Takeover = {
  readonly detectionMs: number;
  /** From the fault to the running guest, detection included. */
  readonly totalMs: number;
  readonly epoch: number;
};

export type TraceVerdict = { readonly accepted: boolean; readonly lines: readonly string[] };

/** Replays the traces of a run through the model (test/traces); the engines must not be writing them any more. */
export async function checkTraces(directory: string): Promise<TraceVerdict> {
  const program = join(root, "test/traces/main.ts");
  const { status, output } = await new Promise<{ status: number; output: string }>((resolve) => {
    execFile(process.execPath, [program, directory], { maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : 1, output: stdout + stderr });
    });
  });
  return { accepted: status === 0, lines: output.trim().split("\n") };
}

export class Cluster {
  readonly lab: Lab;
  readonly guests: readonly PlacedGuest[];
  readonly tls: LabCertificates;
  readonly quorum: Supervised;
  readonly agents: Readonly<Record<PairHost, Supervised>>;
  readonly transitions: Readonly<Record<PairHost, TransitionLog>>;
  readonly #options: ClusterOptions;
  readonly #modes = new Map<string, AvailabilityMode>();

  constructor(lab: Lab, options: ClusterOptions, tls: LabCertificates) {
    assert(existsSync(shimPath), `${shimPath} is missing: run "make build"`);
    this.lab = lab;
    this.guests = options.guests;
    this.#options = options;
    this.tls = tls;
    this.quorum = new Supervised({
      lab,
      host: "q",
      logPath: join(lab.logDirectory, "quorum.log"),
      command: [
        ...[process.execPath, main("quorum"), "--listen", `${addressOf("q", "management")}:${quorumPort}`],
        ...["--store", `file:${join(lab.diskDirectory("q"), "quorum")}`],
        ...["--cert", tls.q.certPath, "--key", tls.q.keyPath, "--ca", tls.q.caPath],
      ],
    });
    this.agents = { a: this.#planAgent("a", tls.a), b: this.#planAgent("b", tls.b) };
    this.transitions = { a: new TransitionLog(this.#agentLog("a")), b: new TransitionLog(this.#agentLog("b")) };
  }

  // What is.

  /** The agent's own word, undefined while it has none. */
  async readAgent(host: PairHost): Promise<AgentStatus | undefined> {
    return this.lab.isPoweredOn(host) ? readAgentStatus(this.lab.runDirectory(host)) : undefined;
  }

  async readGuest(name: string): Promise<GuestView> {
    const [a, b] = await Promise.all(pairHosts.map((host) => this.readAgent(host)));
    const find = (agent: AgentStatus | undefined): GuestStatus | undefined =>
      agent?.guests.find(({ guest }) => guest === name);
    const sides = { a: find(a), b: find(b) };
    const primaries = pairHosts.filter((host) => isPrimary(sides[host]?.report));
    // During a takeover the old side may still say what it said last; the higher term is right.
    const primary = primaries.toSorted((one, other) => termOf(sides[other]) - termOf(sides[one]))[0];
    const report = primary === undefined ? undefined : (sides[primary]?.report ?? undefined);
    return { name, sides, primary, report, isProtected: primary !== undefined && this.#isProtected(sides, primary) };
  }

  /** By the word of both sides, and by the last change of state each has logged: a report may be a second old. */
  #isProtected(sides: GuestView["sides"], primary: PairHost): boolean {
    const expected = { [primary]: "protected", [otherHost(primary)]: "holding" };
    return pairHosts.every((host) => {
      this.transitions[host].read();
      const report = sides[host]?.report ?? undefined;
      const last = this.transitions[host].findLast(sides[host]?.guest ?? "");
      return report?.state === expected[host] && last?.to === expected[host];
    });
  }

  readGuests(): Promise<GuestView[]> {
    return Promise.all(this.guests.map(({ name }) => this.readGuest(name)));
  }

  /** Polls until `holds`; fails with what was seen last. */
  async waitFor(
    what: string,
    holds: (views: readonly GuestView[]) => boolean,
    timeoutMs: number,
  ): Promise<GuestView[]> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      const views = await this.readGuests();
      if (holds(views)) {
        return views;
      }
      if (Date.now() > deadlineMs || this.lab.isDestroyed) {
        throw new Error(`waited ${timeoutMs} ms for: ${what}\n${views.map(describeView).join("\n")}`);
      }
      await sleep(50);
    }
  }

  /** Waits until `host` says of `guest` what a person has to know: in a condition that does not hold, or as its trouble. */
  async waitForWords(host: PairHost, guest: string, expected: RegExp, timeoutMs: number): Promise<GuestView> {
    const isFound = (view: GuestView): boolean =>
      view.name === guest && listWords(view.sides[host]).some((words) => expected.test(words));
    const views = await this.waitFor(
      `host ${host} says ${String(expected)} of ${guest}`,
      (all) => all.some(isFound),
      timeoutMs,
    );
    return present(views.find(isFound), guest);
  }

  waitUntilProtected(timeoutMs: number): Promise<GuestView[]> {
    return this.waitFor(
      "every guest is protected",
      (views) => views.every(({ isProtected }) => isProtected),
      timeoutMs,
    );
  }

  /** New lines of both hosts' logs, by time. */
  readTransitions(): readonly (LoggedTransition & { readonly host: PairHost })[] {
    return pairHosts
      .flatMap((host) => this.transitions[host].read().map((transition) => ({ ...transition, host })))
      .sort((one, other) => one.atMs - other.atMs);
  }

  /** What the engines of `guest` went through since a moment, on both hosts, by time. */
  listTransitions(guest: string, sinceMs: number): readonly LoggedTransition[] {
    this.readTransitions();
    return pairHosts
      .flatMap((host) => this.transitions[host].all)
      .filter((step) => step.guest === guest && step.atMs >= sinceMs)
      .sort((one, other) => one.atMs - other.atMs);
  }

  /**
   * How `host` took `guest` over after `sinceMs`: when it asked the quorum (so long it took to notice), and when the guest ran
   * there. Undefined while it has not.
   */
  findTakeover(host: PairHost, guest: string, sinceMs: number): Takeover | undefined {
    this.transitions[host].read();
    const steps = this.transitions[host].all.filter((step) => step.guest === guest && step.atMs >= sinceMs);
    const running = steps.find(({ from, to }) => from === "activating" && to === "alone");
    const asking = steps.find(({ to }) => to === "asking");
    return running === undefined
      ? undefined
      : { detectionMs: (asking ?? running).atMs - sinceMs, totalMs: running.atMs - sinceMs, epoch: running.epoch };
  }

  /** The same, for a takeover that has certainly begun: its last line may still be on its way into the log. */
  async awaitTakeover(
    host: PairHost,
    guest: string,
    sinceMs: number,
    timeoutMs: number,
  ): Promise<Takeover | undefined> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      const takeover = this.findTakeover(host, guest, sinceMs);
      if (takeover !== undefined || Date.now() > deadlineMs) {
        return takeover;
      }
      await sleep(50);
    }
  }

  /** Processes on a host that belong to nobody: neither the agent, nor an engine it knows, nor a QEMU it knows. */
  async listOrphans(host: PairHost): Promise<readonly string[]> {
    const status = await this.readAgent(host);
    const known = new Set([
      this.agents[host].pid,
      ...(status?.guests ?? []).flatMap(({ enginePid, qemu }) => [enginePid, qemu?.pid]),
    ]);
    return this.lab
      .listProcesses(host)
      .filter((pid) => !known.has(pid))
      .map((pid) => `${pid} ${readCommandLine(pid)}`)
      .filter((line) => !line.endsWith(" "));
  }

  // What is done to it.

  start(): void {
    this.quorum.start();
    for (const host of pairHosts) {
      this.agents[host].start();
    }
  }

  startQuorum(): void {
    this.quorum.start();
  }

  startAgent(host: PairHost): void {
    this.agents[host].start();
  }

  /**
   * Arms death at a named step of the protocol in the engine of a guest (src/engine/fail-point.ts), and waits until that
   * engine, or the next one, knows it. Needs TWINRUN_FAIL_POINTS=1 in the agents' environment.
   */
  async armFailPoint(host: PairHost, guest: string, point: string): Promise<void> {
    const path = this.#failPointPath(host, guest);
    writeFileSync(`${path}.new`, point);
    renameSync(`${path}.new`, path);
    const deadlineMs = Date.now() + 10_000;
    while (this.isFailPointArmed(host, guest) && Date.now() < deadlineMs) {
      await sleep(20);
    }
  }

  /** Whether a fail point still waits for an engine that reads it. */
  isFailPointArmed(host: PairHost, guest: string): boolean {
    return existsSync(this.#failPointPath(host, guest));
  }

  #failPointPath(host: PairHost, guest: string): string {
    return join(this.lab.runDirectory(host), guest, "fail-point");
  }

  async killQemu(host: PairHost, guest: string): Promise<number> {
    const { qemu } = present((await this.readGuest(guest)).sides[host], `status of ${guest} on host ${host}`);
    const found = present(qemu, `a QEMU of ${guest} on host ${host}`);
    return killExactly(found.pid, found.startTime);
  }

  /** As libvirt ends a QEMU: it is asked to, and takes its mirrors and files apart in order. */
  async endQemu(host: PairHost, guest: string): Promise<number> {
    const { qemu } = present((await this.readGuest(guest)).sides[host], `status of ${guest} on host ${host}`);
    const atMs = Date.now();
    process.kill(present(qemu, `a QEMU of ${guest} on host ${host}`).pid, "SIGTERM");
    return atMs;
  }

  async killEngine(host: PairHost, guest: string): Promise<number> {
    const side = present((await this.readGuest(guest)).sides[host], `status of ${guest} on host ${host}`);
    return killExactly(present(side.enginePid, `an engine of ${guest} on host ${host}`));
  }

  killAgent(host: PairHost): number {
    const atMs = Date.now();
    this.agents[host].kill();
    return atMs;
  }

  killQuorum(): number {
    const atMs = Date.now();
    this.quorum.kill();
    return atMs;
  }

  /** Returns the time at which the host fell silent. */
  async powerOff(host: PairHost): Promise<number> {
    this.agents[host].abandon();
    const atMs = Date.now();
    await this.lab.powerOff(host);
    return atMs;
  }

  powerOn(host: PairHost): void {
    this.lab.powerOn(host);
    this.agents[host].start();
  }

  /** Changes what both agents are told of a guest, while it runs. */
  reassign(
    guest: string,
    change: {
      readonly checkpoint: Partial<CheckpointContract>;
      readonly fullResync?: string;
      readonly linkCapacity?: LinkCapacity;
    },
  ): void {
    for (const host of pairHosts) {
      const path = join(this.lab.diskDirectory(host), "etc/assignments.json");
      const { guests } = JSON.parse(readFileSync(path, "utf8")) as AssignmentFile;
      const changed = guests.map((each) =>
        each.guest === guest ? { ...each, ...change, checkpoint: this.#planCheckpoint(change.checkpoint) } : each,
      );
      writeFileSync(`${path}.new`, JSON.stringify({ guests: changed }, null, 2));
      renameSync(`${path}.new`, path);
    }
  }

  switchOver(host: PairHost, guest: string): Promise<SwitchoverAnswer> {
    return requestSwitchover(this.lab.runDirectory(host), guest);
  }

  /** As somebody would who edits the assignments of both nodes. */
  setMode(mode: AvailabilityMode, guest: string): void {
    this.#modes.set(guest, mode);
    pairHosts.forEach((host) => {
      this.#writeAssignments(host);
    });
  }

  /** Asks the agents to end, then takes what they left running (QEMU is meant to outlive them). */
  async stop(): Promise<void> {
    await Promise.all([...pairHosts.map((host) => this.agents[host].stop("SIGKILL")), this.quorum.stop("SIGKILL")]);
  }

  /** Logs of every process into a directory that outlives the lab. */
  saveLogs(target: string): void {
    cpSync(this.lab.logDirectory, target, { recursive: true });
    for (const host of pairHosts) {
      for (const { name } of this.guests) {
        const log = join(this.lab.runDirectory(host), name, "qemu.log");
        if (existsSync(log)) {
          cpSync(log, join(target, `qemu-${name}-${host}.log`));
        }
      }
    }
  }

  // How it is set up.

  #agentLog(host: PairHost): string {
    return join(this.lab.logDirectory, `agent-${host}.log`);
  }

  #planAgent(host: PairHost, tls: TlsFiles): Supervised {
    const etc = join(this.lab.diskDirectory(host), "etc");
    mkdirSync(etc, { recursive: true });
    const config = {
      node: nodeName(host),
      runDirectory: this.lab.runDirectory(host),
      assignments: join(etc, "assignments.json"),
      quorum: [{ host: addressOf("q", "management"), port: quorumPort }],
      tls,
      ...(this.#options.withoutShim?.includes(host) === true ? {} : { shim: shimPath }),
      heartbeatPort,
      uplinks: this.#options.uplinks ?? [],
      cacheDirectory: join(this.lab.diskDirectory(host), "code-cache"),
      ...(this.#options.traceDirectory === undefined ? {} : { traceDirectory: this.#options.traceDirectory }),
    };
    writeFileSync(join(etc, "agent.json"), JSON.stringify(config, null, 2));
    this.#writeAssignments(host);
    return new Supervised({
      lab: this.lab,
      host,
      logPath: this.#agentLog(host),
      command: [process.execPath, main("agent"), "--config", join(etc, "agent.json")],
      ...(this.#options.environment === undefined ? {} : { environment: this.#options.environment }),
    });
  }

  #planCheckpoint(change: Partial<CheckpointContract>): CheckpointContract {
    const usual = { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1000 };
    return { ...usual, ...this.#options.checkpoint, ...change };
  }

  #writeAssignments(host: PairHost): void {
    const guests = this.guests.map((guest) => this.#assign(host, guest));
    const path = join(this.lab.diskDirectory(host), "etc", "assignments.json");
    writeFileSync(`${path}.new`, JSON.stringify({ guests }, null, 2));
    renameSync(`${path}.new`, path);
  }

  #assign(host: PairHost, guest: PlacedGuest): AssignmentFile["guests"][number] {
    const { firstPrimary, failover, tracker = "auto" } = this.#options;
    const spec = guest.specs[host];
    return {
      guest: guest.name,
      mode: this.#modes.get(guest.name) ?? this.#options.mode ?? "FaultTolerant",
      peerNode: nodeName(otherHost(host)),
      firstPrimary: nodeName(firstPrimary),
      port: firstGuestPort + guest.index,
      links: (["replication1", "replication2"] as const).map((network) => ({
        name: network,
        localHost: addressOf(host, network),
        peerHost: addressOf(otherHost(host), network),
      })),
      disks: spec.disks.map(({ id, path }) => ({ id, path })),
      qemu: { binary: qemuBinary, args: listGuestArguments(spec) },
      checkpoint: this.#planCheckpoint({}),
      failover: { detectionTimeoutMs: 500, ...failover },
      tracker,
    };
  }
}

/** Makes the certificates and the configuration of everything; starts nothing. */
export async function createCluster(lab: Lab, options: ClusterOptions): Promise<Cluster> {
  return new Cluster(lab, options, await issueCertificates(lab));
}

const isPrimary = (report: EngineReport | null | undefined): boolean => report?.role === "primary";
const termOf = (status: GuestStatus | undefined): number => status?.report?.term ?? -1;

/** What a side says a person has to know: its conditions that do not hold, and its trouble. */
export const listWords = (side: GuestStatus | undefined): readonly string[] => [
  ...(side?.trouble === null || side === undefined ? [] : [side.trouble]),
  ...(side?.report?.conditions ?? []).flatMap(({ status, message }) => (status === "True" ? [] : [message])),
];

/** One line for a person who has to find out why it does not go on. */
export function describeView({ name, sides }: GuestView): string {
  const describe = (side: GuestStatus | undefined): string => {
    if (side === undefined) {
      return "no word";
    }
    const { report, supervision, trouble } = side;
    const state =
      report === null
        ? supervision
        : `${report.role} ${report.state}, term ${report.term}, epoch ${report.epoch}, ${report.syncPercent.toFixed(0)} % copied`;
    return trouble === null ? state : `${state} (${trouble})`;
  };
  return `  ${name}: A ${describe(sides.a)}; B ${describe(sides.b)}`;
}

function killExactly(pid: number, startTime?: string): number {
  assert(startTime === undefined || readStartTime(pid) === startTime, `process ${pid} is not the one that was meant`);
  const atMs = Date.now();
  process.kill(pid, "SIGKILL");
  return atMs;
}

function readCommandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim().slice(0, 200);
  } catch {
    return "";
  }
}
