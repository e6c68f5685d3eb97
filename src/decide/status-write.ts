/**
 * When a status is worth a write: at once when something is new, every ten seconds at most when only figures moved. An API
 * server keeps every version of every object for a while; two thousand guests must not fill it with decimals.
 */
import { type ProtectedVmStatus } from "../api/protected-vm.ts";
import { isSameJson } from "../lib/json-merge.ts";

export const FIGURES_INTERVAL_MS = 10_000;

export type WrittenStatus<Status> = { readonly status: Status | undefined; readonly atMs: number | undefined };

export type StatusWrite =
  { readonly tag: "write" } | { readonly tag: "keep" } | { readonly tag: "later"; readonly afterMs: number };

export type StatusWriteContext<Status> = {
  /** What of a status is news the moment it changes. */
  readonly withoutFigures: (status: Status) => unknown;
  readonly nowMs: number;
};

export function decideStatusWrite<Status>(
  { status, atMs }: WrittenStatus<Status>,
  next: Status,
  { withoutFigures, nowMs }: StatusWriteContext<Status>,
): StatusWrite {
  if (status === undefined || !isSameJson(withoutFigures(status), withoutFigures(next))) {
    return { tag: "write" };
  }
  if (isSameJson(status, next)) {
    return { tag: "keep" };
  }
  const ageMs = atMs === undefined ? FIGURES_INTERVAL_MS : nowMs - atMs;
  return ageMs >= FIGURES_INTERVAL_MS ? { tag: "write" } : { tag: "later", afterMs: FIGURES_INTERVAL_MS - ageMs };
}

export function withoutFigures({ checkpoint, disks, conditions, faults, ...others }: ProtectedVmStatus): unknown {
  return {
    ...others,
    hasFigures: checkpoint !== undefined,
    disks: disks?.map(({ name }) => name),
    faults: faults?.map((record) => ({ ...record, count: 0, lastAt: "" })),
    // A latency in words is a figure too.
    conditions: conditions?.map(({ message, ...rest }) =>
      rest.type === "LatencyWithinBound" ? rest : { ...rest, message },
    ),
  };
}
