/**
 * The quorum service and each node's way to it. The record and its rules are the real ones; the record outlives crashes.
 *
 * A question may be lost, be carried out late, or be carried out a second time; its answer may be lost. What the node is told
 * then is what QuorumConnection promises: `unreachable` only if the question was certainly never carried out.
 */
import {
  decideQuorumRequest,
  type QuorumDecision,
  type QuorumRecord,
  type QuorumRequest,
} from "../../src/protocol/quorum-record.ts";
import { type QuorumOutcome } from "../../src/protocol/side-state.ts";
import { type SimHost } from "./host.ts";
import { type World } from "./world.ts";

const ANSWER_TIMEOUT_MS = 2_000;
const NO_LINK_MS = 300;

export class SimQuorum {
  record: QuorumRecord | undefined;
  isUp = true;
  /** Extra time the store takes. */
  slowMs = 0;
  /** Chance that a question reaches the store twice, the second time late. */
  duplicateChance = 0.03;
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  ask(host: SimHost, request: QuorumRequest, answer: (outcome: QuorumOutcome) => void): void {
    if (!this.#isReachable(host) && this.#world.random.chance(0.6)) {
      this.#world.clock.after(NO_LINK_MS * this.#world.random.fraction(), () => {
        answer({ tag: "unreachable" });
      });
      return;
    }
    this.#deliver(host, request, answer);
    if (this.#world.random.chance(this.duplicateChance)) {
      this.#world.clock.after(this.#world.random.below(8_000), () => {
        this.#deliver(host, request, () => undefined);
      });
    }
  }

  /** The question is on its way; its answer or a time-out ends it, whichever comes first. */
  #deliver(host: SimHost, request: QuorumRequest, answer: (outcome: QuorumOutcome) => void): void {
    const once = answerOnce(answer);
    this.#world.clock.after(ANSWER_TIMEOUT_MS, () => {
      once({ tag: "unknown" });
    });
    this.#travel(host, "to", () => {
      this.#store(() => {
        const decision = this.#decide(request);
        this.#travel(host, "from", () => {
          once(decision);
        });
      });
    });
  }

  read(host: SimHost, answer: (record: QuorumRecord | null | undefined) => void): void {
    const once = answerOnce(answer);
    this.#world.clock.after(this.#isReachable(host) ? ANSWER_TIMEOUT_MS : NO_LINK_MS, () => {
      once(undefined);
    });
    this.#travel(host, "to", () => {
      this.#store(() => {
        const record = this.record ?? null;
        this.#travel(host, "from", () => {
          once(record);
        });
      });
    });
  }

  /** The record goes on at another quorum, by a move that neither side's machine knows of: nothing of it changes but the version. */
  move(): void {
    const { record } = this;
    if (record !== undefined) {
      const version = record.version + 1;
      const request = {
        guest: record.guest,
        by: record.owner,
        requestId: `move:${version}`,
        expectedVersion: record.version,
      };
      this.record = { ...record, version, lastRequestId: request.requestId };
      this.#world.whenRecordChanges(this.record, { ...request, change: { tag: "moveAway", to: "alternate" } });
    }
  }

  #decide(request: QuorumRequest): QuorumDecision {
    const decision = this.#world.rules.decide(this.record, request);
    if (decision.tag === "granted" && decision.changed) {
      this.record = decision.record;
      this.#world.whenRecordChanges(decision.record, request);
    }
    return decision;
  }

  #isReachable(host: SimHost): boolean {
    return this.isUp && host.quorumPath.to && host.quorumPath.from;
  }

  #store(work: () => void): void {
    const { random } = this.#world;
    const ms = 0.5 + 2 * random.fraction() + (this.slowMs > 0 ? random.below(this.slowMs) : 0);
    this.#world.clock.after(ms, () => {
      // A service that went down meanwhile may have written or not.
      if (this.isUp || random.chance(0.5)) {
        work();
      }
    });
  }

  /** One way between a node and the service. What meets a cut is lost, or stalls and arrives after the cut. */
  #travel(host: SimHost, way: "to" | "from", arrive: () => void): void {
    const { random, clock } = this.#world;
    const ms = 0.3 + random.fraction() * (random.chance(0.03) ? 400 : 1.5);
    clock.after(ms, () => {
      if (this.isUp && host.quorumPath[way]) {
        arrive();
      } else if (random.chance(0.5)) {
        clock.after(200 + random.below(3_000), () => {
          if (this.isUp && host.quorumPath[way]) {
            arrive();
          }
        });
      }
    });
  }
}

export const productionRules = { decide: decideQuorumRequest };
export type QuorumRules = typeof productionRules;

function answerOnce<Value>(answer: (value: Value) => void): (value: Value) => void {
  let isAnswered = false;
  return (value) => {
    if (!isAnswered) {
      isAnswered = true;
      answer(value);
    }
  };
}
