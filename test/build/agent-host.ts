/**
 * One host for tests of the agent: a directory, certificates, an assignment file, and the real main/agent.ts running on it
 * with the fake engine. `close` leaves neither process nor file behind.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { type ClientRequest, request } from "node:http";
import { request as secureRequest } from "node:https";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { killProcess, listEnvironments } from "../../src/agent/linux-process.ts";
import { type GuestStatus } from "../../src/agent/guest-runner.ts";
import { type PeerLinkStatus } from "../../src/agent/node-heartbeat.ts";
import { type PeerService } from "../../src/net/peer-identity.ts";
import { createAuthority, issueCertificate } from "../../src/net/pki.ts";
import {
  type AgentMessage,
  type EngineMessage,
  type GuestAssignment,
  type TlsFiles,
} from "../../src/protocol/assignment.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import type { FakeEngineScript } from "./fake-engine.ts";
import { encodeForFile } from "./guest-assignment.ts";

const AGENT = fileURLToPath(new URL("../../src/main/agent.ts", import.meta.url));
const ENGINE = fileURLToPath(new URL("fake-engine.ts", import.meta.url));

/** Kept from run to run: compiled code, whose names Node makes from what is in it. */
const CACHE = fileURLToPath(new URL("../../build/test-code-cache", import.meta.url));

export type Answer = { readonly code: number; readonly body: string };
export type HeardMessage = { readonly enginePid: number; readonly message: AgentMessage };
export type NodeStatus = {
  readonly assignmentProblem: string | null;
  readonly guests: readonly GuestStatus[];
  readonly leaving: readonly string[];
  readonly links: readonly PeerLinkStatus[];
};

export class AgentHost {
  readonly directory: string;
  readonly node: string;
  readonly tls: TlsFiles;
  agent: ChildProcess | undefined;
  readonly #agents: ChildProcess[] = [];
  /** What the agent wrote to standard output and error. */
  output = "";

  private constructor(directory: string, node: string, tls: TlsFiles) {
    this.directory = directory;
    this.node = node;
    this.tls = tls;
  }

  static async open(node = "host-a"): Promise<AgentHost> {
    const tls = await issueShared(node);
    const directory = mkdtempSync(join(tmpdir(), "twinrun-agent-"));
    startJanitor(directory);
    mkdirSync(join(directory, "run"));
    return new AgentHost(directory, node, tls);
  }

  get runDirectory(): string {
    return join(this.directory, "run");
  }

  get assignmentPath(): string {
    return join(this.directory, "assignments.yaml");
  }

  assign(...guests: readonly GuestAssignment[]): void {
    this.writeAssignments(JSON.stringify({ guests: guests.map(encodeForFile) }));
  }

  /** By rename, as careful writers do. */
  writeAssignments(text: string): void {
    writeFileSync(`${this.assignmentPath}.new`, text);
    renameSync(`${this.assignmentPath}.new`, this.assignmentPath);
  }

  script(guest: string, script: FakeEngineScript): void {
    mkdirSync(join(this.runDirectory, guest), { recursive: true });
    writeFileSync(join(this.runDirectory, guest, "fake-engine.json"), JSON.stringify(script));
  }

  /** Lets the guest's engine say something to the agent. */
  async say(guest: string, message: EngineMessage): Promise<void> {
    const path = join(this.runDirectory, guest, "fake-say.json");
    writeFileSync(`${path}.new`, JSON.stringify(message));
    renameSync(`${path}.new`, path);
    await until(`the engine of ${guest} has spoken`, () => !existsSync(path) || undefined);
  }

