/**
 * What the agent needs of whoever starts QEMU: the agent itself on a plain host (local-launcher.ts), KubeVirt's launcher pods
 * under Kubernetes, where the agent waits for them (pod-launcher.ts).
 *
 * Contract: per guest there is at most one living QEMU after any of these calls has returned, and none that nobody
 * knows. Calls for one guest come one at a time. A QEMU that was reported once and is gone without `kill` having been
 * called is reported through `onDied`, exactly once.
 */
import { Failure } from "../lib/failure.ts";
import {
  type DiskAssignment,
  type FoundGuest,
  type GuestAssignment,
  type GuestShape,
  type QemuOrigin,
} from "../protocol/assignment.ts";

/** A living QEMU, and what it was started with: that may be older than the assignment of today. */
export type LaunchedGuest = {
  readonly found: FoundGuest;
  readonly qemu: QemuOrigin;
  readonly disks: readonly DiskAssignment[];
};

/** What a start may have to wait for, for as long as it takes. */
export type LaunchWait = {
  /** Ends the wait with a {@link LaunchFailure} StartCancelled. */
  readonly signal: AbortSignal;
  /** Called when there is something to wait for that only others can bring about. */
  readonly onWaiting: () => void;
};

export interface GuestLauncher {
  /**
   * Whether a guest that is not assigned here any more loses its QEMU. Where others start QEMU they also end it: a guest must
   * not die because an object could not be seen.
   */
  readonly ownsGuests: boolean;
  /** Guests that have or may have a QEMU here, assigned or not, which is this launcher's to remove. */
  listGuests(): readonly string[];
  /** The guest's QEMU that is alive, if any; removes what is left of one that is not known to be in order. */
  adopt(assignment: GuestAssignment): Promise<LaunchedGuest | undefined>;
  /** Starts a QEMU in place of whatever ran. Throws {@link LaunchFailure}. */
  start(assignment: GuestAssignment, as: GuestShape, wait: LaunchWait): Promise<LaunchedGuest>;
  /** Returns when no QEMU of this guest is left that anybody was told of. */
  kill(guest: string): Promise<void>;
  onDied: (guest: string, pid: number) => void;
  /** Stops watching; kills nothing. */
  close(): void;
}

export type LaunchFailureDetail =
  | { readonly code: "BinaryMissing"; readonly binary: string }
  | {
      readonly code: "PathTooLong";
      readonly path: string;
      readonly bytesMax: number;
    }
  | {
      readonly code: "EndedAtStart";
      readonly status: string;
      readonly lastLines: string;
    }
  | { readonly code: "StartTimedOut"; readonly afterMs: number }
  | { readonly code: "StartCancelled" }
  | { readonly code: "WrongOrigin"; readonly origin: QemuOrigin["tag"] };
export class LaunchFailure extends Failure<LaunchFailureDetail> {}
