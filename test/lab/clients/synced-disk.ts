/**
 * What the synced service leaves on the disk (test/lab/images/busybox/serve-synced.sh): number N of connection C in sector
 * C * 16384 + N % 16384 as the text "C N". The same check serves the running guest and the raw image of a stopped one.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { syncedLayout } from "../guests.ts";
import { type Verdict } from "./conversation.ts";

export type SyncedRange = {
  /** The guest's name for it. */
  readonly disk: "vda" | "vdb";
  readonly firstSector: number;
  readonly sectorsCount: number;
};

/** The sectors that connection `connection` has used when `acknowledged` numbers were acknowledged. */
export function syncedRange(connection: number, acknowledged: number, disksCount: number): SyncedRange {
  return {
    disk: disksCount > 1 && connection % 2 === 1 ? "vdb" : "vda",
    firstSector: connection * syncedLayout.sectorsEach,
    sectorsCount: acknowledged === 0 ? 0 : Math.min(acknowledged + 1, syncedLayout.sectorsEach),
  };
}

/** The acknowledged numbers that are not where they belong. `sectors` begins at the connection's first sector. */
export function findMissingNumber(sectors: Buffer, connection: number, acknowledged: number): Verdict | undefined {
  const { sectorsEach, sectorBytes } = syncedLayout;
  const textOf = (number: number): string => {
    const start = (number % sectorsEach) * sectorBytes;
    return sectors.toString("latin1", start, start + sectorBytes).replace(/[\n\0]+$/, "");
  };
  // One more may be there that was never acknowledged; it has then taken the place of the oldest.
  const oldest = Math.max(1, acknowledged - sectorsEach + 2);
  const numbers = Array.from({ length: Math.max(0, acknowledged - oldest + 1) }, (_, index) => oldest + index);
  const missing = numbers.filter((number) => textOf(number) !== `${connection} ${number}`);
  const [first] = missing;
  if (first === undefined) {
    return undefined;
  }
  const found = textOf(first) === "" ? "nothing" : `"${textOf(first).slice(0, 40)}"`;
  // A few in one place, all from some moment on, or a read that came to an early end: that tells them apart.
  const extent = `${missing.length} of ${numbers.length} are missing up to ${missing.at(-1) ?? first}`;
  const read = `${Math.floor(sectors.length / sectorBytes)} sectors were read`;
  const detail = `number ${first} was acknowledged, its sector holds ${found}; ${extent}; ${read}`;
  return { kind: "lost", detail };
}

/** The same for a raw image on this machine. `imagePaths` are the guest's disks in order. */
export function findMissingInImage(
  imagePaths: readonly string[],
  connection: number,
  acknowledged: number,
): Verdict | undefined {
  const { disk, firstSector, sectorsCount } = syncedRange(connection, acknowledged, imagePaths.length);
  const path = imagePaths[disk === "vda" ? 0 : 1] ?? "";
  const sectors = Buffer.alloc(sectorsCount * syncedLayout.sectorBytes);
  const file = openSync(path, "r");
  try {
    readSync(file, sectors, 0, sectors.length, firstSector * syncedLayout.sectorBytes);
  } finally {
    closeSync(file);
  }
  return findMissingNumber(sectors, connection, acknowledged);
}
