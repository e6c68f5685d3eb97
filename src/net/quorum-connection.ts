/**
 * A node's way to the quorum: a warm, authenticated connection to every endpoint, so that a question costs one round
 * trip and one write to the store's disk, and no handshake when it matters.
 *
 * What an outcome means, and this is what the split-brain rule rests on:
 * - `granted`, `refused`: the quorum's word.
 * - `unreachable`: the request was certainly not carried out and never will be.
 * - `unknown`: it may have been carried out, or still may be; read, or ask again with the same requestId.
 *
 * Endpoints are several replicas of one quorum on one store, in order of preference. The first healthy one is asked; when
 * it has not answered after `hedgeMs`, or its answer got lost, the next one is asked the same: when a host dies, the
 * replica on it dies too, and a takeover must not wait for the discovery of that. One that owes an answer for longer than
 * that is not asked first. The requestId makes it harmless that
 * two replicas carry out one request: the second finds it done. A request whose answers were all lost is repeated
 * until the time is up.
 */
import type { Endpoint } from "../protocol/assignment.ts";
import type { QuorumDecision, QuorumRecord, QuorumRequest } from "../protocol/quorum-record.ts";
import { QuorumFailure, QuorumLink, type QuorumTiming } from "./quorum-link.ts";
import { QuorumRound, type DefiniteAnswer, type RoundEnd } from "./quorum-round.ts";
import type { QuorumCall } from "./quorum-wire.ts";
import type { TlsCredentials } from "./tls.ts";

export type QuorumOutcome =
  | QuorumDecision
  | { readonly tag: "unreachable"; readonly failure: QuorumFailure }
  | { readonly tag: "unknown"; readonly why: string };

export type QuorumReading =
  | { readonly tag: "read"; readonly record: QuorumRecord | undefined }
  | { readonly tag: "unreachable"; readonly failure: QuorumFailure };

export type QuorumConnectionOptions = {
  readonly endpoints: readonly Endpoint[];
  readonly credentials: TlsCredentials;
  readonly timing?: Partial<QuorumTiming> | undefined;
  /** Called on every change of {@link QuorumConnection.reachable}, with the reason when it is lost. */
  readonly onReachable?: ((reachable: boolean, failure: QuorumFailure | undefined) => void) | undefined;
};

export const QUORUM_TIMING: QuorumTiming = {
  askTimeoutMs: 2_000,
  answerTimeoutMs: 1_000,
  connectTimeoutMs: 1_000,
  hedgeMs: 20,
  healthEveryMs: 2_000,
};

type CallEnd = {
  readonly answer: DefiniteAnswer | undefined;
  readonly mayBeDone: boolean;
  /** Why there is no answer. */
  readonly failure: QuorumFailure;
};

/** How long a question waits for a connection where every endpoint is known to be down. */
const WAIT_FOR_LINK_MS = 300;
const RETRY_PAUSE_MS = 30;
export class QuorumConnection {
  readonly #options: QuorumConnectionOptions;
  readonly #timing: QuorumTiming;
  #links: readonly QuorumLink[] = [];
  #reachable = false;
  #isClosed = false;
  #waiting: (() => void)[] = [];

  constructor(options: QuorumConnectionOptions) {
    this.#options = options;
    this.#timing = { ...QUORUM_TIMING, ...options.timing };
    this.setEndpoints(options.endpoints);
  }

  /**
   * Other endpoints of the same quorum from now on. Connections to those that stay are kept, in the new order; questions that
   * are under way at one that goes end as those of a lost connection: they are asked elsewhere.
   */
  setEndpoints(endpoints: readonly Endpoint[]): void {
    if (this.#isClosed) {
      return;
    }
    const before = this.#links;
    this.#links = endpoints.map(
      (endpoint) => before.find((link) => isSame(link.endpoint, endpoint)) ?? this.#openLink(endpoint),
    );
    for (const link of before.filter((each) => !this.#links.includes(each))) {
      link.close();
    }
    this.#afterChange();
  }

  /** Whether there is a warm connection to a quorum whose store answers. */
  get reachable(): boolean {
    return this.#reachable;
  }

  /** Why it is not reachable, for a person. */
  get problem(): string | undefined {
    return this.#reachable ? undefined : this.#unreachable().message;
  }

  /** Of the quickest replica; undefined while none is healthy. */
  get latencyMs(): number | undefined {
    const known = this.#links.flatMap(({ latencyMs }) => (latencyMs === undefined ? [] : [latencyMs]));
    return known.length === 0 ? undefined : Math.min(...known);
  }

