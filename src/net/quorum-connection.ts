/**
 * A node's way to the quorum: one warm, authenticated connection to the first endpoint that answers, so that a question costs
 * one round trip and one write to the store's disk, and no handshake when it matters.
 *
 * What an outcome means, and this is what the split-brain rule rests on:
 * - `granted`, `refused`: the quorum's word.
 * - `unreachable`: the request was certainly not carried out and never will be.
 * - `unknown`: it may have been carried out, or still may be; read, or ask again with the same requestId.
 *
 * Within its time a request is repeated over a new connection or another endpoint when its answer is lost; the requestId
 * makes that harmless. Endpoints are several replicas of one quorum on one store, in order of preference: the next one is
 * tried as well when one has not answered for a quarter of a second. A health question every two seconds finds out
 * that a connection is dead before it is needed, and whether the quorum's store answers; both are `reachable`.
 */
import type { Endpoint } from "../protocol/assignment.ts";
import type { QuorumDecision, QuorumRecord, QuorumRequest } from "../protocol/quorum-record.ts";
import { Failure } from "../lib/failure.ts";
import { FrameConnection } from "./frame-connection.ts";
import { parseNetFailure, type NetFailure } from "./net-failure.ts";
import {
  encodeQuorumMessage,
  parseAnswerMessage,
  QUORUM_WIRE_VERSION,
  QuorumMessageDecoder,
  QuorumWireFailure,
  type NotDoneCode,
  type QuorumAnswer,
  type QuorumCall,
} from "./quorum-wire.ts";
import { connectSecurely, type SecureSocket } from "./secure-connect.ts";
import type { TlsCredentials } from "./tls.ts";

export type QuorumOutcome =
  | QuorumDecision
  | { readonly tag: "unreachable"; readonly failure: QuorumFailure }
  | { readonly tag: "unknown"; readonly why: string };

export type QuorumReading =
  | { readonly tag: "read"; readonly record: QuorumRecord | undefined }
  | { readonly tag: "unreachable"; readonly failure: QuorumFailure };

export type QuorumFailureDetail =
  | { readonly code: "QuorumUnreachable"; readonly endpoints: readonly string[] }
  | { readonly code: NotDoneCode }
  | { readonly code: "QuorumClosed" };
export class QuorumFailure extends Failure<QuorumFailureDetail> {}

export type QuorumTiming = {
  /** For a question as a whole. */
  readonly askTimeoutMs: number;
  /** For one answer over one connection; then the connection counts as dead. */
  readonly answerTimeoutMs: number;
  readonly connectTimeoutMs: number;
  /** The next endpoint is tried too when the one before has not answered for so long. */
  readonly staggerMs: number;
  readonly healthEveryMs: number;
};

export const QUORUM_TIMING: QuorumTiming = {
  askTimeoutMs: 2_000,
  answerTimeoutMs: 1_000,
  connectTimeoutMs: 1_000,
  staggerMs: 250,
  healthEveryMs: 2_000,
};

export type QuorumConnectionOptions = {
  readonly endpoints: readonly Endpoint[];
  readonly credentials: TlsCredentials;
  readonly timing?: Partial<QuorumTiming> | undefined;
  /** Called on every change of {@link QuorumConnection.reachable}, with the reason when it is lost. */
  readonly onReachable?: ((reachable: boolean, failure: QuorumFailure | undefined) => void) | undefined;
};

type Reply = { readonly tag: "answered"; readonly answer: QuorumAnswer } | { readonly tag: "lost" };
type CallEnd = {
  readonly answer?: Exclude<QuorumAnswer, { readonly tag: "notDone" }>;
  readonly mayBeDone: boolean;
  /** Why there is no answer. */
  readonly failure: QuorumFailure;
};
type Live = {
  readonly connection: FrameConnection<unknown>;
  readonly index: number;
  readonly calls: Map<number, (reply: Reply) => void>;
};

const PAUSE_FIRST_MS = 50;
const PAUSE_LAST_MS = 1_000;

export class QuorumConnection {
  readonly #options: QuorumConnectionOptions;
  readonly #timing: QuorumTiming;
  readonly #stop = new AbortController();
  readonly #health: NodeJS.Timeout;
  #live: Live | undefined;
  /** The endpoint to begin with at the next connecting. */
  #first = 0;
  #failure: QuorumFailure | undefined;
  #reachable = false;
  #nextId = 1;
  #waiting: (() => void)[] = [];

  constructor(options: QuorumConnectionOptions) {
    this.#options = options;
    this.#timing = { ...QUORUM_TIMING, ...options.timing };
    this.#health = setInterval(() => void this.#watchHealth(), this.#timing.healthEveryMs);
    void this.#keep();
  }

  /** Whether the last connection and health question went well. */
  get reachable(): boolean {
    return this.#reachable;
  }

