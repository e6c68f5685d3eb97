/**
 * The warm connection to one quorum endpoint: dialled until closed, asked for its health every few seconds.
 *
 * It is up only after a first answer. In TLS 1.3 a client is connected before the server has judged its certificate, and a
 * request sent into that gap would end as "may have been carried out" where it certainly was not. An answer that
 * does not come in time ends the connection: it is dead, or as good as dead.
 */
import { Failure } from "../lib/failure.ts";
import type { Endpoint } from "../protocol/assignment.ts";
import { FrameConnection } from "./frame-connection.ts";
import { NetFailure, parseNetFailure } from "./net-failure.ts";
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
import { sleep } from "../telemetry/sleep.ts";

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
  /** After so long without an answer the next endpoint is asked as well. */
  readonly hedgeMs: number;
  readonly healthEveryMs: number;
};

export type QuorumReply =
  | { readonly tag: "answered"; readonly answer: QuorumAnswer }
  /** Sent, and then the connection ended or the time was up. */
  | { readonly tag: "lost" }
  | { readonly tag: "notSent" };

export type QuorumLinkOptions = {
  readonly endpoint: Endpoint;
  readonly credentials: TlsCredentials;
  readonly timing: QuorumTiming;
  /** `isUp`, `isHealthy` or `failure` changed. */
  readonly onChanged: () => void;
};

type Asked = { readonly atMs: number; readonly settle: (reply: QuorumReply) => void };

const PAUSE_FIRST_MS = 50;
const PAUSE_LAST_MS = 1_000;
const SETTLED_AFTER_MS = 2_000;

export class QuorumLink {
  readonly #options: QuorumLinkOptions;
  readonly #stop = new AbortController();
  readonly #calls = new Map<number, Asked>();
  readonly #health: NodeJS.Timeout;
  #connection: FrameConnection<unknown> | undefined;
  #isUp = false;
  #isHealthy = false;
  #failure: QuorumFailure | NetFailure | undefined;
  #latencyMs: number | undefined;
  #nextId = 1;

  constructor(options: QuorumLinkOptions) {
    this.#options = options;
    this.#health = setInterval(() => void this.#askHealth(), options.timing.healthEveryMs);
    void this.#keep();
  }

  get endpoint(): Endpoint {
    return this.#options.endpoint;
  }

  /** Questions can be sent. */
  get isUp(): boolean {
    return this.#isUp;
  }

  /** Up, and its store answers. */
  get isHealthy(): boolean {
    return this.#isHealthy;
  }

  /** Something was asked longer ago than an answer should take: ask another one first. */
  get isLate(): boolean {
    const [oldest] = this.#calls.values();
    return oldest !== undefined && performance.now() - oldest.atMs >= this.#options.timing.hedgeMs;
  }

  /** Why it is not healthy, once that is known. */
  get failure(): QuorumFailure | NetFailure | undefined {
    return this.#failure;
  }

  /** How long the last question for its health took, through to its store. */
  get latencyMs(): number | undefined {
    return this.#isHealthy ? this.#latencyMs : undefined;
  }

  call(call: QuorumCall, timeoutMs: number): Promise<QuorumReply> {
    return this.#isUp ? this.#exchange(call, timeoutMs) : Promise.resolve({ tag: "notSent" });
  }

  /** Ends what is under way as lost. */
  close(): void {
    clearInterval(this.#health);
    this.#stop.abort();
    this.#connection?.destroy();
    this.#end();
  }

  #exchange(call: QuorumCall, timeoutMs: number): Promise<QuorumReply> {
    const connection = this.#connection;
    if (connection === undefined) {
      return Promise.resolve({ tag: "notSent" });
    }
    return new Promise((resolve) => {
      const id = this.#nextId;
      this.#nextId += 1;
      const timer = setTimeout(() => {
        settle({ tag: "lost" });
        if (timeoutMs >= this.#options.timing.answerTimeoutMs) {
          connection.destroy(silent(this.endpoint, timeoutMs));
        }
      }, timeoutMs);
      const settle = (reply: QuorumReply): void => {
        clearTimeout(timer);
        this.#calls.delete(id);
        resolve(reply);
      };
      this.#calls.set(id, { atMs: performance.now(), settle });
      connection.send([encodeQuorumMessage({ version: QUORUM_WIRE_VERSION, id, call })]);
    });
  }

