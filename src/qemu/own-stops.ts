/**
 * Which STOP and RESUME events are this process's own doing.
 *
 * QEMU reports both on the monitor before it answers the command that caused them, so while such a command is under way
 * they may be ours. Counted per monitor, as a checkpoint may overlap with the end of a mirror.
 */
import { type QmpClient } from "./qmp-client.ts";

const underWay = new WeakMap<QmpClient, Set<Promise<void>>>();

export function hasOwnStop(qmp: QmpClient): boolean {
  return (underWay.get(qmp)?.size ?? 0) > 0;
}

/** Counts the stop from now until `answered` settles, which it must without rejecting. */
export function countOwnStop(qmp: QmpClient, answered: Promise<unknown>): void {
  const stops = underWay.get(qmp) ?? new Set();
  underWay.set(qmp, stops);
  const stop = answered.then(() => {
    stops.delete(stop);
  });
  stops.add(stop);
}

/** Resolves when none of those that are under way now is any more. */
export async function waitForOwnStops(qmp: QmpClient): Promise<void> {
  await Promise.all([...(underWay.get(qmp) ?? [])]);
}
