/**
 * Who may lead, from what is known of a Lease. Pure.
 *
 * Wall clocks of different machines are never compared: a holder's time runs from when we saw its last renewal, on our own clock.
 * Safe because a leader gives up `leaseMs - renewMs` before anybody else may begin, counted from before it sent the renewal.
 */
export type ElectionTiming = {
  /** A holder that did not renew for so long may be replaced. */
  readonly leaseMs: number;
  /** A leader that could not renew for so long gives up. */
  readonly renewMs: number;
  readonly retryMs: number;
};

/** The spec of a coordination.k8s.io/v1 Lease; times are `2026-11-27T16:00:00.000000Z`. */
export type LeaseSpec = {
  readonly holderIdentity?: string | undefined;
  readonly leaseDurationSeconds?: number | undefined;
  readonly acquireTime?: string | undefined;
  readonly renewTime?: string | undefined;
  readonly leaseTransitions?: number | undefined;
};

/** What we saw, and when we saw it for the first time. */
export type Observation = { readonly resourceVersion: string; readonly sinceMs: number };

/** The same version seen again is no sign of life. */
export function observe(
  before: Observation | undefined,
  resourceVersion: string | undefined,
  nowMs: number,
): Observation | undefined {
  if (resourceVersion === undefined) {
    return undefined;
  }
  return before?.resourceVersion === resourceVersion ? before : { resourceVersion, sinceMs: nowMs };
}

export type Candidate = { readonly identity: string; readonly nowMs: number; readonly timing: ElectionTiming };

/** Whether the lease is free, ours, or its holder has been silent for too long. */
export function mayHold(
  spec: LeaseSpec | undefined,
  observation: Observation | undefined,
  { identity, nowMs, timing }: Candidate,
): boolean {
  const holder = spec?.holderIdentity ?? "";
  if (holder === "" || holder === identity) {
    return true;
  }
  // The holder may have been told another time than we.
  const leaseMs = Math.max(timing.leaseMs, (spec?.leaseDurationSeconds ?? 0) * 1_000);
  return observation !== undefined && nowMs - observation.sinceMs >= leaseMs;
}

/** The lease as we write it to get or keep it. */
export function claim(
  spec: LeaseSpec | undefined,
  { identity, timing }: Omit<Candidate, "nowMs">,
  wallTime: string,
): LeaseSpec {
  const isRenewal = spec?.holderIdentity === identity;
  return {
    holderIdentity: identity,
    leaseDurationSeconds: Math.ceil(timing.leaseMs / 1_000),
    acquireTime: isRenewal ? (spec.acquireTime ?? wallTime) : wallTime,
    renewTime: wallTime,
    leaseTransitions: (spec?.leaseTransitions ?? 0) + (isRenewal || spec === undefined ? 0 : 1),
  };
}

/** Nobody's: the next candidate need not wait. */
export function disclaim(spec: LeaseSpec, wallTime: string): LeaseSpec {
  return { ...spec, holderIdentity: "", leaseDurationSeconds: 1, renewTime: wallTime };
}