  async ask(request: QuorumRequest): Promise<QuorumOutcome> {
    const { answer, mayBeDone, failure } = await this.#call({ tag: "change", request });
    if (answer?.tag === "granted") {
      return answer;
    }
    if (answer?.tag === "refused") {
      return { tag: "refused", reason: answer.reason, record: answer.record };
    }
    if (answer?.tag === "unknown") {
      return { tag: "unknown", why: answer.why };
    }
    if (mayBeDone) {
      return { tag: "unknown", why: "the answer was lost" };
    }
    return { tag: "unreachable", failure };
  }

  async read(guest: string): Promise<QuorumReading> {
    const { answer, failure } = await this.#call({ tag: "read", guest });
    return answer?.tag === "record" ? { tag: "read", record: answer.record } : { tag: "unreachable", failure };
  }

  /** Questions under way end as unknown or unreachable. */
  close(): void {
    clearInterval(this.#health);
    this.#stop.abort();
    this.#live?.connection.destroy();
    this.#wake();
  }

  /** Asks until there is an answer other than `notDone`, or the time is up. */
  async #call(call: QuorumCall): Promise<CallEnd> {
    const deadlineMs = performance.now() + this.#timing.askTimeoutMs;
    let mayBeDone = false;
    let failure: QuorumFailure | undefined;
    for (;;) {
      const live = await this.#connected(deadlineMs);
      if (live === undefined) {
        return { mayBeDone, failure: failure ?? this.#unreachable() };
      }
      const reply = await this.#exchange(live, call, deadlineMs);
      if (reply.tag === "lost") {
        mayBeDone = true;
        this.#drop(live);
        continue;
      }
      if (reply.answer.tag !== "notDone") {
        return { answer: reply.answer, mayBeDone, failure: this.#unreachable() };
      }
      const { code, why } = reply.answer;
      failure = new QuorumFailure({ code }, `the quorum did not carry it out: ${why}`);
      if (this.#options.endpoints.length === 1 || !isOfOneReplica(code)) {
        return { mayBeDone, failure };
      }
      this.#drop(live);
    }
  }

  /** One message out and its answer in; lost when the connection ends or the time is up. */
  #exchange(live: Live, call: QuorumCall, deadlineMs: number): Promise<Reply> {
    return new Promise((resolve) => {
      const id = this.#nextId;
      this.#nextId += 1;
      const settle = (reply: Reply): void => {
        clearTimeout(timer);
        live.calls.delete(id);
        resolve(reply);
      };
      const leftMs = Math.max(1, Math.min(this.#timing.answerTimeoutMs, deadlineMs - performance.now()));
      const timer = setTimeout(() => {
        settle({ tag: "lost" });
      }, leftMs);
      live.calls.set(id, settle);
      live.connection.send([encodeQuorumMessage({ version: QUORUM_WIRE_VERSION, id, call })]);
    });
  }

  /** The live connection, or undefined when there is none until the deadline. */
  async #connected(deadlineMs: number): Promise<Live | undefined> {
    while (this.#live === undefined && !this.#stop.signal.aborted) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) {
        return undefined;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    return this.#stop.signal.aborted || performance.now() >= deadlineMs ? undefined : this.#live;
  }

  async #keep(): Promise<void> {
    let pauseMs = PAUSE_FIRST_MS;
    while (!this.#stop.signal.aborted) {
      const startedMs = performance.now();
      try {
        await this.#carry(await this.#connect());
      } catch (error) {
        this.#failure = this.#unreachable(error);
        this.#setReachable(false);
      }
      pauseMs =
        performance.now() - startedMs > PAUSE_LAST_MS * 2 ? PAUSE_FIRST_MS : Math.min(pauseMs * 2, PAUSE_LAST_MS);
      await sleep(this.#options.endpoints.length > 1 ? PAUSE_FIRST_MS : pauseMs, this.#stop.signal);
    }
  }

  /** The first endpoint to answer, each given a head start over the next. */
  async #connect(): Promise<SecureSocket & { readonly index: number }> {
    const { endpoints } = this.#options;
    const won = new AbortController();
    const signal = AbortSignal.any([won.signal, this.#stop.signal]);
    const first = this.#first;
    let winner: number | undefined;
    const attempts = endpoints.map(async (_, turn) => {
      const index = (first + turn) % endpoints.length;
      await sleep(turn * this.#timing.staggerMs, signal);
      const opened = await this.#connectTo(index, signal);
      winner ??= index;
      if (winner !== index) {
        opened.socket.destroy();
      }
      won.abort();
      return { ...opened, index };
    });
    return await Promise.any(attempts);
  }

  #connectTo(index: number, signal: AbortSignal): Promise<SecureSocket> {
    const target = this.#options.endpoints[index];
    if (target === undefined || signal.aborted) {
      return Promise.reject(new Error("not needed"));
    }
    const { credentials } = this.#options;
    const timeoutMs = this.#timing.connectTimeoutMs;
    return connectSecurely({ target, credentials, expected: { service: "quorum" }, timeoutMs, signal });
  }

  /**
   * Resolves when the connection has ended. It is live only after an answer: in TLS 1.3 a client is connected before the
   * server has judged its certificate, and a request sent into that gap would end as unknown where it is unreachable.
   */
  async #carry({ socket, peer, index }: SecureSocket & { readonly index: number }): Promise<void> {
    const connection = new FrameConnection({ socket, peer, decoder: new QuorumMessageDecoder() });
    const live: Live = { connection, index, calls: new Map() };
    connection.onFrame = (message) => {
      takeAnswer(live, message);
    };
    const ended = new Promise<void>((resolve) => {
      connection.onClosed = (reason) => {
        this.#failure = this.#unreachable(reason.tag === "failed" ? reason.failure : undefined);
        this.#drop(live);
        resolve();
      };
    });
    if (await this.#askHealth(live)) {
      this.#live = live;
      this.#setReachable(this.#failure === undefined);
      this.#wake();
    }
    await ended;
  }

  /** Ends a connection that is of no use; the next one begins with the next endpoint. */
  #drop(live: Live): void {
    if (!live.connection.isClosed || this.#live === live) {
      this.#first = (live.index + 1) % this.#options.endpoints.length;
    }
    if (this.#live === live) {
      this.#live = undefined;
    }
    if (this.#live === undefined) {
      this.#setReachable(false);
    }
    live.connection.destroy();
    for (const settle of [...live.calls.values()]) {
      settle({ tag: "lost" });
    }
  }

  /** False when the connection is of no use and was ended. */
  async #askHealth(live: Live): Promise<boolean> {
    const reply = await this.#exchange(live, { tag: "health" }, Number.POSITIVE_INFINITY);
    if (reply.tag === "lost") {
      this.#failure ??= this.#unreachable(new Error("no answer to the health question"));
      this.#drop(live);
      return false;
    }
    const { answer } = reply;
    const storeAnswers = answer.tag === "health" && answer.storeAnswers;
    this.#failure = storeAnswers ? undefined : notHealthy(answer);
    if (!storeAnswers && this.#options.endpoints.length > 1) {
      this.#drop(live);
      return false;
    }
    return true;
  }

  async #watchHealth(): Promise<void> {
    const live = this.#live;
    if (live !== undefined && (await this.#askHealth(live)) && this.#live === live) {
      this.#setReachable(this.#failure === undefined);
    }
  }

  #setReachable(reachable: boolean): void {
    if (reachable !== this.#reachable && !this.#stop.signal.aborted) {
      this.#reachable = reachable;
      this.#options.onReachable?.(reachable, reachable ? undefined : this.#unreachable());
    }
  }

