/** The session of the moment with the other side: what is sent to a standby, or received from a primary. */
import { setTimeout as sleep } from "node:timers/promises";
import { type CheckpointContract } from "../protocol/assignment.ts";
import { type Frame } from "../protocol/frames.ts";
import { type MachineShape, type SyncBasis } from "../protocol/messages.ts";
import { type Effect, type Side, type SideEvent } from "../protocol/side-state.ts";
import { unreachable } from "../lib/assert.ts";
import { type Log } from "../telemetry/log.ts";
import { type DiskHealth } from "./disk-health.ts";
import { type Figures } from "./figures.ts";
import { type Guest } from "./guest.ts";
import { type HeldGuest } from "./held-guest.ts";
import { type Links } from "./links.ts";
import { DiskReadFailure } from "./primary-disks.ts";
import { type Problems } from "./problems.ts";
import { Reception } from "./reception.ts";
import { Replication, type ReplicationEvents } from "./replication.ts";
import { type EngineSnapshot } from "./report.ts";
import { type ResyncWatch } from "./resync-progress.ts";
import { mayGoOnElsewhere, stateName } from "./side-names.ts";

export type SessionEffect = Extract<
  Effect,
  {
    tag:
      | "beginSync"
      | "startEpochs"
      | "copyMemory"
      | "captureFinal"
      | "resumeStream"
      | "endSession"
      | "beginReceiving"
      | "commitEpoch"
      | "discardStaged"
      | "releaseOutput";
  }
>;

export type SessionsOptions = {
  readonly log: Log;
  readonly held: HeldGuest;
  readonly links: Links;
  readonly disks: DiskHealth;
  readonly problems: Problems;
  readonly figures: Figures;
  readonly resync: ResyncWatch;
  readonly side: () => Side;
  readonly contract: () => CheckpointContract;
  readonly linkShare: () => number | undefined;
  readonly post: (event: SideEvent) => void;
  /** The guest is lost, and another side can go on. */
  readonly onGuestFailed: (why: string) => void;
  /** People have to know at once. */
  readonly onTrouble: () => void;
  readonly keepsDevices: (guest: Guest) => Promise<boolean>;
};

const FULL: SyncBasis = { tag: "full" };

export class Sessions {
  readonly #options: SessionsOptions;
  /** Of a primary. */
  replication: Replication | undefined;
  /** Of a standby that a takeover could go on from. */
  lastReception: Reception | undefined;
  #reception: Reception | undefined;
  /** Those of the primary that said hello last. */
  #peerDisks: MachineShape["disks"] = [];

  constructor(options: SessionsOptions) {
    this.#options = options;
  }

  get link(): string | null {
    const { state } = this.#options.side();
    return "link" in state ? state.link : null;
  }

  get name(): string | undefined {
    const { state } = this.#options.side();
    return "session" in state ? state.session : undefined;
  }

  perform(effect: SessionEffect): void {
    switch (effect.tag) {
      case "beginSync":
        void this.#beginSync(effect);
        return;
      case "startEpochs":
        this.#startEpochs(effect.first);
        return;
      case "copyMemory":
        this.#copyMemory(effect.session);
        return;
      case "captureFinal":
        this.replication?.captureFinal();
        return;
      case "releaseOutput":
        this.replication?.release(effect.throughEpoch);
        return;
      case "resumeStream":
        this.#resumeStream(effect);
        return;
      case "endSession":
        this.#endSession(effect.session, effect.acked);
        return;
      default:
        this.#performOfStandby(effect);
    }
  }

