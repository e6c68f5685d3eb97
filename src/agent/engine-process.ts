/**
 * One engine: a child process that speaks with us over Node's IPC channel (protocol/assignment.ts says what).
 *
 * Its end comes as `onEnded`, exactly once and after its last message. It has a session of its own, so that an interrupt
 * typed at the agent's terminal reaches the agent alone, which then stops engines in order. It carries
 * TWINRUN_ENGINE=<run directory>, so that the next agent finds one that hangs instead of ending with its channel.
 *
 * Memory: an engine's own data live outside V8's heap, so its heap is kept small. With the compiled code of its modules
 * in a cache, Node loads neither its type stripper nor the sources: the engine before its first message is 71 MiB
 * resident instead of 94, and 103 without our flags (Node 24.21, x64). That counts once per guest, so the agent fills the
 * cache beforehand with an engine that has no channel and ends at once.
 */
import { fork, spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type AgentMessage, type EngineExitReason, type EngineMessage } from "../protocol/assignment.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { killProcess, listEnvironments } from "./linux-process.ts";

export type EngineProgram = {
  /** The module to run: main/engine.ts. */
  readonly path: string;
  /** Where Node keeps compiled code between runs; see {@link openEngineCache}. */
  readonly cacheDirectory: string;
  readonly logLevel: string;
};

export type EngineEnded = {
  /** As the engine gave it; undefined when it ended without a word. */
  readonly reason: EngineExitReason | undefined;
  readonly message: string;
  readonly livedMs: number;
};

/**
 * The young generation sets how much garbage piles up before it is looked at: with 4 MiB semi-spaces the standby of a guest
 * at 60 checkpoints a second spent a fifth of its time on collections. One worker thread for V8 is enough beside one busy
 * main thread on hosts with few cores.
 */
const NODE_FLAGS = ["--max-semi-space-size=8", "--expose-gc", "--max-old-space-size=192", "--v8-pool-size=1"];
const MARKER = "TWINRUN_ENGINE";
const WARM_UP_TIMEOUT_MS = 20_000;

export class EngineProcess {
  onMessage: (message: EngineMessage) => void = () => undefined;
  onEnded: (ended: EngineEnded) => void = () => undefined;
  readonly pid: number | undefined;

  readonly #child: ChildProcess;
  readonly #startedAtMs = monotonicMs();
  #lastWord: Extract<EngineMessage, { tag: "exiting" }> | undefined;
  #hasEnded = false;
  #heardAtMs = this.#startedAtMs;

  constructor(program: EngineProgram, runDirectory: string) {
    this.#child = fork(program.path, [], {
      execArgv: NODE_FLAGS,
      detached: true,
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      env: environmentOf(program, runDirectory),
    });
    this.pid = this.#child.pid;
    this.#child.on("message", (message) => {
      this.#heardAtMs = monotonicMs();
      // The engine is of the same build as we are: its messages are what the type says.
      this.#take(message as EngineMessage);
    });
    this.#child.on("error", (error) => {
      if (this.#child.pid === undefined) {
        this.#end(`cannot start it: ${error.message}`);
      }
      // Otherwise a message could not be sent, because the channel is closing: the exit follows.
    });
    // "exit" may come before the last messages were read; "close" waits for the channel as well, but a grandchild could
    // hold it open for ever. So: after the exit, one more turn of the loop once the channel says that it is closed.
    this.#child.on("exit", (code, signal) => {
      const says = signal === null ? `status ${code ?? "unknown"}` : `signal ${signal}`;
      if (this.#child.connected) {
        const timer = setTimeout(() => {
          this.#end(says);
        }, 200);
        this.#child.once("disconnect", () => {
          clearTimeout(timer);
          setImmediate(() => {
            this.#end(says);
          });
        });
      } else {
        setImmediate(() => {
          this.#end(says);
        });
      }
    });
  }

  /** Milliseconds since the engine's last message. */
  get silentMs(): number {
    return monotonicMs() - this.#heardAtMs;
  }

  /** Without effect once the channel is closed. */
  send(message: AgentMessage): void {
    if (this.#child.connected) {
      this.#child.send(message, () => undefined);
    }
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  #take(message: EngineMessage): void {
    if (message.tag === "exiting") {
      this.#lastWord = message;
    }
    this.onMessage(message);
  }

  #end(says: string): void {
    if (this.#hasEnded) {
      return;
    }
    this.#hasEnded = true;
    this.onEnded({
      reason: this.#lastWord?.reason,
      message: this.#lastWord?.message ?? `engine ended with ${says} without a word`,
      livedMs: monotonicMs() - this.#startedAtMs,
    });
  }
}

