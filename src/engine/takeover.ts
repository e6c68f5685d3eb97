/** How a waiting QEMU becomes the guest: everything acknowledged is on disk and in memory; the state is loaded, and it runs. */
import { assert } from "../lib/assert.ts";
import { type Activation, type ResizedNode, type Standby } from "../qemu/standby.ts";
import { type Log } from "../telemetry/log.ts";
import { type Guest } from "./guest.ts";
import { type Reception } from "./reception.ts";
import { type StandbyDisk } from "./standby-disk.ts";

export type TakeoverParts = {
  readonly guest: Guest;
  readonly standby: Standby;
  readonly reception: Reception;
  readonly disks: readonly StandbyDisk[];
};

/** Its output is held. */
export async function bringToLife({ guest, standby, reception, disks }: TakeoverParts): Promise<Activation> {
  await Promise.all(disks.map((disk) => disk.settle()));
  guest.shim.gate.setMode("held");
  if (reception.deviceState !== undefined) {
    return standby.activate(reception.deviceState);
  }
  assert(reception.isBootOnly, "a takeover has a device state, or disks to boot from");
  // Power may go here too, and what the guest was told to be on its disk has to be there after that.
  await Promise.all(disks.map((disk) => disk.sync()));
  return standby.boot(guest.bootState);
}

/** Lets the guest know; a failure is no failure of the takeover. */
export function tellSizes({ guest, standby, disks }: TakeoverParts, log: Log): void {
  void standby.tellSizes(listResized(guest, disks)).catch((error: unknown) => {
    log.warn({ error }, "a disk's device was not told its size");
  });
}

/** Disks that have another size now than the device saw when QEMU was started. */
function listResized(guest: Guest, standbyDisks: readonly StandbyDisk[]): readonly ResizedNode[] {
  return guest.disks.flatMap(({ device, bytesInQemu, isElastic, isReadOnly }, index) => {
    const bytes = standbyDisks[index]?.bytes;
    const isTold = !isElastic || isReadOnly || bytes === undefined || bytes === bytesInQemu;
    return isTold ? [] : [{ node: device, bytes }];
  });
}
