/** How far a copy to the standby is and how long it will take yet, from what is left of it now and then. */
import { monotonicMs } from "../telemetry/clock.ts";

/** Of the copy under way, and whether the next one is to be a full one. */
export class ResyncWatch {
  percent = 0;
  progress: ResyncProgress | undefined;
  isFullWanted = false;
  #fullResync: string | undefined;

  /** `fullResync` was asked for, and done or begun, before. */
  constructor(fullResync: string | undefined) {
    this.#fullResync = fullResync;
  }

  /** Whether everything is to be copied once more, by a wish that was not heard of yet. */
  isAskedAnew(fullResync: string | undefined): boolean {
    if (fullResync === undefined || fullResync === this.#fullResync) {
      return false;
    }
    this.#fullResync = fullResync;
    this.isFullWanted = true;
    return true;
  }

  begin(): void {
    this.percent = 0;
  }

  start(leftBytes: number): void {
    this.progress = startProgress(leftBytes, monotonicMs());
  }

  observe(leftBytes: number): void {
    if (this.progress !== undefined) {
      this.progress = observeLeft(this.progress, leftBytes, monotonicMs());
      this.percent = percentOf(this.progress);
    }
  }

  whenCopied(): void {
    this.isFullWanted = false;
  }
}

export type ResyncProgress = {
  /** The most there ever was to be copied. */
  readonly totalBytes: number;
  readonly leftBytes: number;
  readonly seenAtMs: number;
  /** Undefined until it was measured. */
  readonly bytesPerSecond: number | undefined;
};

const LOOK_MS_MIN = 500;
/** Of the newest measurement. */
const WEIGHT = 0.3;

export function startProgress(leftBytes: number, nowMs: number): ResyncProgress {
  return { totalBytes: leftBytes, leftBytes, seenAtMs: nowMs, bytesPerSecond: undefined };
}

export function observeLeft(progress: ResyncProgress, leftBytes: number, nowMs: number): ResyncProgress {
  const { totalBytes, seenAtMs, bytesPerSecond } = progress;
  if (nowMs - seenAtMs < LOOK_MS_MIN) {
    return progress;
  }
  // A guest that writes as fast as is copied brings it down to nothing.
  const measured = Math.max(0, ((progress.leftBytes - leftBytes) * 1000) / (nowMs - seenAtMs));
  return {
    totalBytes: Math.max(totalBytes, leftBytes),
    leftBytes,
    seenAtMs: nowMs,
    bytesPerSecond: bytesPerSecond === undefined ? measured : bytesPerSecond + WEIGHT * (measured - bytesPerSecond),
  };
}

/** 99 at most: what is left at the end goes with the first checkpoint. */
export function percentOf({ totalBytes, leftBytes }: ResyncProgress): number {
  return totalBytes === 0 ? 99 : Math.min(99, Math.floor(100 * (1 - leftBytes / totalBytes)));
}

/** Null while nobody can tell. */
export function secondsLeftOf({ leftBytes, bytesPerSecond }: ResyncProgress): number | null {
  return bytesPerSecond === undefined || bytesPerSecond < 1 ? null : Math.ceil(leftBytes / bytesPerSecond);
}
