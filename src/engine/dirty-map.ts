/**
 * Which granules of a disk the other side does not have as we have them.
 *
 * One byte a granule of 64 KiB: 16 KiB of map for a GiB of disk. The copy loop takes granules from the map, reads them
 * and sends them, while the guest goes on writing; `touch` marks a granule that was written after it had been taken, so
 * that the data read before is thrown away instead of overtaking newer data (see disk-copy.ts).
 */
export const GRANULE_BYTES = 64 * 1024;

export class DirtyMap {
  readonly diskBytes: number;
  readonly granuleCount: number;
  readonly #bits: Uint8Array;
  #dirtyCount = 0;

  constructor(diskBytes: number) {
    this.diskBytes = diskBytes;
    this.granuleCount = Math.ceil(diskBytes / GRANULE_BYTES);
    this.#bits = new Uint8Array(this.granuleCount);
  }

  get dirtyCount(): number {
    return this.#dirtyCount;
  }

  has(granule: number): boolean {
    return this.#bits[granule] === 1;
  }

  /** Marks every granule that [offset, offset + bytes) touches. */
  mark(offset: number, bytes: number): void {
    if (bytes <= 0) {
      return;
    }
    const last = Math.min(this.granuleCount - 1, Math.floor((offset + bytes - 1) / GRANULE_BYTES));
    for (let granule = Math.floor(offset / GRANULE_BYTES); granule <= last; granule += 1) {
      if (this.#bits[granule] === 0) {
        this.#bits[granule] = 1;
        this.#dirtyCount += 1;
      }
    }
  }

  markAll(): void {
    this.#bits.fill(1);
    this.#dirtyCount = this.granuleCount;
  }

  clear(granule: number): void {
    if (this.#bits[granule] === 1) {
      this.#bits[granule] = 0;
      this.#dirtyCount -= 1;
    }
  }

  clearAll(): void {
    this.#bits.fill(0);
    this.#dirtyCount = 0;
  }

  /** The first dirty granule at or after `from`, or -1. */
  next(from: number): number {
    return this.#bits.indexOf(1, from);
  }

  /** Adds what the other map has. */
  union(other: DirtyMap): void {
    for (let granule = other.next(0); granule >= 0; granule = other.next(granule + 1)) {
      this.mark(granule * GRANULE_BYTES, 1);
    }
  }

  /** Runs {start, count} of dirty granules, for the wire. */
  runs(): { readonly start: number; readonly count: number }[] {
    const runs: { start: number; count: number }[] = [];
    let start = this.next(0);
    while (start >= 0) {
      const clean = this.#bits.indexOf(0, start);
      const end = clean < 0 ? this.granuleCount : clean;
      runs.push({ start, count: end - start });
      start = this.next(end);
    }
    return runs;
  }
}
