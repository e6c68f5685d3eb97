/**
 * The quorum on the network: who may ask, how much, how fast, and what the log says of it.
 *
 * Limits, so that one node gone wild cannot keep the others from failing over: per connection 16 calls in flight and
 * 100 calls a second (bursts of 200), beyond which we simply stop reading from it; 16 KiB a message; connections per node
 * and in total as in net/secure-listener.ts; a connection silent for a minute is closed, since clients ask for the
 * health every few seconds.
 */
import { FrameConnection } from "../net/frame-connection.ts";
import type { NetFailure } from "../net/net-failure.ts";
import { encodePeerUri } from "../net/peer-identity.ts";
import {
  encodeQuorumMessage,
  parseCallMessage,
  QUORUM_WIRE_VERSION,
  QuorumMessageDecoder,
  QuorumWireFailure,
  type CallMessage,
  type QuorumAnswer,
} from "../net/quorum-wire.ts";
import { SecureListener, type ListenLimits } from "../net/secure-listener.ts";
import type { TlsCredentials } from "../net/tls.ts";
import type { Log } from "../telemetry/log.ts";
import { QuorumService } from "./quorum-service.ts";
import type { RecordStore } from "./record-store.ts";

export type QuorumServerOptions = {
  readonly hosts: readonly string[];
  readonly port: number;
  readonly credentials: TlsCredentials;
  readonly store: RecordStore;
  readonly log: Log;
  readonly limits?: Partial<ListenLimits> | undefined;
  readonly silenceMs?: number | undefined;
};

const IN_FLIGHT_MAX = 16;
const CALLS_PER_SECOND = 100;
const CALLS_BURST = 200;
const ANSWER_BACKLOG_BYTES_MAX = 1024 * 1024;
const SILENCE_MS = 60_000;
const STOP_GRACE_MS = 3_000;
const PROBLEMS_PER_CODE_MAX = 10;
const PROBLEM_WINDOW_MS = 10_000;

export class QuorumServer {
  readonly #listener: SecureListener;
  readonly #callers: Set<Caller>;
  readonly #service: QuorumService;

  private constructor(listener: SecureListener, callers: Set<Caller>, service: QuorumService) {
    this.#listener = listener;
    this.#callers = callers;
    this.#service = service;
  }

  static async open(options: QuorumServerOptions): Promise<QuorumServer> {
    const { log, silenceMs = SILENCE_MS } = options;
    const service = new QuorumService(options.store);
    const callers = new Set<Caller>();
    const problems = new ProblemLog(log);
    const listener = await SecureListener.open({
      ...options,
      expected: { service: "node" },
      // It may look, and remove what is of no guest any more; what else it asks to change is refused, as it is no node.
      alsoServices: ["operator"],
      onSocket: (socket, peer) => {
        const decoder = new QuorumMessageDecoder();
        const connection = new FrameConnection({ socket, peer, decoder, backlogBytesMax: ANSWER_BACKLOG_BYTES_MAX });
        const caller = new Caller(connection, service, log, silenceMs);
        callers.add(caller);
        connection.onClosed = (reason) => {
          callers.delete(caller);
          caller.stop();
          if (reason.tag === "failed" && reason.failure.detail.code !== "ConnectionLost") {
            problems.write(reason.failure, { peer: encodePeerUri(peer) });
          }
        };
      },
      onProblem: (failure, remote) => {
        problems.write(failure, { remote });
      },
    });
    log.info({ hosts: listener.hosts, port: listener.port }, "quorum listens");
    return new QuorumServer(listener, callers, service);
  }

  get port(): number {
    return this.#listener.port;
  }

  isStoreHealthy(): Promise<boolean> {
    return this.#service.isStoreHealthy();
  }

  /** Answers what was asked, refuses what comes, then ends every connection. */
  async close(): Promise<void> {
    const endMs = performance.now() + STOP_GRACE_MS;
    for (const caller of this.#callers) {
      caller.refuseFurther();
    }
    while ([...this.#callers].some((caller) => caller.isBusy) && performance.now() < endMs) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    for (const caller of this.#callers) {
      caller.end();
    }
    while (this.#callers.size > 0 && performance.now() < endMs) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await this.#listener.close();
  }
}

/** One node's connection. */
class Caller {
  readonly #connection: FrameConnection<unknown>;
  readonly #service: QuorumService;
  readonly #log: Log;
  readonly #silence: NodeJS.Timeout;
  readonly #waiting: CallMessage[] = [];
  #inFlight = 0;
  #tokens = CALLS_BURST;
  #tokensAtMs = performance.now();
  #refill: NodeJS.Timeout | undefined;
  #isStopping = false;

  constructor(connection: FrameConnection<unknown>, service: QuorumService, log: Log, silenceMs: number) {
    this.#connection = connection;
    this.#service = service;
    this.#log = log.child({ peer: connection.peer.name });
    this.#silence = setTimeout(() => {
      connection.close();
    }, silenceMs);
    connection.onFrame = (message) => {
      this.#silence.refresh();
      this.#accept(message);
    };
  }

