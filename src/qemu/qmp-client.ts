/**
 * One QMP monitor of one QEMU: typed commands in order, batches in one write, events to listeners.
 *
 * The wire: QEMU greets with {"QMP": {"version", "capabilities"}}; the client answers qmp_capabilities; from then on each
 * line is one JSON object: {"execute"|"exec-oob", "arguments", "id"} out, {"return"|"error", "id"} or {"event", "data",
 * "timestamp"} in. QEMU runs in-band commands one after another in the order sent.
 *
 * Contract:
 * - Every promise settles: with the answer, or with a QmpFailure when QEMU refuses, the monitor closes or the time is up.
 *   The answer to a command that timed out is dropped when it comes; nothing is known about its effect.
 * - Events of one read reach the listeners before the answers that follow them on the wire, in the same tick. A
 *   checkpoint depends on that: its own STOP and RESUME come before its answer.
 * - After `closed` has settled no listener is called.
 *
 * Why commands are primed: QEMU reads its monitors byte by byte, one poll and one recvmsg each, which makes 0.6 ms of the
 * 120 bytes of a command. A primed command has only its closing brace to come. Any other command that is sent meanwhile
 * ends the primed one as one that QEMU refuses (an unknown member), and fire then sends it anew.
 *
 * Why "oob" is enabled when offered: without it QEMU takes the next line of a batch only after it has answered the one
 * before, with two thread hops for each; with it the whole batch is queued at once. And `yank` out of band is the only
 * command that still works while QEMU's main loop hangs in a disk request.
 */
import { connect as connectSocket, type Socket } from "node:net";
import { QmpFailure } from "./qmp-failure.ts";
import { type QmpCommandName, type QmpCommands, type QmpRequest } from "./qmp-commands.ts";

export type QmpEvent = {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's clock (Unix time) when it happened. */
  readonly atMs: number;
};
export type QmpOutcome =
  { readonly tag: "done"; readonly value: unknown } | { readonly tag: "failed"; readonly failure: QmpFailure };
export type QmpVersion = { readonly major: number; readonly minor: number; readonly micro: number };

/** A command of which QEMU has all but the last byte: fire lets it run at once. */
export type PrimedCommand<Returns> = { readonly fire: (options?: { readonly timeoutMs?: number }) => Promise<Returns> };

/** query-named-block-nodes of a guest with a hundred disks is 200 kB; a peer that sends more is no QEMU. */
const LINE_BYTES_MAX = 8 * 1024 * 1024;
const COMMAND_TIMEOUT_MS = 10_000;
const NEWLINE = 0x0a;

type Pending = {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (failure: QmpFailure) => void;
  timer: NodeJS.Timeout | undefined;
};
type Reply = {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly class: string; readonly desc: string };
  readonly event?: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number };
  readonly QMP?: {
    readonly version?: { readonly qemu?: QmpVersion; readonly package?: string };
    readonly capabilities?: readonly unknown[];
  };
};

export class QmpClient {
  /** Settles once, with why the monitor is gone; never rejects. */
  readonly closed: Promise<string>;
  readonly path: string;
  #version: QmpVersion = { major: 0, minor: 0, micro: 0 };
  #hasOutOfBand = false;
  #socket: Socket;
  #pending = new Map<number, Pending>();
  #listeners = new Set<(event: QmpEvent) => void>();
  #commands: ReadonlySet<string> | undefined;
  #nextId = 1;
  /** The bytes of a line whose end has not come yet. */
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #closedReason: string | undefined;
  #resolveClosed: (reason: string) => void = () => {};
  /** The id of the command that QEMU has but for its last brace. */
  #primedId: number | undefined;
  #greeted: ((greeting: Reply) => void) | undefined;

  private constructor(path: string, socket: Socket) {
    this.path = path;
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    socket.on("data", (chunk: Buffer) => {
      this.#take(chunk);
    });
    socket.on("error", (error) => {
      this.#end(error.message);
    });
    socket.on("close", () => {
      this.#end("QEMU closed the connection");
    });
  }

  /** Connects, waits for the greeting and negotiates; all of it within the time given. */
  static async connect(path: string, options: { readonly connectTimeoutMs?: number } = {}): Promise<QmpClient> {
    const connectTimeoutMs = options.connectTimeoutMs ?? 5_000;
    const client = new QmpClient(path, connectSocket({ path }));
    const timer = setTimeout(() => {
      // A monitor that somebody else holds accepts the connection and stays silent.
      client.#end(`no greeting within ${connectTimeoutMs} ms (is another client connected to it?)`);
    }, connectTimeoutMs);
    try {
      await client.#negotiate();
      return client;
    } catch (error) {
      client.#end("negotiation failed");
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  get version(): QmpVersion {
    return this.#version;
  }

  get isOpen(): boolean {
    return this.#closedReason === undefined;
  }

  /** Runs one command; `timeoutMs` 0 waits for as long as the monitor lives. */
  execute<Name extends QmpCommandName>(
    command: Name,
    args: QmpCommands[Name]["args"],
    options: { readonly timeoutMs?: number } = {},
  ): Promise<QmpCommands[Name]["returns"]> {
    return new Promise((resolve, reject) => {
      this.#send([{ command, args } as QmpRequest], options.timeoutMs ?? COMMAND_TIMEOUT_MS, [
        { resolve: resolve, reject },
      ]);
    });
  }

