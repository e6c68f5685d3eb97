/**
 * Numbered requests over K long-lived connections at once, each with one request under way, and what came of them.
 *
 * The counted, redis and ledger clients differ in what they say and in how they judge an answer; asking in sequence, timing,
 * finding gaps and telling every fault is the same and stands here. A connection with a fault is left alone from then on: what
 * it would say afterwards proves nothing.
 */
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { round, summarizeLatencies, type LatencyFigures } from "./figures.ts";
import { type ExchangeResult, type ReplyConnection } from "./reply-connection.ts";

/**
 * - `lost`: no reply came in time, or what was acknowledged is not there afterwards
 * - `duplicated`: a reply, or a request's execution, came twice
 * - `reordered`: a reply to another request than the one that was asked
 * - `broken`: the connection did not survive
 * - `wrong`: an answer that makes no sense at all
 */
export type FaultKind = "lost" | "duplicated" | "reordered" | "broken" | "wrong";
export type Fault = {
  readonly kind: FaultKind;
  readonly connection: number;
  readonly number: number;
  readonly detail: string;
  readonly atMs: number;
};

export type Verdict = { readonly kind: FaultKind; readonly detail: string };

/** One kind of conversation; `number` counts from 1 on each connection. */
export type Speaker<Reply> = {
  readonly open: (connection: number) => Promise<ReplyConnection<Reply>>;
  readonly phrase: (connection: number, number: number) => string | Buffer;
  /** What is wrong with the reply, if anything. */
  readonly judge: (connection: number, number: number, reply: Reply) => Verdict | undefined;
  /** After the last reply: whether everything acknowledged is really there. */
  readonly verify?: (connection: number, acknowledged: number) => Promise<Verdict | undefined>;
};

export type ConversationOptions = {
  readonly connectionsCount: number;
  /** Pause between a reply and the next request. */
  readonly thinkMs: number;
  /** Stop by itself after this many requests on each connection; 0: when told. */
  readonly requestsMax: number;
  /** A reply that takes longer is lost. */
  readonly stallMs: number;
  /** Latencies from here on are listed one by one, with their time. */
  readonly gapMs: number;
  /** Every sample as a line "EPOCH_MS LATENCY_MS"; empty: nowhere. */
  readonly samplesPath: string;
};

export const defaultConversation: ConversationOptions = {
  connectionsCount: 1,
  thinkMs: 0,
  requestsMax: 0,
  stallMs: 60_000,
  gapMs: 100,
  samplesPath: "",
};

export type Gap = { readonly connection: number; readonly startedAtMs: number; readonly ms: number };

export type ConversationProgress = { readonly repliesCount: number; readonly faultsCount: number };

export type ConversationResult = {
  readonly connectionsCount: number;
  /** Connections on which nothing ever went wrong. */
  readonly connectionsSurvived: number;
  readonly repliesCount: number;
  readonly acknowledged: readonly number[];
  readonly faults: readonly Fault[];
  readonly faultsCount: Readonly<Record<FaultKind, number>>;
  readonly perSecond: number;
  readonly latency: LatencyFigures;
  readonly longestGap: Gap | null;
  readonly gaps: readonly Gap[];
  readonly startedAtMs: number;
  readonly endedAtMs: number;
};

/** Not more than these go into a report; the counts are complete. */
const faultsListedMax = 100;
const gapsListedMax = 2000;

export class Conversation<Reply> {
  readonly #speaker: Speaker<Reply>;
  readonly #options: ConversationOptions;
  readonly #faults: Fault[] = [];
  readonly #faultsCount: Record<FaultKind, number> = { lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 };
  readonly #gaps: Gap[] = [];
  readonly #latenciesMs: number[] = [];
  readonly #samples: string[] = [];
  readonly #acknowledged: number[];
  readonly #faulty = new Set<number>();
  #longestGap: Gap | null = null;
  #stopping = false;
  #startedAtMs = 0;

  constructor(speaker: Speaker<Reply>, options: ConversationOptions) {
    this.#speaker = speaker;
    this.#options = options;
    this.#acknowledged = new Array<number>(options.connectionsCount).fill(0);
  }

