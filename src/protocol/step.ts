/**
 * A step under construction: the side as it is so far and the effects in order. Keeps the functions of the machine short; a
 * change to a Draft never leaves the step that made it.
 */
import { type Message } from "./messages.ts";
import { type QuorumChange } from "./quorum-record.ts";
import {
  type Effect,
  type ExitReason,
  type PrimaryState,
  type Side,
  type SideState,
  type StandbyState,
  type Step,
  type TimerName,
} from "./side-state.ts";

export class Draft {
  side: Side;
  readonly #effects: Effect[] = [];

  constructor(side: Side) {
    this.side = side;
  }

  finish(): Step {
    return { side: this.side, effects: this.#effects };
  }

  add(...effects: readonly Effect[]): this {
    this.#effects.push(...effects);
    return this;
  }

  set(change: Partial<Side>): this {
    this.side = { ...this.side, ...change };
    return this;
  }

  become(state: SideState): this {
    return this.set({ state });
  }

  becomePrimary(state: PrimaryState): this {
    return this.become({ role: "primary", ...state });
  }

  becomeStandby(state: StandbyState): this {
    return this.become({ role: "standby", ...state });
  }

  arm(timer: TimerName): this {
    const timers = this.side.timers.includes(timer) ? this.side.timers : [...this.side.timers, timer].sort();
    return this.set({ timers }).add({ tag: "startTimer", timer });
  }

  disarm(...timers: readonly TimerName[]): this {
    for (const timer of timers) {
      if (this.side.timers.includes(timer)) {
        this.set({ timers: this.side.timers.filter((armed) => armed !== timer) }).add({ tag: "stopTimer", timer });
      }
    }
    return this;
  }

  send(link: string, message: Message): this {
    return this.add({ tag: "send", link, message });
  }

  sendAll(message: Message): this {
    return this.add(...this.side.links.map((link) => ({ tag: "send", link, message }) as const));
  }

  /**
   * Puts a change to the quorum on the version last seen. The id follows from process, version and change, so that asking
   * again for the same thing is the same request.
   */
  askFor(change: QuorumChange): this {
    const { guest, node, nonce, record } = this.side;
    const expectedVersion = record?.version ?? 0;
    const requestId = `${nonce}:${expectedVersion.toString()}:${change.tag}`;
    const request = { guest, by: node, requestId, expectedVersion, change };
    return this.set({ ask: { request, underWay: true, mayBeDelivered: false } }).add({ tag: "askQuorum", request });
  }

  /** Forgets the request: its late answer changes nothing but the record we know. */
  forgetAsk(): this {
    return this.set({ ask: null }).disarm("retry");
  }

  end(reason: ExitReason, message: string): this {
    this.disarm(...this.side.timers);
    return this.set({ ask: null }).become({ tag: "ended", reason }).add({ tag: "exit", reason, message });
  }
}