  /** Sends all of the command but its last byte, while there is time. See the head of this file. */
  prime<Name extends QmpCommandName>(
    command: Name,
    args: QmpCommands[Name]["args"],
  ): PrimedCommand<QmpCommands[Name]["returns"]> {
    this.#unprime();
    const id = this.#nextId++;
    if (this.#closedReason === undefined) {
      this.#primedId = id;
      this.#socket.write(`{"execute":"${command}","arguments":${JSON.stringify(args)},"id":${id}`);
    }
    return {
      fire: (options = {}) => {
        if (this.#primedId !== id || this.#closedReason !== undefined) {
          return this.execute(command, args, options);
        }
        this.#primedId = undefined;
        return new Promise((resolve, reject) => {
          const timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
          const settler = { resolve: resolve, reject };
          this.#expect(id, command, timeoutMs, settler);
          this.#socket.write("}\n");
        });
      },
    };
  }

  /**
   * Writes all commands at once; the outcomes come in the order of the commands. QEMU goes on with the rest after one
   * that failed: whoever must not have that sends them one by one.
   */
  batch(
    requests: readonly QmpRequest[],
    options: { readonly timeoutMs?: number } = {},
  ): Promise<readonly QmpOutcome[]> {
    const settlers: Pick<Pending, "resolve" | "reject">[] = [];
    const outcomes = requests.map(
      () =>
        new Promise<QmpOutcome>((resolve) => {
          settlers.push({
            resolve: (value) => {
              resolve({ tag: "done", value });
            },
            reject: (failure) => {
              resolve({ tag: "failed", failure });
            },
          });
        }),
    );
    this.#send(requests, options.timeoutMs ?? COMMAND_TIMEOUT_MS, settlers);
    return Promise.all(outcomes);
  }

