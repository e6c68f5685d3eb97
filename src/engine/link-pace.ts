/**
 * How an engine keeps to its share of the links: a bucket of tokens that everything it sends takes from. Pure.
 *
 * An epoch of a guest that keeps within its share leaves at once, as if there were no share: what it has not used it may use in
 * one go. A larger one leaves in pieces, spread over the time that the share asks for: otherwise it would stand in front of the
 * neighbours' epochs for as long as the link takes for it, however long the pause after it. Disk writes are not held back, their
 * answers are.
 */
export type LinkPace = {
  /** Nothing more before then. */
  readonly nextAtMs: number;
};

/** What was not used for so long may be caught up with. */
const BURST_MS = 100;
/** Of what was sent beyond the share, such as disk writes that were under way, more than this is forgiven. */
const DEBT_MS_MAX = 1_000;
/** A piece of an epoch takes about so long. */
const PIECE_MS = 5;
const PIECE_BYTES_MIN = 64 * 1024;
const PIECE_BYTES_MAX = 4 * 1024 * 1024;
/**
 * An epoch has left after this time, even if that takes more than the share: a guest may change its memory for ever, and nobody
 * would hear of it again. Twice as long is less than clients wait for an answer.
 */
export const LIMITED_EPOCH_MS_MAX = 10_000;

export const freshLinkPace: LinkPace = { nextAtMs: 0 };

/** So many bytes were handed to the link; `bytesPerSecond` undefined: there is no share to keep to. */
export function noteSent(pace: LinkPace, bytes: number, bytesPerSecond: number | undefined, nowMs: number): LinkPace {
  if (bytesPerSecond === undefined) {
    return freshLinkPace;
  }
  const paidAtMs = Math.max(pace.nextAtMs, nowMs - BURST_MS) + (bytes * 1000) / bytesPerSecond;
  return { nextAtMs: Math.min(paidAtMs, nowMs + DEBT_MS_MAX) };
}

/** Whether so much may leave in one go. */
export function isWithinShare(pace: LinkPace, bytes: number, bytesPerSecond: number, nowMs: number): boolean {
  return noteSent(pace, bytes, bytesPerSecond, nowMs).nextAtMs <= nowMs;
}

/** When the piece of an epoch may leave that comes after `sentBytes` of its `totalBytes`. */
export function planPiece(
  { nextAtMs }: LinkPace,
  epoch: { readonly startedAtMs: number; readonly sentBytes: number; readonly totalBytes: number },
): number {
  const share = epoch.sentBytes / Math.max(1, epoch.totalBytes);
  return Math.min(nextAtMs, epoch.startedAtMs + LIMITED_EPOCH_MS_MAX * share);
}

export function pieceBytesOf(bytesPerSecond: number): number {
  const bytes = Math.round((bytesPerSecond * PIECE_MS) / 1000);
  return Math.min(PIECE_BYTES_MAX, Math.max(PIECE_BYTES_MIN, bytes));
}

/** Whether the share is what holds the guest up, and not only a moment of more. */
export type LinkUse = {
  readonly sinceMs: number;
  readonly bytes: number;
  readonly hasWaited: boolean;
  /** When it last was. */
  readonly heldAtMs: number;
};

const USE_WINDOW_MS = 2_000;
const MOST_OF_SHARE = 0.8;
/** A guest that is held up and one that is not for a moment are the same to people and neighbours. */
const HELD_MS = 10_000;

export const freshLinkUse: LinkUse = { sinceMs: 0, bytes: 0, hasWaited: false, heldAtMs: -Infinity };

/** So many bytes were handed to the link, or something waits for the share. */
export function noteUse(
  use: LinkUse,
  { bytes, hasWaited }: { readonly bytes: number; readonly hasWaited: boolean },
  bytesPerSecond: number | undefined,
  nowMs: number,
): LinkUse {
  if (bytesPerSecond === undefined) {
    return freshLinkUse;
  }
  const now = { ...use, bytes: use.bytes + bytes, hasWaited: use.hasWaited || hasWaited };
  const lastedMs = nowMs - use.sinceMs;
  if (lastedMs < USE_WINDOW_MS) {
    return now;
  }
  const isHeld = now.hasWaited && now.bytes >= (MOST_OF_SHARE * bytesPerSecond * lastedMs) / 1000;
  return { sinceMs: nowMs, bytes: 0, hasWaited: false, heldAtMs: isHeld ? nowMs : use.heldAtMs };
}

export const isHeldToShare = ({ heldAtMs }: LinkUse, nowMs: number): boolean => nowMs - heldAtMs < HELD_MS;
