/**
 * What a guest has gone through: one entry for each thing it did, linked to the one before. A reply carries the entry that
 * made it, so whoever saw the reply can tell whether a guest that runs later has lived through the same.
 *
 * Memory and disk of a simulated guest hold entries too: entry N writes page 0 (the newest entry) and one other page in turn;
 * entries that answer a request also write the disk in this way. So a page that a copy forgot shows at once.
 */
export type History = {
  readonly index: number;
  readonly before: History | undefined;
  readonly kind: "boot" | "request" | "tick";
  /** Number of the newest request in this history. */
  readonly request: number;
  /** The newest entry of kind request; the entry itself if it is one. */
  readonly lastRequest: History | undefined;
};

export type Cell = History | undefined;

export const RAM_PAGES = 7;
export const DISK_BLOCKS = 5;

export function addHistory(before: History | undefined, kind: History["kind"]): History {
  const entry: { -readonly [Key in keyof History]: History[Key] } = {
    index: (before?.index ?? 0) + 1,
    before,
    kind,
    request: (before?.request ?? 0) + (kind === "request" ? 1 : 0),
    lastRequest: before?.lastRequest,
  };
  if (kind === "request") {
    entry.lastRequest = entry;
  }
  return entry;
}

/** Whether `entry` is part of the past of `head`. */
export function hasLived(head: History | undefined, entry: History): boolean {
  let at = head;
  while (at !== undefined && at.index > entry.index) {
    at = at.before;
  }
  return at === entry;
}

export function findRequest(head: History | undefined, request: number): History | undefined {
  let at = head?.lastRequest;
  while (at !== undefined && at.request > request) {
    at = at.before?.lastRequest;
  }
  return at?.request === request ? at : undefined;
}

export function pageOf(entry: History): number {
  return 1 + (entry.index % (RAM_PAGES - 1));
}

export function blockOf(entry: History): number {
  return 1 + (entry.request % (DISK_BLOCKS - 1));
}

/** Whether the disk is what a guest with its newest request would have written: nothing lost, nothing torn. */
export function isDiskWhole(disk: readonly Cell[]): boolean {
  let at = disk[0];
  for (let count = 1; count < DISK_BLOCKS && at !== undefined; count += 1) {
    if (disk[blockOf(at)] !== at) {
      return false;
    }
    at = at.before?.lastRequest;
  }
  return true;
}

export function isRamWhole(ram: readonly Cell[]): boolean {
  let at = ram[0];
  for (let count = 1; count < RAM_PAGES && at !== undefined && at.kind !== "boot"; count += 1) {
    if (ram[pageOf(at)] !== at) {
      return false;
    }
    at = at.before;
  }
  return true;
}

export function isSame(one: readonly Cell[], other: readonly Cell[]): boolean {
  return one.length === other.length && one.every((cell, index) => cell === other[index]);
}