/** Removes engines of an earlier agent with this run directory: they end by themselves unless they hang. */
export async function killStrayEngines(runDirectory: string, log: Log): Promise<void> {
  const strays = listEnvironments((environment) =>
    environment.some(
      (entry) => entry === `${MARKER}=${runDirectory}` || entry.startsWith(`${MARKER}=${runDirectory}/`),
    ),
  );
  for (const { identity } of strays) {
    log.warn({ pid: identity.pid }, "killing an engine that outlived its agent");
    await killProcess(identity, log);
  }
}

/**
 * The directory for this very code, filled when it was not: so even the first engine starts small. Costs half a second of
 * CPU after an installation or upgrade. What was compiled from other code is removed.
 */
export async function openEngineCache(cacheDirectory: string, enginePath: string, log: Log): Promise<string> {
  const name = `compiled-${readCodeKey(dirname(dirname(enginePath)))}`;
  const directory = join(cacheDirectory, name);
  mkdirSync(cacheDirectory, { recursive: true, mode: 0o700 });
  const present = readdirSync(cacheDirectory).filter((each) => each.startsWith("compiled-"));
  for (const outdated of present.filter((each) => each !== name)) {
    rmSync(join(cacheDirectory, outdated), { recursive: true, force: true });
  }
  if (!present.includes(name)) {
    await fillCache(enginePath, directory, log);
  }
  return directory;
}

/** Stands for the state of the code: Node's version and the newest change below src. */
function readCodeKey(sourceDirectory: string): string {
  const files = readdirSync(sourceDirectory, { recursive: true, withFileTypes: true });
  const times = files
    .filter((file) => file.isFile() && file.name.endsWith(".ts"))
    .map((file) => statSync(join(file.parentPath, file.name)).mtimeMs);
  const newest = times.reduce((latest, time) => Math.max(latest, time), 0);
  return createHash("sha256").update(`${process.version} ${times.length} ${newest}`).digest("hex").slice(0, 16);
}

/** A cache that cannot be had costs memory, nothing else: whatever fails here is told and passed over. */
async function fillCache(enginePath: string, directory: string, log: Log): Promise<void> {
  // Under its final name only when it is whole: half a cache would be taken for a full one ever after.
  const fresh = `${directory}.${process.pid}`;
  await warmUp(enginePath, fresh, log);
  try {
    renameSync(fresh, directory);
  } catch (error) {
    log.warn({ error }, "keeping no compiled code from this start; another agent has filled the cache meanwhile");
    rmSync(fresh, { recursive: true, force: true });
  }
}

/** An engine without a channel loads everything, ends, and leaves what Node compiled. */
async function warmUp(enginePath: string, directory: string, log: Log): Promise<void> {
  const child = spawn(process.execPath, [...NODE_FLAGS, enginePath], {
    stdio: "ignore",
    env: { ...process.env, NODE_COMPILE_CACHE: directory },
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), WARM_UP_TIMEOUT_MS);
  const says = await new Promise<string>((resolve) => {
    child.once("error", (error) => {
      resolve(error.message);
    });
    child.once("exit", (code, signal) => {
      resolve(signal ?? `status ${code ?? "unknown"}`);
    });
  });
  clearTimeout(timer);
  log.info({ directory, says }, "compiled the engine's code into the cache");
}

function environmentOf(program: EngineProgram, runDirectory: string): NodeJS.ProcessEnv {
  return {
    ...process.env,
    NODE_COMPILE_CACHE: program.cacheDirectory,
    // Two malloc arenas instead of eight per core: threads of libuv's pool otherwise keep freed memory apart.
    MALLOC_ARENA_MAX: "2",
    // A checkpoint learns of the stop through a thread of the pool: it must not queue behind reads of disks.
    UV_THREADPOOL_SIZE: "12",
    TWINRUN_LOG_LEVEL: program.logLevel,
    [MARKER]: runDirectory,
  };
}
