/**
 * Carries out what GuestPairs wish for beside their assignments (decide/guest-wish.ts): planned changes of sides, failovers that
 * somebody asked for, and the start of a guest that shut itself down.
 *
 * That a failover was carried out outlives the agent, as failover.json in the guest's run directory, until nobody asks for it
 * any more: a guest must not lose its QEMU twice for one wish.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { planWish, type WishAction } from "../decide/guest-wish.ts";
import { type GuestWish } from "../decide/pair-assignment.ts";
import { type OverrideOrder } from "../protocol/assignment.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { type GuestStatus, type SwitchoverAnswer } from "./guest-runner.ts";
import { removeStateFile, writeStateFile } from "./state-file.ts";

/** What is needed of the agent. */
export interface WishControl {
  readGuest(guest: string): GuestStatus | undefined;
  requestSwitchover(guest: string): Promise<SwitchoverAnswer> | undefined;
  failGuest(guest: string): boolean;
  startEnded(guest: string): unknown;
  moveQuorum(guest: string, to: QuorumSeat): void;
  force(guest: string, override: OverrideOrder): unknown;
}

export type PairWishesOptions = {
  readonly node: string;
  readonly runDirectory: string;
  readonly control: WishControl;
  readonly log: Log;
};

export class PairWishes {
  /** The trouble of a guest has changed. */
  onTrouble: (guest: string) => void = () => undefined;

  readonly #options: PairWishesOptions;
  #wishes = new Map<string, GuestWish>();
  readonly #askedKeys = new Map<string, string>();
  readonly #movedAtMs = new Map<string, number>();
  readonly #forcedAtMs = new Map<string, number>();
  readonly #troubles = new Map<string, string>();

  constructor(options: PairWishesOptions) {
    this.#options = options;
  }

  setWishes(wishes: readonly GuestWish[]): void {
    this.#wishes = new Map(wishes.map((wish) => [wish.guest, wish]));
    for (const guest of this.#askedKeys.keys()) {
      if (!this.#wishes.has(guest)) {
        this.#forgetSwitchover(guest);
      }
    }
    for (const guest of this.#wishes.keys()) {
      this.guestChanged(guest);
    }
  }

  readWish(guest: string): GuestWish | undefined {
    return this.#wishes.get(guest);
  }

  /** Why the last wish was refused, with the remedy. */
  readTrouble(guest: string): string | undefined {
    return this.#troubles.get(guest);
  }

  /** To be called when the status of a guest may read differently. */
  guestChanged(guest: string): void {
    const wish = this.#wishes.get(guest);
    const status = this.#options.control.readGuest(guest);
    if (wish === undefined || status === undefined) {
      return;
    }
    const { peerNode, report, enginePid, supervision } = status;
    const actions = planWish({
      node: this.#options.node,
      peerNode,
      wish,
      report,
      enginePid,
      askedKey: this.#askedKeys.get(guest),
      hasFailedOver: existsSync(this.#failoverPath(guest)),
      isResting: supervision === "ended",
      movedBeforeMs: monotonicMs() - (this.#movedAtMs.get(guest) ?? -Infinity),
      forcedBeforeMs: monotonicMs() - (this.#forcedAtMs.get(guest) ?? -Infinity),
    });
    for (const action of actions) {
      this.#apply(wish, action);
    }
  }

  #apply(wish: GuestWish, action: WishAction): void {
    const { guest } = wish;
    switch (action.tag) {
      case "requestSwitchover":
        this.#askedKeys.set(guest, action.key);
        void this.#requestSwitchover(wish);
        break;
      case "failGuest":
        writeStateFile(this.#failoverPath(guest), { version: 1 });
        this.#options.log.warn({ guest }, "killing the guest's QEMU, as its GuestPair asks; the peer takes over");
        this.#options.control.failGuest(guest);
        break;
      case "startGuest":
        this.#options.log.info({ guest }, "starting the guest again, as its GuestPair asks");
        this.#options.control.startEnded(guest);
        break;
      case "force": {
        const { who, why, at } = action.override;
        this.#forcedAtMs.set(guest, monotonicMs());
        this.#options.control.force(guest, { who, why, at, term: wish.latestTerm });
        break;
      }
      case "moveQuorum":
        this.#movedAtMs.set(guest, monotonicMs());
        this.#options.control.moveQuorum(guest, action.to);
        break;
      case "forgetSwitchover":
        this.#forgetSwitchover(guest);
        break;
      case "forgetFailover":
        removeStateFile(this.#failoverPath(guest));
        break;
      default:
        action satisfies never;
    }
  }

  async #requestSwitchover({ guest, roles }: GuestWish): Promise<void> {
    this.#options.log.info({ guest, ...roles }, "handing the guest over, as its GuestPair asks");
    const answer = await this.#options.control.requestSwitchover(guest);
    if (answer === undefined || answer.accepted) {
      this.#setTrouble(guest, undefined);
      return;
    }
    this.#options.log.warn({ guest }, `the hand-over was refused: ${answer.message}`);
    this.#setTrouble(guest, `the hand-over to ${roles.primary} was refused: ${answer.message}`);
  }

  #forgetSwitchover(guest: string): void {
    this.#askedKeys.delete(guest);
    this.#setTrouble(guest, undefined);
  }

  #setTrouble(guest: string, trouble: string | undefined): void {
    if (this.#troubles.get(guest) === trouble) {
      return;
    }
    if (trouble === undefined) {
      this.#troubles.delete(guest);
    } else {
      this.#troubles.set(guest, trouble);
    }
    this.onTrouble(guest);
  }

  #failoverPath(guest: string): string {
    return join(this.#options.runDirectory, guest, "failover.json");
  }
}
