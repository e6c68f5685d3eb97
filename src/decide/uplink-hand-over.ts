/**
 * Which guests to hand over because their clients cannot reach them here, though they run well.
 *
 * A guest goes when this node's uplink has been down for long enough to be no flap, the peer's agent says that its own
 * uplinks are up, and the standby is in sync: then a hand-over costs the clients a moment. In any other case it stays,
 * for the peer could not serve them better. A hand-over that was refused is asked for again, but not at once.
 */
export type UplinkView = {
  /** For how long an uplink of this node has been down; 0 while all are up. */
  readonly downForMs: number;
  readonly guests: readonly GuestOnUplink[];
};

export type GuestOnUplink = {
  readonly guest: string;
  readonly isProtectedPrimary: boolean;
  /** What the peer's agent said last; undefined when it is silent. */
  readonly peerUplinksUp: boolean | undefined;
  /** Since a hand-over was asked for the last time. */
  readonly askedBeforeMs: number;
};

/** For longer than this it is down. */
export const FLAP_MS = 500;
const ASK_AGAIN_MS = 10_000;

export function planUplinkHandOver({ downForMs, guests }: UplinkView): readonly string[] {
  if (downForMs < FLAP_MS) {
    return [];
  }
  return guests
    .filter(
      ({ isProtectedPrimary, peerUplinksUp, askedBeforeMs }) =>
        isProtectedPrimary && peerUplinksUp === true && askedBeforeMs >= ASK_AGAIN_MS,
    )
    .map(({ guest }) => guest);
}