  get isBusy(): boolean {
    return this.#inFlight > 0;
  }

  refuseFurther(): void {
    this.#isStopping = true;
  }

  end(): void {
    this.#connection.close();
  }

  stop(): void {
    clearTimeout(this.#silence);
    clearTimeout(this.#refill);
    this.#waiting.length = 0;
  }

  #accept(message: unknown): void {
    try {
      this.#waiting.push(parseCallMessage(message));
    } catch (error) {
      if (!(error instanceof QuorumWireFailure)) {
        throw error;
      }
      // The id may be wrong too, so this connection cannot go on.
      this.#log.warn({ error }, "bad message");
      this.#send(0, { tag: "notDone", code: "BadRequest", why: error.message });
      this.#connection.close();
      return;
    }
    this.#start();
  }

  #start(): void {
    while (this.#waiting.length > 0 && this.#inFlight < IN_FLIGHT_MAX && this.#takeToken()) {
      const message = this.#waiting.shift();
      if (message !== undefined) {
        void this.#answer(message);
      }
    }
    if (this.#waiting.length > 0) {
      this.#connection.pause();
    } else {
      this.#connection.resume();
    }
  }

  #takeToken(): boolean {
    const nowMs = performance.now();
    this.#tokens = Math.min(CALLS_BURST, this.#tokens + ((nowMs - this.#tokensAtMs) * CALLS_PER_SECOND) / 1000);
    this.#tokensAtMs = nowMs;
    if (this.#tokens >= 1) {
      this.#tokens -= 1;
      return true;
    }
    this.#refill ??= setTimeout(() => {
      this.#refill = undefined;
      this.#start();
    }, 1000 / CALLS_PER_SECOND);
    return false;
  }

  /** An error that is no StoreFailure is a bug: it is not caught, and the process ends. */
  async #answer(message: CallMessage): Promise<void> {
    const startedMs = performance.now();
    this.#inFlight += 1;
    const answer: QuorumAnswer = this.#isStopping
      ? { tag: "notDone", code: "Stopping", why: "this quorum process is stopping: ask another or again" }
      : await this.#service.answer(this.#connection.peer, message);
    this.#inFlight -= 1;
    this.#send(message.id, answer);
    this.#report(message, answer, performance.now() - startedMs);
    if (!this.#connection.isClosed) {
      this.#start();
    }
  }

  #send(id: number, answer: QuorumAnswer): void {
    this.#connection.send([encodeQuorumMessage({ version: QUORUM_WIRE_VERSION, id, answer })]);
  }

  #report({ call }: CallMessage, answer: QuorumAnswer, tookMs: number): void {
    const fields = { call: call.tag, answer, tookMs: Math.round(tookMs * 100) / 100 };
    if (answer.tag === "notDone" || answer.tag === "unknown") {
      this.#log.warn({ ...fields, ...(call.tag === "change" ? call : {}) }, "call could not be carried out");
    } else if (call.tag === "change") {
      const { guest, by, change, requestId, expectedVersion } = call.request;
      this.#log.info({ ...fields, guest, by, change, requestId, expectedVersion }, `${change.tag} ${answer.tag}`);
    } else {
      this.#log.debug(fields, "answered");
    }
  }
}

/** Strangers must not be able to fill the disk with our log. */
class ProblemLog {
  readonly #log: Log;
  #counts = new Map<string, number>();
  #windowEndsMs = 0;

  constructor(log: Log) {
    this.#log = log;
  }

  write(failure: NetFailure, fields: object): void {
    const nowMs = performance.now();
    if (nowMs >= this.#windowEndsMs) {
      const suppressed = [...this.#counts].filter(([, count]) => count > PROBLEMS_PER_CODE_MAX);
      if (suppressed.length > 0) {
        this.#log.warn({ counts: Object.fromEntries(suppressed) }, "problems of these kinds were not all logged");
      }
      this.#counts = new Map();
      this.#windowEndsMs = nowMs + PROBLEM_WINDOW_MS;
    }
    const { code } = failure.detail;
    const count = (this.#counts.get(code) ?? 0) + 1;
    this.#counts.set(code, count);
    if (count <= PROBLEMS_PER_CODE_MAX) {
      this.#log.warn({ ...fields, detail: failure.detail }, failure.message);
    }
  }
}