  async ask(request: QuorumRequest): Promise<QuorumOutcome> {
    const { answer, mayBeDone, failure } = await this.#call({ tag: "change", request });
    if (answer?.tag === "granted") {
      return answer;
    }
    if (answer?.tag === "refused") {
      return { tag: "refused", reason: answer.reason, record: answer.record };
    }
    return mayBeDone ? { tag: "unknown", why: failure.message } : { tag: "unreachable", failure };
  }

  async read(guest: string): Promise<QuorumReading> {
    const { answer, failure } = await this.#call({ tag: "read", guest });
    return answer?.tag === "record" ? { tag: "read", record: answer.record } : { tag: "unreachable", failure };
  }

  /** Of a guest that is gone; may be repeated. Throws a {@link QuorumFailure} when it is not certain that it is removed. */
  async remove(guest: string): Promise<void> {
    const { answer, failure } = await this.#call({ tag: "remove", guest });
    if (answer?.tag !== "removed") {
      throw failure;
    }
  }

  /** Questions under way end as unknown or unreachable. */
  close(): void {
    this.#isClosed = true;
    for (const link of this.#links) {
      link.close();
    }
    this.#wake();
  }

  #openLink(endpoint: Endpoint): QuorumLink {
    const onChanged = (): void => {
      this.#afterChange();
    };
    return new QuorumLink({
      endpoint,
      credentials: this.#options.credentials,
      timing: this.#timing,
      onChanged,
    });
  }

  async #call(call: QuorumCall): Promise<CallEnd> {
    const deadlineMs = performance.now() + this.#timing.askTimeoutMs;
    let mayBeDone = false;
    for (;;) {
      const round = await this.#askRound(call, deadlineMs);
      mayBeDone ||= round.mayBeDone;
      const isLast = this.#isClosed || performance.now() + RETRY_PAUSE_MS >= deadlineMs;
      if (round.isFinal || !mayBeDone || isLast) {
        return { answer: round.answer, mayBeDone, failure: round.failure ?? this.#unreachable() };
      }
      await this.#changed(RETRY_PAUSE_MS);
    }
  }

  async #askRound(call: QuorumCall, deadlineMs: number): Promise<RoundEnd> {
    await this.#waitForLink(deadlineMs);
    const leftMs = Math.max(1, deadlineMs - performance.now());
    const round = new QuorumRound(this.#inOrder(), call, {
      hedgeMs: this.#timing.hedgeMs,
      answerTimeoutMs: Math.min(leftMs, this.#timing.answerTimeoutMs),
    });
    return await round.run();
  }

  /** Until one is up, the deadline, or a little while when all are known to be down. */
  async #waitForLink(deadlineMs: number): Promise<void> {
    const startedMs = performance.now();
    while (!this.#isClosed && !this.#links.some((link) => link.isUp)) {
      const areKnown = this.#links.every((link) => link.failure !== undefined);
      const endMs = areKnown ? Math.min(deadlineMs, startedMs + WAIT_FOR_LINK_MS) : deadlineMs;
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) {
        return;
      }
      await this.#changed(leftMs);
    }
  }

  #inOrder(): QuorumLink[] {
    const rank = ({ isHealthy, isLate }: QuorumLink): number => (isHealthy ? (isLate ? 1 : 0) : 2);
    return this.#links.filter((link) => link.isUp).sort((one, other) => rank(one) - rank(other));
  }

  /** Some link changed, or the time is up. */
  #changed(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#waiting.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #afterChange(): void {
    this.#wake();
    const reachable = this.#links.some((link) => link.isHealthy);
    if (reachable !== this.#reachable) {
      this.#reachable = reachable;
      this.#options.onReachable?.(reachable, reachable ? undefined : this.#unreachable());
    }
  }

  #unreachable(): QuorumFailure {
    if (this.#isClosed) {
      return new QuorumFailure({ code: "QuorumClosed" }, "the connection to the quorum was closed by this process");
    }
    const endpoints = this.#links.map(({ endpoint: { host, port } }) => `${host} port ${port}`);
    const causes = this.#links.flatMap((link) => (link.failure === undefined ? [] : [link.failure.message]));
    return new QuorumFailure(
      { code: "QuorumUnreachable", endpoints },
      `no quorum answers at ${endpoints.join(", ")}; ${causes.join("; ")}`,
    );
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) {
      resolve();
    }
  }
}

function isSame(one: Endpoint, other: Endpoint): boolean {
  return one.host === other.host && one.port === other.port;
}