  /**
   * Cuts connections of QEMU that hang, at once, even while its main loop waits for them. Goes out of band where QEMU
   * offers that, else it waits its turn like any command.
   */
  yank(
    instances: QmpCommands["yank"]["args"]["instances"],
    options: { readonly timeoutMs?: number } = {},
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#send(
        [{ command: "yank", args: { instances } }],
        options.timeoutMs ?? COMMAND_TIMEOUT_MS,
        [
          {
            resolve: () => {
              resolve();
            },
            reject,
          },
        ],
        this.#hasOutOfBand ? "exec-oob" : "execute",
      );
    });
  }

  /** Calls the listener with every event from now on; returns how to end that. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Whether this QEMU has the command; asked once, then remembered. */
  async hasCommand(name: string): Promise<boolean> {
    this.#commands ??= new Set((await this.execute("query-commands", {})).map((command) => command.name));
    return this.#commands.has(name);
  }

  /** Throws CommandMissing for the first of these that QEMU lacks. */
  async assertCommands(names: readonly QmpCommandName[]): Promise<void> {
    for (const name of names) {
      if (!(await this.hasCommand(name))) {
        throw QmpFailure.commandMissing(name);
      }
    }
  }

  close(): void {
    this.#end("closed by this side");
  }

  async #negotiate(): Promise<void> {
    const greeting = await new Promise<Reply>((resolve, reject) => {
      this.#greeted = resolve;
      void this.closed.then((reason) => {
        reject(QmpFailure.unreachable(this.path, reason));
      });
    });
    const version = greeting.QMP?.version?.qemu;
    if (version === undefined) {
      throw QmpFailure.malformed("the first line is not a QMP greeting");
    }
    this.#version = version;
    this.#hasOutOfBand = greeting.QMP?.capabilities?.includes("oob") === true;
    await this.execute("qmp_capabilities", this.#hasOutOfBand ? { enable: ["oob"] } : {}, { timeoutMs: 0 });
  }

  #send(
    requests: readonly QmpRequest[],
    timeoutMs: number,
    settlers: readonly Pick<Pending, "resolve" | "reject">[],
    verb: "execute" | "exec-oob" = "execute",
  ): void {
    this.#unprime();
    let text = "";
    requests.forEach((request, index) => {
      const settler = settlers[index];
      if (settler === undefined) {
        return;
      }
      if (this.#closedReason !== undefined) {
        settler.reject(QmpFailure.closed(request.command, this.#closedReason));
        return;
      }
      const id = this.#nextId++;
      this.#expect(id, request.command, timeoutMs, settler);
      text += `{"${verb}":"${request.command}","arguments":${JSON.stringify(request.args)},"id":${id}}\n`;
    });
    if (text !== "") {
      this.#socket.write(text);
    }
  }

  #expect(id: number, command: string, timeoutMs: number, settler: Pick<Pending, "resolve" | "reject">): void {
    const timer = timeoutMs === 0 ? undefined : this.#startTimer(id, command, timeoutMs);
    this.#pending.set(id, { command, resolve: settler.resolve, reject: settler.reject, timer });
  }

  /** Ends the primed command as one that QEMU refuses; its answer belongs to nobody and is dropped. */
  #unprime(): void {
    if (this.#primedId !== undefined && this.#closedReason === undefined) {
      this.#primedId = undefined;
      this.#socket.write(',"cancelled":true}\n');
    }
  }

  #startTimer(id: number, command: string, timeoutMs: number): NodeJS.Timeout {
    return setTimeout(() => {
      const pending = this.#pending.get(id);
      this.#pending.delete(id);
      pending?.reject(QmpFailure.timedOut(command, timeoutMs));
    }, timeoutMs);
  }

  #take(chunk: Buffer): void {
    let start = 0;
    while (this.#closedReason === undefined) {
      const end = chunk.indexOf(NEWLINE, start);
      if (end < 0) {
        break;
      }
      const line = this.#completeLine(chunk, start, end);
      start = end + 1;
      if (line.length > 1) {
        this.#takeLine(line);
      }
    }
    const restBytes = chunk.length - start;
    if (restBytes > 0 && this.#closedReason === undefined) {
      this.#partial.push(chunk.subarray(start));
      this.#partialBytes += restBytes;
      if (this.#partialBytes > LINE_BYTES_MAX) {
        this.#fail(QmpFailure.malformed(`a line of more than ${LINE_BYTES_MAX} bytes`));
      }
    }
  }

  #completeLine(chunk: Buffer, start: number, end: number): string {
    if (this.#partial.length === 0) {
      return chunk.toString("utf8", start, end);
    }
    this.#partial.push(chunk.subarray(start, end));
    const line = Buffer.concat(this.#partial).toString("utf8");
    this.#partial = [];
    this.#partialBytes = 0;
    return line;
  }

  #takeLine(line: string): void {
    let parsed: unknown;
    try {
      parsed = JSON.parse(line);
    } catch (error) {
      this.#fail(QmpFailure.malformed(`a line that is not JSON: ${line.slice(0, 80)}`, error));
      return;
    }
    if (typeof parsed !== "object" || parsed === null) {
      this.#fail(QmpFailure.malformed(`a line that is not an object: ${line.slice(0, 80)}`));
      return;
    }
    const reply = parsed as Reply;
    if (reply.event !== undefined) {
      this.#takeEvent(reply.event, reply);
    } else if (reply.id !== undefined) {
      this.#takeAnswer(reply.id, reply);
    } else if (this.#greeted !== undefined) {
      this.#greeted(reply);
      this.#greeted = undefined;
    } else {
      // QEMU answers without an id only when it could not read the request, so no promise would ever settle.
      this.#fail(QmpFailure.malformed(`an answer without id: ${line.slice(0, 200)}`));
    }
  }

  #takeEvent(event: string, reply: Reply): void {
    const { seconds = 0, microseconds = 0 } = reply.timestamp ?? {};
    const taken = { event, data: reply.data ?? {}, atMs: seconds * 1000 + microseconds / 1000 };
    for (const listener of this.#listeners) {
      listener(taken);
    }
  }

  #takeAnswer(id: number, reply: Reply): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      return; // It timed out before, or was primed and ended.
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (reply.error !== undefined) {
      const missing = reply.error.class === "CommandNotFound";
      pending.reject(
        missing
          ? QmpFailure.commandMissing(pending.command)
          : QmpFailure.rejected(pending.command, reply.error.class, reply.error.desc),
      );
      return;
    }
    pending.resolve(reply.return);
  }

  /** The stream cannot be followed any more: end it, and let the reason be seen. */
  #fail(failure: QmpFailure): void {
    this.#end(failure.message);
  }

  #end(reason: string): void {
    if (this.#closedReason !== undefined) {
      return;
    }
    this.#closedReason = reason;
    this.#socket.destroy();
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(QmpFailure.closed(pending.command, reason));
    }
    this.#pending.clear();
    this.#listeners.clear();
    this.#resolveClosed(reason);
  }
}

/**
 * Connects as soon as QEMU listens: tries every few milliseconds until the time is up or `signal` fires. For a QEMU that
 * was just started, and for an engine that finds the monitor held by its predecessor, which the kernel is still closing.
 */
export async function connectWithRetry(
  path: string,
  options: { readonly withinMs: number; readonly signal?: AbortSignal },
): Promise<QmpClient> {
  const deadlineMs = performance.now() + options.withinMs;
  for (let waitMs = 5; ; waitMs = Math.min(waitMs * 1.5, 250)) {
    const leftMs = deadlineMs - performance.now();
    try {
      return await QmpClient.connect(path, { connectTimeoutMs: Math.max(leftMs, 1) });
    } catch (error) {
      if (leftMs <= waitMs || options.signal?.aborted === true) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  }
}
