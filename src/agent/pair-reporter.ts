/**
 * Writes what this agent knows of its guests into the status of their GuestPairs: its own item of `sides`, by server-side apply
 * under a field manager of its own, so that the peer's agent and this one never take anything from each other.
 *
 * What is worth a write, and when, is decided in decide/side-status.ts. A write that fails is tried again with a growing pause,
 * always with what is true by then: nothing is queued, so an API server that comes back after an hour gets one write a guest.
 */
import { type GuestPairStatus } from "../api/guest-pair.ts";
import { type PairObject } from "../decide/pair-assignment.ts";
import { decideWrite, isPassing, planSideStatus, type SideStatus, type SideView } from "../decide/side-status.ts";
import { stepTakeover, type Takeover, type TakeoverTrack } from "../decide/takeover-track.ts";
import { type EngineTransition } from "../protocol/assignment.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type Log } from "../telemetry/log.ts";
import { type GuestStatus } from "./guest-runner.ts";

/** The part of an object that is applied. */
export type AppliedStatus = {
  readonly apiVersion: string;
  readonly kind: "GuestPair";
  readonly metadata: { readonly namespace: string; readonly name: string };
  readonly status: GuestPairStatus;
};

export type PairReporterOptions = {
  readonly node: string;
  readonly apiVersion: string;
  /** Undefined when the guest is not assigned here any more. */
  readonly readGuest: (guest: string) => GuestStatus | undefined;
  readonly readObject: (guest: string) => PairObject | undefined;
  readonly readTrouble: (guest: string) => string | undefined;
  readonly readFaults: (guest: string) => SideView["faults"];
  /** Rejects when it was not written. */
  readonly applyStatus: (object: AppliedStatus, fieldManager: string) => Promise<unknown>;
  /** Whether {@link readWritten} can know. Until then nothing is written: it would forget term, primary and takeovers. */
  readonly isListed: () => boolean;
  /** What an agent of this node wrote before this one started. */
  readonly readWritten: (object: PairObject) => SideStatus | undefined;
  readonly log: Log;
};

const RETRY_FIRST_MS = 500;
/** An API server that is back hears of its guests before it gives their nodes up for silent. */
const RETRY_LAST_MS = 5_000;

type Reported = {
  written: SideStatus | undefined;
  writtenAtMs: number;
  isWriting: boolean;
  retry: NodeJS.Timeout | undefined;
  retryMs: number;
  /** Since when its side is in a state that it only passes. */
  passingSinceMs: number | undefined;
  track: TakeoverTrack;
  takeoversCount: number;
  lastTakeover: (Takeover & { readonly at: string }) | undefined;
};

export class PairReporter {
  readonly #options: PairReporterOptions;
  readonly #guests = new Map<string, Reported>();
  #isClosed = false;

  constructor(options: PairReporterOptions) {
    this.#options = options;
  }

  /** To be called with every change of state of an engine. */
  noteTransition(guest: string, transition: EngineTransition): void {
    const reported = this.#find(guest);
    const { track, takeover } = stepTakeover(reported.track, transition, monotonicMs());
    reported.track = track;
    if (takeover !== undefined) {
      reported.takeoversCount += 1;
      reported.lastTakeover = { ...takeover, at: new Date().toISOString() };
    }
  }

  /** To be called when the status of a guest may read differently. */
  guestChanged(guest: string): void {
    const status = this.#options.readGuest(guest);
    const object = this.#options.readObject(guest);
    if (this.#isClosed) {
      return;
    }
    if (status === undefined || object === undefined) {
      clearTimeout(this.#guests.get(guest)?.retry);
      this.#guests.delete(guest);
      return;
    }
    const reported = this.#find(guest);
    if (!reported.isWriting && reported.retry === undefined && this.#options.isListed()) {
      this.#look(guest, { reported, status, object });
    }
  }

  close(): void {
    this.#isClosed = true;
    for (const { retry } of this.#guests.values()) {
      clearTimeout(retry);
    }
  }

  #look(guest: string, { reported, status, object }: Seen): void {
    reported.written ??= this.#options.readWritten(object);
    const { node, readTrouble, readFaults } = this.#options;
    const view = {
      ...status,
      node,
      observedGeneration: object.generation,
      trouble: readTrouble(guest) ?? status.trouble,
      faults: readFaults(guest),
      takeovers: {
        count: reported.takeoversCount,
        last: reported.lastTakeover,
      },
    };
    const side = planSideStatus(view, reported.written, new Date().toISOString());
    const nowMs = monotonicMs();
    // Looked at again with the engine's next report at the latest, a second later.
    reported.passingSinceMs = isPassing(side) ? (reported.passingSinceMs ?? nowMs) : undefined;
    const decision = decideWrite(side, reported.written, {
      sinceMs: nowMs - reported.writtenAtMs,
      passingMs: nowMs - (reported.passingSinceMs ?? nowMs),
    });
    if (decision !== "no") {
      void this.#write(guest, reported, {
        object,
        side,
        takeoversCount: reported.takeoversCount,
      });
    }
  }

  async #write(guest: string, reported: Reported, { object, side, takeoversCount }: Written): Promise<void> {
    const { node, apiVersion, applyStatus, log } = this.#options;
    const { namespace, name } = object;
    reported.isWriting = true;
    try {
      const status = { sides: [side] };
      await applyStatus(
        {
          apiVersion,
          kind: "GuestPair",
          metadata: { namespace, name },
          status,
        },
        `twinrun-agent-${node}`,
      );
      reported.written = side;
      reported.writtenAtMs = monotonicMs();
      reported.takeoversCount -= takeoversCount;
      reported.retryMs = RETRY_FIRST_MS;
    } catch (error) {
      // At most every 5 s in the end, and it says what is wrong with an API server or with our rights.
      log.warn({ error, guest }, "the status was not written; trying again later");
      this.#planRetry(guest, reported);
    } finally {
      reported.isWriting = false;
    }
    this.guestChanged(guest); // What came meanwhile.
  }

  #planRetry(guest: string, reported: Reported): void {
    reported.retry = setTimeout(() => {
      reported.retry = undefined;
      this.guestChanged(guest);
    }, reported.retryMs);
    reported.retryMs = Math.min(RETRY_LAST_MS, reported.retryMs * 2);
  }

  #find(guest: string): Reported {
    const known = this.#guests.get(guest);
    if (known !== undefined) {
      return known;
    }
    const reported: Reported = {
      written: undefined,
      writtenAtMs: -Infinity,
      isWriting: false,
      retry: undefined,
      retryMs: RETRY_FIRST_MS,
      passingSinceMs: undefined,
      track: null,
      takeoversCount: 0,
      lastTakeover: undefined,
    };
    this.#guests.set(guest, reported);
    return reported;
  }
}

type Seen = {
  readonly reported: Reported;
  readonly status: GuestStatus;
  readonly object: PairObject;
};
type Written = {
  readonly object: PairObject;
  readonly side: SideStatus;
  readonly takeoversCount: number;
};
