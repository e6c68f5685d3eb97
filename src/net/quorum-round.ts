/**
 * One question put to the endpoints of the quorum in turn: the next one is asked as soon as those before have failed, or
 * have not answered for a while. Ends with the first answer that no other endpoint would contradict, or when all have failed.
 */
import { QuorumFailure, type QuorumLink, type QuorumReply } from "./quorum-link.ts";
import { firstWithin } from "../telemetry/sleep.ts";
import type { NotDoneCode, QuorumAnswer, QuorumCall } from "./quorum-wire.ts";

export type DefiniteAnswer = Exclude<QuorumAnswer, { readonly tag: "notDone" | "unknown" }>;

export type RoundEnd = {
  readonly answer: DefiniteAnswer | undefined;
  /** Some endpoint got the question and its answer is missing. */
  readonly mayBeDone: boolean;
  /** There is an answer, or a refusal to answer that every endpoint would repeat. */
  readonly isFinal: boolean;
  /** What the endpoint said that was asked last, if it said anything. */
  readonly failure: QuorumFailure | undefined;
};

export type RoundTiming = { readonly hedgeMs: number; readonly answerTimeoutMs: number };

/** Another replica may do better. */
const OF_ONE_REPLICA: ReadonlySet<NotDoneCode> = new Set<NotDoneCode>([
  "StoreUnavailable",
  "Stopping",
  "PeerVersionMismatch",
]);

type Arrival = { readonly promise: Promise<Arrival>; readonly reply: QuorumReply };

export class QuorumRound {
  readonly #unasked: QuorumLink[];
  readonly #call: QuorumCall;
  readonly #timing: RoundTiming;
  readonly #pending = new Set<Promise<Arrival>>();
  #end: RoundEnd = { answer: undefined, mayBeDone: false, isFinal: false, failure: undefined };

  constructor(links: readonly QuorumLink[], call: QuorumCall, timing: RoundTiming) {
    this.#unasked = [...links];
    this.#call = call;
    this.#timing = timing;
  }

  async run(): Promise<RoundEnd> {
    for (;;) {
      this.#askNext();
      if (this.#pending.size === 0) {
        return this.#end;
      }
      const arrival = await this.#nextArrival();
      if (arrival !== undefined) {
        this.#pending.delete(arrival.promise);
        this.#end = judge(arrival.reply, this.#end);
      }
      if (this.#end.isFinal) {
        return { ...this.#end, mayBeDone: this.#end.mayBeDone || this.#pending.size > 0 };
      }
    }
  }

  #askNext(): void {
    const link = this.#unasked.shift();
    if (link !== undefined) {
      const reply = link.call(this.#call, this.#timing.answerTimeoutMs);
      const promise: Promise<Arrival> = reply.then((came) => ({ promise, reply: came }));
      this.#pending.add(promise);
    }
  }

  /** Undefined when it is time to ask the next endpoint as well. */
  async #nextArrival(): Promise<Arrival | undefined> {
    if (this.#unasked.length === 0) {
      return await Promise.race(this.#pending);
    }
    return await firstWithin(this.#timing.hedgeMs, this.#pending);
  }
}

function judge(reply: QuorumReply, before: RoundEnd): RoundEnd {
  if (reply.tag === "notSent") {
    return before;
  }
  if (reply.tag === "lost") {
    return { ...before, mayBeDone: true };
  }
  const { answer } = reply;
  if (answer.tag === "unknown") {
    const failure = new QuorumFailure({ code: "StoreUnavailable" }, `the quorum does not know: ${answer.why}`);
    return { ...before, mayBeDone: true, failure };
  }
  if (answer.tag === "notDone") {
    const failure = new QuorumFailure({ code: answer.code }, `the quorum did not carry it out: ${answer.why}`);
    return { ...before, isFinal: !OF_ONE_REPLICA.has(answer.code), failure };
  }
  return { ...before, answer, isFinal: true };
}