  get progress(): ConversationProgress {
    return { repliesCount: this.#latenciesMs.length, faultsCount: this.#faulty.size };
  }

  /** Each connection finishes the request it has under way. */
  stop(): void {
    this.#stopping = true;
  }

  async run(): Promise<ConversationResult> {
    const all = this.#acknowledged.map((_, connection) => connection);
    const connections = await Promise.all(all.map((connection) => this.#speaker.open(connection)));
    this.#startedAtMs = now();
    await Promise.all(connections.map((opened, connection) => this.#converse(opened, connection)));
    const endedAtMs = now();
    // A reply that comes twice comes now at the latest: the guest has nothing else to say.
    await sleep(500);
    for (const [connection, opened] of connections.entries()) {
      this.#judgeRest(opened, connection);
      opened.close();
    }
    for (const connection of all) {
      await this.#verify(connection);
    }
    if (this.#options.samplesPath !== "") {
      writeFileSync(this.#options.samplesPath, this.#samples.join(""));
    }
    return this.#report(endedAtMs);
  }

  async #converse(opened: ReplyConnection<Reply>, connection: number): Promise<void> {
    const { requestsMax, thinkMs, stallMs } = this.#options;
    const last = requestsMax === 0 ? Infinity : requestsMax;
    for (let number = 1; number <= last && !this.#stopping; number += 1) {
      const askedAtMs = now();
      const result = await opened.exchange(this.#speaker.phrase(connection, number), stallMs);
      this.#note(connection, askedAtMs, now() - askedAtMs);
      const verdict = this.#judge(connection, number, result);
      if (verdict !== undefined) {
        this.#blame(connection, number, verdict);
        return;
      }
      this.#acknowledged[connection] = number;
      if (thinkMs > 0) {
        await sleep(thinkMs);
      }
    }
  }

  #judge(connection: number, number: number, result: ExchangeResult<Reply>): Verdict | undefined {
    switch (result.tag) {
      case "reply":
        return this.#speaker.judge(connection, number, result.reply);
      case "stalled":
        return { kind: "lost", detail: `no reply within ${result.afterMs} ms` };
      case "broken":
        return { kind: "broken", detail: result.detail };
    }
  }

  #judgeRest(opened: ReplyConnection<Reply>, connection: number): void {
    const number = this.#acknowledged[connection] ?? 0;
    for (const reply of opened.unasked) {
      this.#blame(connection, number, { kind: "duplicated", detail: `a reply too many: ${JSON.stringify(reply)}` });
    }
    if (opened.broken !== undefined && !this.#faulty.has(connection)) {
      this.#blame(connection, number, { kind: "broken", detail: opened.broken.detail });
    }
  }

  async #verify(connection: number): Promise<void> {
    const acknowledged = this.#acknowledged[connection] ?? 0;
    const verdict = await this.#speaker.verify?.(connection, acknowledged);
    if (verdict !== undefined) {
      this.#blame(connection, acknowledged, verdict);
    }
  }

  #note(connection: number, startedAtMs: number, ms: number): void {
    this.#latenciesMs.push(ms);
    const gap = { connection, startedAtMs: round(startedAtMs), ms: round(ms) };
    if (this.#longestGap === null || ms > this.#longestGap.ms) {
      this.#longestGap = gap;
    }
    if (ms >= this.#options.gapMs && this.#gaps.length < gapsListedMax) {
      this.#gaps.push(gap);
    }
    if (this.#options.samplesPath !== "") {
      this.#samples.push(`${gap.startedAtMs} ${gap.ms}\n`);
    }
  }

  #blame(connection: number, number: number, { kind, detail }: Verdict): void {
    this.#faulty.add(connection);
    this.#faultsCount[kind] += 1;
    if (this.#faults.length < faultsListedMax) {
      this.#faults.push({ kind, connection, number, detail, atMs: round(now()) });
    }
  }

  #report(endedAtMs: number): ConversationResult {
    const repliesCount = this.#acknowledged.reduce((sum, count) => sum + count, 0);
    return {
      connectionsCount: this.#acknowledged.length,
      connectionsSurvived: this.#acknowledged.length - this.#faulty.size,
      repliesCount,
      acknowledged: this.#acknowledged,
      faults: this.#faults,
      faultsCount: this.#faultsCount,
      perSecond: round((repliesCount * 1000) / Math.max(1, endedAtMs - this.#startedAtMs)),
      latency: summarizeLatencies(this.#latenciesMs),
      longestGap: this.#longestGap,
      gaps: this.#gaps,
      startedAtMs: round(this.#startedAtMs),
      endedAtMs: round(endedAtMs),
    };
  }
}

/** Milliseconds since 1970 with a fraction: comparable between the processes of one machine, and monotonic in each. */
const now = (): number => performance.timeOrigin + performance.now();
