/**
 * What has failed of this side's disks, over the lives of its engines: one that starts over on account of a disk must neither
 * forget why, nor try again at once and for ever. A fault is healed when both sides are in sync again; one that comes back soon
 * counts on from there.
 *
 * Kept in the guest's run directory as disk-faults.json, which goes with the host's boot.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type DiskFault = {
  /** For people: what failed, where, and what to do. */
  readonly message: string;
  /** Not worn: there is no room. */
  readonly isFull: boolean;
  readonly count: number;
  /** Wall clock: it is read by another process. */
  readonly lastAtMs: number;
  readonly isHealed: boolean;
};

const RETRY_FIRST_MS = 1_000;
/** A volume that was enlarged or replaced is used this much later at most. */
const RETRY_LAST_MS = 30_000;
const FORGET_MS = 10 * 60_000;
/** Shorter than any rest: requests that were under way together fail together, and that is one failure. */
const TOGETHER_MS = 500;

/** How long to leave a disk alone that has failed so often. */
export function planRestMs(count: number): number {
  return Math.min(RETRY_LAST_MS, RETRY_FIRST_MS * 2 ** Math.min(count - 1, 10));
}

/** One more failure, or another request of the last one. */
export function planFault(
  before: DiskFault | undefined,
  now: Pick<DiskFault, "message" | "isFull">,
  nowMs: number,
): DiskFault {
  if (before === undefined || nowMs - before.lastAtMs >= FORGET_MS) {
    return { ...now, count: 1, lastAtMs: nowMs, isHealed: false };
  }
  const isTogether = !before.isHealed && nowMs - before.lastAtMs < TOGETHER_MS;
  return { ...now, count: isTogether ? before.count : before.count + 1, lastAtMs: nowMs, isHealed: false };
}

export class DiskFaults {
  readonly #path: string;
  readonly #faults: Map<string, DiskFault>;

  constructor(runDirectory: string) {
    this.#path = join(runDirectory, "disk-faults.json");
    this.#faults = new Map(Object.entries(readFaults(this.#path)));
  }

  /** Those that are not healed. */
  list(): readonly DiskFault[] {
    return [...this.#faults.values()].filter(({ isHealed }) => !isHealed);
  }

  note(id: string, now: Pick<DiskFault, "message" | "isFull">): void {
    this.#faults.set(id, planFault(this.#faults.get(id), now, Date.now()));
    this.#write();
  }

  /** Every disk works. */
  heal(): void {
    if (this.list().length > 0) {
      this.#faults.forEach((fault, id) => this.#faults.set(id, { ...fault, isHealed: true }));
      this.#write();
    }
  }

  /** How long to leave the disks alone yet. */
  get restMs(): number {
    const nowMs = Date.now();
    const rests = this.list().map(({ count, lastAtMs }) => {
      const restMs = planRestMs(count);
      // A clock that was set back must not make it longer.
      return Math.min(restMs, lastAtMs + restMs - nowMs);
    });
    return Math.max(0, ...rests);
  }

  #write(): void {
    const temporary = `${this.#path}.new`;
    writeFileSync(temporary, JSON.stringify(Object.fromEntries(this.#faults)), { mode: 0o600 });
    renameSync(temporary, this.#path);
  }
}

/** None where there is no file that can be read: nothing is known then. */
function readFaults(path: string): Readonly<Record<string, DiskFault>> {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, DiskFault>;
  } catch {
    return {};
  }
}

const PREFIX = "disk ";

/** How a failed disk is spoken of, on both sides alike. */
export const sayDiskFault = (id: string, what: string): string => `${PREFIX}${id}: ${what}`;

/** Whether the reason that the peer gives is a disk of its own. */
export const isOfDisk = (reason: string): boolean => reason.startsWith(PREFIX);
