/**
 * Which STOP and RESUME events are this process's own doing.
 *
 * QEMU reports both on the monitor before it answers the command that caused them, so while such a command is under way
 * they are ours. Counted per monitor, as a checkpoint may overlap with the end of a mirror.
 */
import { type QmpClient } from "./qmp-client.ts";

const underWay = new WeakMap<QmpClient, number>();

export function hasOwnStop(qmp: QmpClient): boolean {
  return (underWay.get(qmp) ?? 0) > 0;
}

/** Counts the stop from now until `answered` settles, which it must without rejecting. */
export function countOwnStop(qmp: QmpClient, answered: Promise<unknown>): void {
  underWay.set(qmp, (underWay.get(qmp) ?? 0) + 1);
  void answered.then(() => {
    underWay.set(qmp, (underWay.get(qmp) ?? 1) - 1);
  });
}
