/**
 * How fast a copy to the standby goes beside a guest that runs: no faster than it was allowed to, and while the guest writes to
 * its disks at most half of the time.
 *
 * A copy asks before each piece whether it has to wait, and says afterwards how large it was. What it did not use while it was
 * busy with something else it may catch up with, but not for long.
 */
export type ResyncPace = {
  /** Not before then. */
  readonly nextAtMs: number;
  readonly copiedAtMs: number;
};

export type CopiedPiece = {
  readonly bytes: number;
  /** Undefined: as fast as it can. */
  readonly bytesPerSecondMax: number | undefined;
  /** Since the piece before. */
  readonly hasGuestWritten: boolean;
};

const CATCH_UP_MS = 50;
const YIELD_MS_MAX = 20;

export const freshPace: ResyncPace = { nextAtMs: 0, copiedAtMs: 0 };

export function notePiece(pace: ResyncPace, piece: CopiedPiece, nowMs: number): ResyncPace {
  const { bytes, bytesPerSecondMax, hasGuestWritten } = piece;
  const limitMs = bytesPerSecondMax === undefined ? 0 : (bytes * 1000) / bytesPerSecondMax;
  const tookMs = nowMs - Math.max(pace.copiedAtMs, pace.nextAtMs);
  const yieldMs = hasGuestWritten ? Math.min(YIELD_MS_MAX, Math.max(0, tookMs)) : 0;
  const allowedAtMs = Math.max(pace.nextAtMs, nowMs - CATCH_UP_MS) + limitMs;
  return { nextAtMs: Math.max(allowedAtMs, nowMs + yieldMs), copiedAtMs: nowMs };
}