  heard(guest: string): readonly HeardMessage[] {
    const path = join(this.runDirectory, guest, "fake-engine.jsonl");
    const text = existsSync(path) ? readFileSync(path, "utf8") : "";
    return text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as HeardMessage]));
  }

  /** Starts the agent and returns when it answers. */
  async start(...flags: readonly string[]): Promise<void> {
    const agent = this.#spawn(flags);
    this.agent = agent;
    await until("the agent answers", async () => {
      if (agent.exitCode !== null) {
        throw new Error(`the agent ended with ${agent.exitCode}: ${this.output}`);
      }
      return (await this.ask("GET", "/healthz"))?.code === 200 || undefined;
    });
  }

  /** Starts one that is expected to refuse; its exit status. */
  startRefused(...flags: readonly string[]): Promise<number | null> {
    const agent = this.#spawn(flags);
    return new Promise((resolve) => agent.once("close", resolve));
  }

  #spawn(flags: readonly string[]): ChildProcess {
    const { certPath, keyPath, caPath } = this.tls;
    const agent = spawn(
      process.execPath,
      [
        AGENT,
        ...["--node", this.node, "--run-directory", this.runDirectory, "--assignments", this.assignmentPath],
        ...["--cert", certPath, "--key", keyPath, "--ca", caPath, "--quorum", "127.0.0.1:1", "--engine", ENGINE],
        ...["--cache-directory", CACHE, "--stop-timeout-ms", "1000"],
        ...flags,
      ],
      {
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...process.env, NODE_COMPILE_CACHE: CACHE, TWINRUN_TEST: this.directory },
      },
    );
    this.#agents.push(agent);
    for (const stream of [agent.stdout, agent.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        this.output += chunk.toString();
      });
    }
    return agent;
  }

  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    const agent = this.agent;
    if (agent === undefined) {
      return null;
    }
    if (agent.exitCode === null && agent.signalCode === null) {
      const exited = new Promise((resolve) => agent.once("exit", resolve));
      agent.kill(signal);
      await exited;
    }
    this.agent = undefined;
    return agent.exitCode;
  }

  /** Undefined when nobody listens. */
  ask(method: string, path: string): Promise<Answer | undefined> {
    return readAnswer(request({ socketPath: join(this.runDirectory, "agent.sock"), method, path }));
  }

  /** Over TCP; undefined when the connection is not let in. */
  askSecurely(method: string, path: string, port: number, credentials: Partial<TlsFiles>): Promise<Answer | undefined> {
    const { certPath, keyPath } = credentials;
    const own =
      certPath === undefined || keyPath === undefined
        ? {}
        : { cert: readFileSync(certPath), key: readFileSync(keyPath) };
    const ca = readFileSync(this.tls.caPath);
    // Certificates name nodes, not addresses.
    const checkServerIdentity = (): undefined => undefined;
    return readAnswer(
      secureRequest({ host: "127.0.0.1", port, method, path, ca, ...own, checkServerIdentity, agent: false }),
    );
  }

  async status(): Promise<NodeStatus | undefined> {
    const answer = await this.ask("GET", "/status");
    return answer === undefined ? undefined : (JSON.parse(answer.body) as NodeStatus);
  }

  async guest(name: string): Promise<GuestStatus | undefined> {
    return (await this.status())?.guests.find(({ guest }) => guest === name);
  }

  /** Every QEMU that carries this host's mark. */
  listQemus(): readonly number[] {
    return this.#listMarked(`TWINRUN_RUN_DIRECTORY=${this.runDirectory}`);
  }

  listEngines(): readonly number[] {
    return this.#listMarked(`TWINRUN_ENGINE=${this.runDirectory}`);
  }

  async close(): Promise<void> {
    await this.end("SIGKILL");
    this.#agents.forEach((agent) => agent.kill("SIGKILL"));
    const mine = listEnvironments((environment) =>
      environment.some((entry) => entry.includes(`=${this.runDirectory}`)),
    );
    await Promise.all(mine.map(({ identity }) => killProcess(identity, silentLog)));
    rmSync(this.directory, { recursive: true, force: true });
  }

  #listMarked(prefix: string): readonly number[] {
    return listEnvironments((environment) =>
      environment.some((entry) => entry === prefix || entry.startsWith(`${prefix}/`)),
    ).map(({ identity }) => identity.pid);
  }
}

/**
 * Cleans up when this process has ended, however it ended: kills what carries the directory in its environment, and removes
 * the directory. A test that is interrupted has no last word of its own.
 */
function startJanitor(directory: string): void {
  const script = `cat >/dev/null
    for round in 1 2; do
      for file in $(grep -lasF "=$0" /proc/[0-9]*/environ); do pid=\${file#/proc/}; kill -9 "\${pid%/environ}"; done
    done 2>/dev/null
    rm -rf "$0"`;
  const janitor = spawn("sh", ["-c", script, directory], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
    env: { PATH: process.env["PATH"] },
  });
  janitor.unref();
  if (janitor.stdin instanceof Socket) {
    janitor.stdin.unref();
  }
}

function readAnswer(asked: ClientRequest): Promise<Answer | undefined> {
  return new Promise((resolve) => {
    asked.on("response", (response) => {
      let body = "";
      response.on("data", (chunk: Buffer) => (body += chunk.toString()));
      response.on("end", () => {
        resolve({ code: response.statusCode ?? 0, body });
      });
    });
    asked.on("error", () => {
      resolve(undefined);
    });
    asked.end();
  });
}

/** One authority, and one certificate per node, for all tests of a file: making them is slow. */
const pkiDirectory = mkdtempSync(join(tmpdir(), "twinrun-agent-pki-"));
startJanitor(pkiDirectory);
let authority: Promise<void> | undefined;
const issued = new Map<string, Promise<TlsFiles>>();

/** A certificate of the authority that all hosts have. */
export function issueShared(name: string, service: PeerService = "node"): Promise<TlsFiles> {
  authority ??= createAuthority(pkiDirectory);
  const key = `${service}/${name}`;
  const files =
    issued.get(key) ?? authority.then(() => issueCertificate(pkiDirectory, { identity: { service, name } }));
  issued.set(key, files);
  return files;
}

/** Much more than it takes: other tests may have the machine. */
const PATIENCE_MS = 25_000;

/** Looks again and again until there is a value; says what it waited for when there is none in time. */
export async function until<T>(
  what: string,
  look: () => T | undefined | Promise<T | undefined>,
): Promise<NonNullable<T>> {
  const deadlineMs = performance.now() + PATIENCE_MS;
  for (;;) {
    const value = await look();
    if (value !== undefined && value !== null) {
      return value;
    }
    if (performance.now() > deadlineMs) {
      throw new Error(`waited ${PATIENCE_MS} ms in vain until ${what}; last seen ${JSON.stringify(value)}`);
    }
    await sleep(15);
  }
}
