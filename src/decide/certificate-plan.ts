/**
 * When authorities and certificates are made anew.
 *
 *   no authority --create--> signing --two thirds of its life, or asked for--> signing, next announced
 *                               ^                                                     |
 *                               +--------- everybody has heard of the next one -------+
 *
 * An authority that is announced stands in the bundle everybody trusts, but signs nothing until each peer has had the time to
 * take the bundle up; that is why no connection fails in a rotation. One that has been replaced stays in the bundle until
 * whatever it signed has ended.
 */

export type Life = { readonly notBeforeMs: number; readonly notAfterMs: number };

export type AuthorityTiming = {
  /** Between an authority's entry into the bundle and its first signature. */
  readonly announceMs: number;
  /** The longest life of what it signs. */
  readonly leafMs: number;
};

export type AuthorityState = {
  /** Undefined: there is none yet. */
  readonly current: Life | undefined;
  readonly next: Life | undefined;
  /** The published bundle holds the next one. */
  readonly isNextPublished: boolean;
  /** When the current one began to sign. */
  readonly signingSinceMs: number;
  /** There is one that was replaced and is still trusted. */
  readonly hasPrevious: boolean;
  readonly isRotationAsked: boolean;
};

export type AuthorityAction = "create" | "announceNext" | "promoteNext" | "forgetPrevious" | "none";

/** One step; the next one is decided on what came of it. */
export function planAuthority(state: AuthorityState, nowMs: number, timing: AuthorityTiming): AuthorityAction {
  const { current, next } = state;
  if (current === undefined) {
    return "create";
  }
  if (next !== undefined) {
    const isHeardOf = state.isNextPublished && nowMs >= next.notBeforeMs + timing.announceMs;
    return isHeardOf ? "promoteNext" : "none";
  }
  if (state.isRotationAsked || isDue(current, nowMs)) {
    return "announceNext";
  }
  const lastLeafEndsMs = state.signingSinceMs + timing.leafMs + timing.announceMs;
  return state.hasPrevious && nowMs > lastLeafEndsMs ? "forgetPrevious" : "none";
}

export type LeafState = {
  /** Undefined: there is none that can be used. */
  readonly leaf: Life | undefined;
  /** By the authority that signs now. */
  readonly isOfCurrentAuthority: boolean;
  /** Names and addresses are those that are wanted now. */
  readonly isAsWanted: boolean;
  readonly hasCurrentBundle: boolean;
};

export type LeafAction = "issue" | "replaceBundle" | "none";

/** `early` in [0, 1): how much of the tenth of a life before the time is used, so that not all renew in the same moment. */
export function planLeaf(state: LeafState, nowMs: number, early = 0): LeafAction {
  const { leaf } = state;
  if (leaf === undefined || !state.isOfCurrentAuthority || !state.isAsWanted || isDue(leaf, nowMs, early)) {
    return "issue";
  }
  return state.hasCurrentBundle ? "none" : "replaceBundle";
}

/** At two thirds of its life, so that whoever makes certificates may be away for the last third. */
function isDue({ notBeforeMs, notAfterMs }: Life, nowMs: number, early = 0): boolean {
  return nowMs >= notBeforeMs + (notAfterMs - notBeforeMs) * (2 / 3 - early / 10);
}
