/**
 * Starts QEMU on this host as a process that outlives the agent.
 *
 * Files in the guest's run directory (all gone when its QEMU is gone, except the log):
 *
 *   qemu.json   {version: 1, bootId, pid, startTime, startedAs, argsHash, qemu, disks}: written before anybody is told of
 *               the QEMU, so one without this file has never run a guest instruction that mattered and is killed
 *   qmp.sock    QEMU's monitor
 *   qemu.log    what QEMU prints; cut when it grows beyond 4 MiB, the last part is kept in qemu.log.1
 *
 * QEMU gets an environment made for it: TWINRUN_GUEST, TWINRUN_NODE and TWINRUN_RUN_DIRECTORY mark it as ours (strays are
 * found by them; the run directory keeps apart what belongs to other agents of this host), LD_PRELOAD loads the shim. It
 * has a session of its own, so no signal for the agent's terminal or group reaches it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { copyFile, truncate } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type FoundGuest, type GuestAssignment, type GuestShape, type QemuOrigin } from "../protocol/assignment.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { LaunchFailure, type GuestLauncher, type LaunchedGuest } from "./guest-launcher.ts";
import {
  isAlive,
  killProcess,
  listEnvironments,
  readBootId,
  readIdentity,
  readSession,
  type MarkedProcess,
  type ProcessIdentity,
} from "./linux-process.ts";
import { readStateFile, removeStateFile, writeStateFile } from "./state-file.ts";

export type LocalLauncherOptions = {
  readonly node: string;
  /** The agent's; each guest has a directory of its name in it. */
  readonly runDirectory: string;
  readonly shim?: string | undefined;
  readonly log: Log;
};

type StateFile = {
  readonly version: 1;
  readonly bootId: string;
  readonly pid: number;
  readonly startTime: string;
  readonly startedAs: GuestShape;
  /** For people who compare; nothing decides by it. */
  readonly argsHash: string;
  readonly qemu: Pick<LocalOrigin, "binary" | "args">;
  readonly disks: GuestAssignment["disks"];
};

type LocalOrigin = Extract<QemuOrigin, { readonly tag: "local" }>;

const STATE_VERSION = 1;
/** sun_path holds 108 bytes with its final zero; the engine puts sockets with longer names beside ours. */
const SOCKET_PATH_BYTES_MAX = 107;
const LONGEST_SOCKET_NAME = "qmp-migration-in.sock";
const START_TIMEOUT_MS = 30_000;
const LOOK_FOR_SOCKET_MS = 5;
const WATCH_MS = 500;
const LOG_BYTES_MAX = 4 * 1024 * 1024;
const LOG_LOOK_EVERY_WATCHES = 20;

export class LocalLauncher implements GuestLauncher {
  readonly ownsGuests = true;
  onDied: (guest: string, pid: number) => void = () => undefined;

  readonly #options: LocalLauncherOptions;
  readonly #bootId = readBootId();
  /** Every QEMU that somebody was told of and that nobody saw go. */
  readonly #known = new Map<string, LaunchedGuest>();
  readonly #watch: NodeJS.Timeout;
  #watchesCount = 0;

