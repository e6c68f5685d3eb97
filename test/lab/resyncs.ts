/** What was copied to a standby, by the engines' own logs, and how to change a known share of a disk inside the guest. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { guestPorts, syncedLayout } from "./guests.ts";
import { type Lab } from "./hosts.ts";
import { type PairHost, type PlacedGuest } from "./placement.ts";

export type LoggedResync = {
  readonly ram: string;
  /** delta, hashes or full. */
  readonly disks: string;
  readonly seconds: number;
  readonly mib: number;
  readonly atMs: number;
};

/** Whole copies to standbys, by engines of `host`, oldest first. */
export function readResyncs(lab: Lab, host: PairHost): readonly LoggedResync[] {
  const path = join(lab.logDirectory, `agent-${host}.log`);
  const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
  return lines
    .filter((line) => line.includes('"msg":"copied what the standby lacked"'))
    .map((line) => {
      const { time, ...resync } = JSON.parse(line) as LoggedResync & { readonly time: string };
      return { ...resync, atMs: Date.parse(time) };
    });
}

const GRANULE_SECTORS = 128;
/** Granules of 64 KiB in the region of one connection of the synced service. */
const GRANULES_EACH = syncedLayout.sectorsEach / GRANULE_SECTORS;

/** Lets the guest write one sector in each of so many granules of its disk, through the last connections of its service. */
export async function touchGranules(lab: Lab, guest: PlacedGuest, granules: number): Promise<void> {
  const connections = Array.from({ length: Math.ceil(granules / GRANULES_EACH) }, (_, index) => index + 1);
  const touch = (fromEnd: number): Promise<string> => {
    const port = guestPorts.synced + syncedLayout.connectionsMax - fromEnd;
    const script = [
      `exec 3<>/dev/tcp/${guest.address}/${port}`,
      `for ((n = 0; n < ${syncedLayout.sectorsEach}; n += ${GRANULE_SECTORS}))`,
      `do echo $n >&3; read -r -u 3 reply || exit 1; done`,
    ];
    return lab.execute("c", ["bash", "-c", script.join("; ")]);
  };
  await Promise.all(connections.map(touch));
}