  async #keep(): Promise<void> {
    let pauseMs = PAUSE_FIRST_MS;
    while (!this.#stop.signal.aborted) {
      const startedMs = performance.now();
      try {
        await this.#carry(await this.#connect());
      } catch (error) {
        this.#change(false, false, parseNetFailure(error, this.endpoint));
      }
      const hadSettled = performance.now() - startedMs > SETTLED_AFTER_MS;
      pauseMs = hadSettled ? PAUSE_FIRST_MS : Math.min(pauseMs * 2, PAUSE_LAST_MS);
      await sleep(pauseMs, this.#stop.signal);
    }
  }

  #connect(): Promise<SecureSocket> {
    const { endpoint, credentials, timing } = this.#options;
    const timeoutMs = timing.connectTimeoutMs;
    const expected = { service: "quorum" } as const;
    return connectSecurely({ target: endpoint, credentials, expected, timeoutMs, signal: this.#stop.signal });
  }

  /** Resolves when the connection has ended. */
  async #carry({ socket, peer }: SecureSocket): Promise<void> {
    const connection = new FrameConnection({ socket, peer, decoder: new QuorumMessageDecoder() });
    this.#connection = connection;
    connection.onFrame = (message) => {
      this.#takeAnswer(connection, message);
    };
    const ended = new Promise<void>((resolve) => {
      connection.onClosed = (reason) => {
        const gone = new NetFailure({ code: "ConnectionLost", reason: "closed" }, "the quorum closed the connection");
        this.#end(reason.tag === "failed" ? reason.failure : gone);
        resolve();
      };
    });
    await this.#askHealth();
    await ended;
  }

  /** Sets the link up at its first answer. */
  async #askHealth(): Promise<void> {
    const connection = this.#connection;
    const askedMs = performance.now();
    const reply = await this.#exchange({ tag: "health" }, this.#options.timing.answerTimeoutMs);
    if (reply.tag === "answered" && connection === this.#connection) {
      this.#latencyMs = performance.now() - askedMs;
      const storeAnswers = reply.answer.tag === "health" && reply.answer.storeAnswers;
      this.#change(true, storeAnswers, storeAnswers ? undefined : notHealthy(reply.answer));
    }
  }

  #takeAnswer(connection: FrameConnection<unknown>, message: unknown): void {
    try {
      const { id, answer } = parseAnswerMessage(message);
      this.#calls.get(id)?.settle({ tag: "answered", answer });
    } catch (error) {
      if (!(error instanceof QuorumWireFailure)) {
        throw error;
      }
      connection.destroy(parseNetFailure(error, this.endpoint));
    }
  }

  #end(failure?: NetFailure): void {
    this.#connection = undefined;
    for (const { settle } of [...this.#calls.values()]) {
      settle({ tag: "lost" });
    }
    this.#change(false, false, failure);
  }

  #change(isUp: boolean, isHealthy: boolean, failure: QuorumFailure | NetFailure | undefined): void {
    this.#isUp = isUp;
    this.#isHealthy = isHealthy;
    this.#failure = failure;
    if (!this.#stop.signal.aborted) {
      this.#options.onChanged();
    }
  }
}

function silent({ host, port }: Endpoint, afterMs: number): NetFailure {
  return new NetFailure(
    { code: "ConnectTimedOut", host, port, afterMs },
    `the quorum at ${host} port ${port} has not answered for ${afterMs} ms: check whether it is overloaded or its host is gone`,
  );
}

function notHealthy(answer: QuorumAnswer): QuorumFailure {
  if (answer.tag === "notDone") {
    return new QuorumFailure({ code: answer.code }, `the quorum refuses to serve us: ${answer.why}`);
  }
  const says = "the quorum answers but its store does not: check its etcd, or its disk";
  return new QuorumFailure({ code: "StoreUnavailable" }, says);
}
