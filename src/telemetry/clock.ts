/**
 * Time that only moves forward, in milliseconds with fractions.
 *
 * The zero point is the host's boot (CLOCK_MONOTONIC), so that times from two processes of one host may be compared. Two
 * hosts' times never may, and no decision of Twinrun does.
 */
const originMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export function monotonicMs(): number {
  return originMs + performance.now();
}

/** The clock as the rest of the program takes it, so that tests can turn it by hand. */
export type Clock = { readonly nowMs: () => number };

export const monotonicClock: Clock = { nowMs: monotonicMs };
