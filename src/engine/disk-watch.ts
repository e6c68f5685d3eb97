/** How fast each disk of this side answers, and which of them has become slow (disk-pace.ts). */
import { type DiskPace, freshDiskPace, observePace, type PaceSample, usualMsOf } from "./disk-pace.ts";
import { sayDiskFault } from "./disk-faults.ts";

export class DiskWatch {
  readonly #paces = new Map<string, DiskPace>();
  readonly #totals = new Map<string, PaceSample>();
  onChanged: (id: string, isSlow: boolean) => void = () => undefined;

  /** Requests that have ended since the last note. */
  note(id: string, sample: PaceSample): void {
    const before = this.#paces.get(id) ?? freshDiskPace;
    const now = observePace(before, sample);
    this.#paces.set(id, now);
    if (now.isSlow !== before.isSlow) {
      this.onChanged(id, now.isSlow);
    }
  }

  /** Requests that have ended since a moment that stays the same; less than before means another one. */
  noteTotals(id: string, totals: PaceSample): void {
    const before = this.#totals.get(id);
    this.#totals.set(id, totals);
    if (before !== undefined && totals.count >= before.count) {
      this.note(id, { count: totals.count - before.count, totalMs: totals.totalMs - before.totalMs });
    }
  }

  /** Begins anew. A disk that was slow is not known to be so any more. */
  forget(): void {
    const slow = [...this.#paces].filter(([, { isSlow }]) => isSlow).map(([id]) => id);
    this.#paces.clear();
    this.#totals.clear();
    for (const id of slow) {
      this.onChanged(id, false);
    }
  }

  /** For people: each disk that is slow now. */
  listSlow(): readonly string[] {
    return [...this.#paces].filter(([, { isSlow }]) => isSlow).map(([id, pace]) => saySlow(id, pace));
  }
}

function saySlow(id: string, pace: DiskPace): string {
  const usual = pace.usualLog === undefined ? "" : `, usually ${sayMs(usualMsOf(pace))}`;
  const remedy = "look at its volume, and at what else uses it, before it holds the guest up";
  return sayDiskFault(id, `a request takes ${sayMs(pace.meanMs)}${usual}: ${remedy}`);
}

const sayMs = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