  #performOfStandby(effect: Extract<SessionEffect, { tag: "beginReceiving" | "commitEpoch" | "discardStaged" }>): void {
    switch (effect.tag) {
      case "beginReceiving":
        this.#beginReceiving(effect.session, effect.ram);
        return;
      case "commitEpoch":
        this.#reception?.commit(effect.epoch);
        return;
      case "discardStaged":
        this.#reception?.discardStaged();
        return;
      default:
        unreachable(effect);
    }
  }

  noteHello(shape: MachineShape): void {
    this.#peerDisks = shape.disks;
  }

  take(link: string, frame: Frame): void {
    const { state } = this.#options.side();
    if (!("link" in state) || state.link !== link) {
      return;
    }
    if (this.replication !== undefined) {
      this.replication.take(frame);
    } else {
      this.#reception?.take(frame);
    }
  }

  /** How far a copy under way is. */
  observe(): void {
    if (this.replication !== undefined && stateName(this.#options.side()) === "syncing") {
      this.#options.resync.observe(this.replication.leftBytes);
    }
  }

  /** How the guest bears being copied. */
  get figures(): Pick<EngineSnapshot, "isThrottled" | "isHeldToShare" | "oldestUnacknowledgedMs"> {
    const { isThrottled = false, isHeldToShare = false, oldestUnacknowledgedMs } = this.replication ?? {};
    return { isThrottled, isHeldToShare, oldestUnacknowledgedMs };
  }

  /** Ends the running session; the machine does the rest. */
  fail(): void {
    const { session } = this.replication ?? {};
    if (session !== undefined) {
      this.#options.post({ tag: "sessionFailed", session });
    }
  }

  /** What was received is the guest's now; what it was received from is not needed any more. */
  endReception(): void {
    this.#reception?.end();
    this.#reception = undefined;
  }

  /** QEMU is let go. */
  endAll(): void {
    this.replication?.end(0);
    this.replication = undefined;
    this.endReception();
  }

  async #beginSync({ session, link, ram, disks }: Extract<Effect, { tag: "beginSync" }>): Promise<void> {
    const { held, links, resync, log, figures, contract, linkShare } = this.#options;
    const { guest, primaryDisks, lacking } = held;
    const connection = links.connection(link);
    if (guest === undefined || primaryDisks === undefined || lacking === undefined || connection === undefined) {
      links.closeLink(link);
      return;
    }
    resync.begin();
    const events = this.#listenToReplication(session, guest);
    try {
      await held.mirrorsReady;
      if (this.name !== session) {
        return;
      }
      const parts = { session, guest, disks: primaryDisks, connection, lacking };
      const limits = { contract: contract(), linkShare: linkShare() };
      const replication = new Replication({ ...parts, ...limits, figures, events, log });
      this.replication = replication;
      const copied = resync.isFullWanted ? replication.copy(FULL, FULL) : replication.copy(ram, disks);
      resync.start(replication.leftBytes);
      await copied;
    } catch (error) {
      log.warn({ error, session }, "the copy to the standby failed");
      await this.#noteFailedCopy(error);
      links.closeLink(link);
    }
  }

  #listenToReplication(session: string, guest: Guest): ReplicationEvents {
    const { resync, post, problems, side, onGuestFailed, keepsDevices } = this.#options;
    return {
      onCopied: () => {
        resync.whenCopied();
        post({ tag: "copied", session });
      },
      onCaptured: (epoch: number, final: boolean) => {
        resync.percent = 100;
        post({ tag: "captured", session, epoch, final });
      },
      onBroken: () => {
        post({ tag: "sessionFailed", session });
      },
      onFailed: (why: string) => {
        if (mayGoOnElsewhere(side())) {
          onGuestFailed(why);
          return;
        }
        problems.set("sync", why);
        post({ tag: "sessionFailed", session });
      },
      keepsDevices: () => keepsDevices(guest),
    };
  }

  async #noteFailedCopy(error: unknown): Promise<void> {
    const { problems, disks, onTrouble } = this.#options;
    const message = error instanceof Error ? error.message : String(error);
    problems.set("sync", message);
    if (error instanceof DiskReadFailure) {
      disks.note(error.detail.disk, { message, isFull: false });
      onTrouble();
      await sleep(disks.restMs); // The next session begins as soon as this one has ended.
    }
  }

  #startEpochs(first: number): void {
    const { state } = this.#options.side();
    if ("mode" in state && state.mode === "HighAvailability") {
      this.replication?.startWrites(first);
    } else {
      this.replication?.startEpochs(first);
    }
  }

  #copyMemory(session: string): void {
    const { log, problems } = this.#options;
    this.replication?.copyMemory().catch((error: unknown) => {
      log.warn({ error, session }, "the guest's memory could not be copied");
      problems.set("sync", error instanceof Error ? error.message : String(error));
      this.fail();
    });
  }

  /** A link that is down by now is for the machine to hear of. */
  #resumeStream({ session, link, from }: Extract<Effect, { tag: "resumeStream" }>): void {
    const connection = this.#options.links.connection(link);
    if (connection !== undefined && this.replication?.session === session) {
      this.replication.resume(connection, from);
    }
  }

  #endSession(session: string, acked: number): void {
    if (this.replication?.session === session) {
      this.replication.end(acked);
      this.replication = undefined;
    }
  }

  #beginReceiving(session: string, ram: SyncBasis): void {
    const { held, links, log, post } = this.#options;
    const { link } = this;
    const connection = link === null ? undefined : links.connection(link);
    this.lastReception?.end();
    if (held.guest === undefined || connection === undefined || link === null) {
      return;
    }
    const reception = new Reception({
      session,
      memory: held.guest.memory,
      disks: held.listInPeersOrder(this.#peerDisks),
      connection,
      isWithoutMemory: ram.tag === "firmware",
      events: {
        onEpochHeld: (epoch) => {
          post({ tag: "epochHeld", session, epoch });
        },
        onFailed: (reason) => {
          log.error({ reason }, "what the primary sent cannot be applied");
          post({ tag: "applyFailed", session, reason });
        },
        onPressure: (paused) => {
          if (this.link !== null) {
            links.setPaused(this.link, paused);
          }
        },
      },
    });
    this.#reception = reception;
    this.lastReception = reception;
  }
}