  constructor(options: LocalLauncherOptions) {
    this.#options = options;
    this.#watch = setInterval(() => {
      this.#look();
    }, WATCH_MS);
  }

  listGuests(): readonly string[] {
    const recorded = readdirSync(this.#options.runDirectory).filter((guest) => existsSync(this.#statePath(guest)));
    const marked = listEnvironments((environment) => this.#isOurs(environment)).map(readMarkedGuest);
    return [...new Set([...recorded, ...marked])].filter((guest) => guest !== "");
  }

  async adopt({ guest }: Pick<GuestAssignment, "guest">): Promise<LaunchedGuest | undefined> {
    const state = this.#readState(guest);
    const identity = state === undefined ? undefined : { pid: state.pid, startTime: state.startTime };
    await this.#killStrays(guest, identity);
    if (state === undefined || identity === undefined || !isAlive(identity)) {
      this.#forget(guest);
      return undefined;
    }
    const found = this.#foundOf(guest, identity, state.startedAs);
    const launched: LaunchedGuest = {
      found,
      qemu: { tag: "local", ...state.qemu },
      disks: state.disks,
    };
    this.#known.set(guest, launched);
    return launched;
  }

  async start(assignment: GuestAssignment, as: GuestShape): Promise<LaunchedGuest> {
    const { guest, qemu, disks } = assignment;
    if (qemu.tag !== "local") {
      const says = `${guest} is started by others (${qemu.tag}), but this agent works without a cluster`;
      throw new LaunchFailure({ code: "WrongOrigin", origin: qemu.tag }, says);
    }
    await this.kill(guest);
    this.#prepareDirectory(guest);
    const args = this.#argsOf(guest, qemu, as);
    const child = this.#spawn(guest, qemu.binary, args);
    const identity = child.pid === undefined ? undefined : readIdentity(child.pid);
    if (identity !== undefined) {
      writeStateFile(this.#statePath(guest), {
        version: STATE_VERSION,
        bootId: this.#bootId,
        ...identity,
        startedAs: as,
        argsHash: createHash("sha256")
          .update(JSON.stringify([qemu.binary, ...args]))
          .digest("hex"),
        qemu: { binary: qemu.binary, args: qemu.args },
        disks,
      } satisfies StateFile);
    }
    try {
      await this.#untilAnswering(guest, qemu.binary, child);
    } catch (error) {
      await this.kill(guest);
      throw error;
    }
    const started = identity ?? (await this.#failed(guest, child));
    const launched: LaunchedGuest = { found: this.#foundOf(guest, started, as), qemu, disks };
    this.#known.set(guest, launched);
    child.once("exit", () => {
      this.#look();
    });
    return launched;
  }

  async kill(guest: string): Promise<void> {
    this.#known.delete(guest);
    await this.#killStrays(guest, undefined);
    const state = this.#readState(guest);
    if (state !== undefined) {
      // Its environment could not be read if it changed its user; the record still knows it.
      await killProcess({ pid: state.pid, startTime: state.startTime }, this.#options.log);
    }
    this.#forget(guest);
  }

  close(): void {
    clearInterval(this.#watch);
  }

  #look(): void {
    for (const [guest, { found }] of this.#known) {
      if (!isAlive(found)) {
        this.#forget(guest);
        this.onDied(guest, found.pid);
      }
    }
    this.#watchesCount += 1;
    if (this.#watchesCount % LOG_LOOK_EVERY_WATCHES === 0) {
      for (const guest of this.#known.keys()) {
        void this.#cutLog(this.#pathOf(guest, "qemu.log"));
      }
    }
  }

  /** QEMU writes with O_APPEND, so after the cut it goes on at the new end. A few lines may fall between copy and cut. */
  async #cutLog(path: string): Promise<void> {
    try {
      if (statSync(path).size > LOG_BYTES_MAX) {
        await copyFile(path, `${path}.1`);
        await truncate(path, 0);
      }
    } catch (error) {
      this.#options.log.warn({ error, path }, "cannot cut QEMU's log");
    }
  }

  #prepareDirectory(guest: string): void {
    const longest = this.#pathOf(guest, LONGEST_SOCKET_NAME);
    if (Buffer.byteLength(longest) > SOCKET_PATH_BYTES_MAX) {
      const says = `${longest} is too long for a unix socket: choose a runDirectory or guest name shorter by ${Buffer.byteLength(longest) - SOCKET_PATH_BYTES_MAX}`;
      throw new LaunchFailure({ code: "PathTooLong", path: longest, bytesMax: SOCKET_PATH_BYTES_MAX }, says);
    }
    mkdirSync(this.#pathOf(guest, ""), { recursive: true, mode: 0o700 });
    rmSync(this.#pathOf(guest, "qmp.sock"), { force: true });
  }

  #argsOf(guest: string, qemu: LocalOrigin, as: GuestShape): readonly string[] {
    const qmpPath = this.#pathOf(guest, "qmp.sock").replaceAll(",", ",,");
    return [
      ...qemu.args,
      "-S",
      ...(as === "standby" ? ["-incoming", "defer"] : []),
      // The saved device state has no configuration section; both sides must agree on that.
      "-global",
      "migration.send-configuration=off",
      "-qmp",
      `unix:${qmpPath},server=on,wait=off`,
    ];
  }

  #spawn(guest: string, binary: string, args: readonly string[]): ChildProcess {
    const { node, runDirectory, shim } = this.#options;
    const logFile = openSync(this.#pathOf(guest, "qemu.log"), "a", 0o600);
    try {
      const child = spawn(binary, args, {
        detached: true,
        cwd: "/",
        stdio: ["ignore", logFile, logFile],
        env: {
          PATH: process.env["PATH"],
          TWINRUN_GUEST: guest,
          TWINRUN_NODE: node,
          TWINRUN_RUN_DIRECTORY: runDirectory,
          // Held, so that nothing leaves before an engine has said that it may.
          ...(shim === undefined ? {} : { LD_PRELOAD: shim, TWINRUN_SHIM: "1", TWINRUN_OUTPUT: "held" }),
        },
      });
      child.unref();
      return child;
    } finally {
      closeSync(logFile);
    }
  }

  /**
   * QEMU opens its monitor early, and a thread of its own greets on it; commands are answered by the main thread, and so
   * only once the machine is built. Asking takes the monitor for a moment; whoever connects next waits in its backlog.
   */
  async #untilAnswering(guest: string, binary: string, child: ChildProcess): Promise<void> {
    let spawnError: Error | undefined;
    child.once("error", (error) => {
      spawnError = error;
    });
    const deadlineMs = monotonicMs() + START_TIMEOUT_MS;
    const qmpPath = this.#pathOf(guest, "qmp.sock");
    while (!existsSync(qmpPath) || !(await hasAnswered(qmpPath, deadlineMs))) {
      await sleep(LOOK_FOR_SOCKET_MS);
      if (spawnError !== undefined) {
        const says = `cannot run ${binary} (${spawnError.message}): install QEMU or correct qemu.binary of guest ${guest}`;
        throw new LaunchFailure({ code: "BinaryMissing", binary }, says, { cause: spawnError });
      }
      if (child.exitCode !== null || child.signalCode !== null) {
        await this.#failed(guest, child);
      }
      if (monotonicMs() > deadlineMs) {
        const says = `QEMU of ${guest} answered on no monitor within ${START_TIMEOUT_MS / 1000} s; see ${this.#pathOf(guest, "qemu.log")}`;
        throw new LaunchFailure({ code: "StartTimedOut", afterMs: START_TIMEOUT_MS }, says);
      }
    }
  }

  async #failed(guest: string, child: ChildProcess): Promise<never> {
    if (child.exitCode === null && child.signalCode === null) {
      await new Promise((resolve) => child.once("exit", resolve));
    }
    const path = this.#pathOf(guest, "qemu.log");
    const lastLines = readLastLines(path);
    const status = child.signalCode ?? `status ${child.exitCode ?? "unknown"}`;
    const says = `QEMU of ${guest} ended with ${status} while starting; correct qemu.args. Its last words (all in ${path}): ${lastLines}`;
    throw new LaunchFailure({ code: "EndedAtStart", status, lastLines }, says);
  }

  async #killStrays(guest: string, except: ProcessIdentity | undefined): Promise<void> {
    const marker = `TWINRUN_GUEST=${guest}`;
    const strays = listEnvironments((environment) => environment.includes(marker) && this.#isOurs(environment));
    for (const { identity } of strays) {
      // Programs that the known QEMU itself started have its environment, and its session.
      if (except === undefined || readSession(identity.pid) !== except.pid) {
        this.#options.log.info({ guest, pid: identity.pid }, "killing a QEMU");
        await killProcess(identity, this.#options.log);
      }
    }
  }

  #isOurs(environment: readonly string[]): boolean {
    const { node, runDirectory } = this.#options;
    return (
      environment.includes(`TWINRUN_RUN_DIRECTORY=${runDirectory}`) && environment.includes(`TWINRUN_NODE=${node}`)
    );
  }

  #foundOf(guest: string, identity: ProcessIdentity, startedAs: GuestShape): FoundGuest {
    const sharedDirectory = join(this.#options.runDirectory, guest);
    return {
      ...identity,
      qmpPath: this.#pathOf(guest, "qmp.sock"),
      qemuRoot: "/",
      sharedDirectory,
      startedAs,
    };
  }

  #readState(guest: string): StateFile | undefined {
    const state = readStateFile(this.#statePath(guest)) as Partial<StateFile> | undefined;
    // Only we write this file, and whole; what may differ is the version and the boot.
    return state?.version === STATE_VERSION && state.bootId === this.#bootId ? (state as StateFile) : undefined;
  }

  #forget(guest: string): void {
    this.#known.delete(guest);
    removeStateFile(this.#statePath(guest));
    rmSync(this.#pathOf(guest, "qmp.sock"), { force: true });
  }

  #statePath(guest: string): string {
    return this.#pathOf(guest, "qemu.json");
  }

  #pathOf(guest: string, file: string): string {
    return join(this.#options.runDirectory, guest, file);
  }
}

function readMarkedGuest({ environment }: MarkedProcess): string {
  return environment.find((entry) => entry.startsWith("TWINRUN_GUEST="))?.slice("TWINRUN_GUEST=".length) ?? "";
}

/** False when the socket was closed without an answer. */
function hasAnswered(qmpPath: string, deadlineMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(qmpPath);
    let heard = "";
    socket.setTimeout(Math.max(1, deadlineMs - monotonicMs()), () => socket.destroy());
    socket.once("connect", () => {
      socket.write('{"execute":"qmp_capabilities"}\n');
    });
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
      if (heard.includes('"return"')) {
        resolve(true);
        socket.destroy();
      }
    });
    socket.once("error", () => undefined);
    socket.once("close", () => {
      resolve(false);
    });
  });
}

const LAST_LINES = 5;

function readLastLines(path: string): string {
  try {
    return readFileSync(path, "utf8").trimEnd().split("\n").slice(-LAST_LINES).join(" | ");
  } catch {
    return "(no log)";
  }
}