  #unreachable(cause?: unknown): QuorumFailure {
    if (this.#stop.signal.aborted) {
      return new QuorumFailure({ code: "QuorumClosed" }, "the connection to the quorum was closed by this process");
    }
    if (cause === undefined && this.#failure !== undefined) {
      return this.#failure;
    }
    const endpoints = this.#options.endpoints.map(({ host, port }) => `${host} port ${port}`);
    const failures = causesOf(cause, this.#options.endpoints);
    const why = failures.length === 0 ? "" : ` (${failures.map((failure) => failure.message).join("; ")})`;
    return new QuorumFailure(
      { code: "QuorumUnreachable", endpoints },
      `no quorum answers at ${endpoints.join(", ")}${why}: check the quorum service and the way to it`,
      { cause },
    );
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) {
      resolve();
    }
  }
}

/** Another replica may do better. */
function isOfOneReplica(code: NotDoneCode): boolean {
  return code === "StoreUnavailable" || code === "Stopping" || code === "PeerVersionMismatch";
}

function takeAnswer(live: Live, message: unknown): void {
  try {
    const { id, answer } = parseAnswerMessage(message);
    live.calls.get(id)?.({ tag: "answered", answer });
  } catch (error) {
    if (!(error instanceof QuorumWireFailure)) {
      throw error;
    }
    live.connection.destroy(parseNetFailure(error, live.connection.remote));
  }
}

function notHealthy(answer: QuorumAnswer): QuorumFailure {
  if (answer.tag === "notDone") {
    return new QuorumFailure({ code: answer.code }, `the quorum refuses to serve us: ${answer.why}`);
  }
  return new QuorumFailure(
    { code: "StoreUnavailable" },
    "the quorum answers but its store does not: check its etcd, or its disk",
  );
}

function causesOf(cause: unknown, endpoints: readonly Endpoint[]): readonly NetFailure[] {
  const [first] = endpoints;
  if (cause === undefined || first === undefined) {
    return [];
  }
  const errors = cause instanceof AggregateError ? (cause.errors as readonly unknown[]) : [cause];
  return errors.map((error) => parseNetFailure(error, first));
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    if (signal.aborted) {
      end();
    } else {
      signal.addEventListener("abort", end);
    }
  });
}
