/**
 * Copies the granules of a disk that the standby lacks, while the guest goes on writing to it.
 *
 * The order that keeps newer data from being overwritten by older: a mirrored write enters the stream the moment QEMU
 * sends it, and QEMU writes the local image first. A granule is taken from the map, read, and enters the stream only
 * if no mirrored write has touched it since it was taken; else what was read is thrown away and the granule is marked
 * again. So in the stream, whose order the standby keeps, data read here never follows a write it does not contain.
 *
 * Holes of a sparse image are not read: they go out as one zero record a run, and so does what is read and is zero.
 */
import { type FileHandle } from "node:fs/promises";
import { allocateAligned } from "../memory/block-device.ts";
import { type DirtyMap, GRANULE_BYTES } from "./dirty-map.ts";

/** Where the copied data goes: the replication stream. */
export interface CopyStream {
  sendDisk(disk: number, offset: number, data: Buffer): void;
  sendDiskZero(disk: number, offset: number, bytes: number): void;
  /** A promise while nothing more may be copied. */
  room(): Promise<void> | undefined;
}

/** The parts of [offset, offset + bytes) that hold data, in order; what is between them is zero. */
export type DataExtents = (fd: number, offset: number, bytes: number) => readonly { offset: number; bytes: number }[];

const RUN_BYTES_MAX = 1024 * 1024;
const ZEROS = Buffer.alloc(RUN_BYTES_MAX);
const READS_AT_ONCE = 3;

export class DiskCopy {
  readonly #disk: number;
  readonly #file: FileHandle;
  readonly #map: DirtyMap;
  readonly #stream: CopyStream;
  readonly #dataExtents: DataExtents;
  /** Granules taken from the map whose data has not entered the stream; true once touched. */
  readonly #taken = new Map<number, boolean>();
  #stopped = false;
  /** Bytes of the disk dealt with so far, zero runs included. */
  copiedBytes = 0;

  constructor(options: {
    readonly disk: number;
    readonly file: FileHandle;
    readonly map: DirtyMap;
    readonly stream: CopyStream;
    readonly dataExtents: DataExtents;
  }) {
    this.#disk = options.disk;
    this.#file = options.file;
    this.#map = options.map;
    this.#stream = options.stream;
    this.#dataExtents = options.dataExtents;
  }

  /** A mirrored write of the guest enters the stream now. */
  touch(offset: number, bytes: number): void {
    if (this.#taken.size === 0 || bytes <= 0) {
      return;
    }
    const last = Math.floor((offset + bytes - 1) / GRANULE_BYTES);
    for (let granule = Math.floor(offset / GRANULE_BYTES); granule <= last; granule += 1) {
      if (this.#taken.has(granule)) {
        this.#taken.set(granule, true);
      }
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Resolves when the map is empty or the copy was stopped. */
  async run(): Promise<void> {
    await Promise.all(Array.from({ length: READS_AT_ONCE }, () => this.#copyRuns()));
    if (!this.#stopped && this.#map.dirtyCount > 0) {
      await this.run(); // Touched granules were marked again after the other readers had gone.
    }
  }

  async #copyRuns(): Promise<void> {
    let cursor = 0;
    while (!this.#stopped) {
      const room = this.#stream.room();
      if (room !== undefined) {
        await room;
        continue;
      }
      let start = this.#map.next(cursor);
      if (start < 0) {
        start = this.#map.next(0);
      }
      if (start < 0) {
        return;
      }
      cursor = await this.#copyRun(start);
    }
  }

  /** Copies one run that begins at `start`; the granule after it. */
  async #copyRun(start: number): Promise<number> {
    const granules = this.#take(start);
    const offset = start * GRANULE_BYTES;
    const bytes = Math.min(granules * GRANULE_BYTES, this.#map.diskBytes - offset);
    const extents = this.#dataExtents(this.#file.fd, offset, bytes);
    const [first] = extents;
    if (first === undefined) {
      this.#give(start, granules, undefined);
      return start + granules;
    }
    const data = allocateAligned(bytes);
    let filled = 0;
    while (filled < bytes) {
      const { bytesRead } = await this.#file.read(data, filled, bytes - filled, offset + filled);
      if (bytesRead === 0) {
        data.fill(0, filled); // The image is shorter than its rounded size.
        break;
      }
      filled += bytesRead;
    }
    // Block devices know no holes.
    this.#give(start, granules, data.equals(ZEROS.subarray(0, bytes)) ? undefined : data);
    return start + granules;
  }

  /** Takes a run of dirty granules that is all data or all hole as far as its first granule tells. */
  #take(start: number): number {
    const limit = Math.min(this.#map.granuleCount, start + this.#runGranulesMax(start));
    let end = start;
    while (end < limit && this.#map.has(end)) {
      this.#map.clear(end);
      this.#taken.set(end, false);
      end += 1;
    }
    return end - start;
  }

  /** A hole may be told in one record however long; data is read in pieces. */
  #runGranulesMax(start: number): number {
    const offset = start * GRANULE_BYTES;
    const [first] = this.#dataExtents(this.#file.fd, offset, this.#map.diskBytes - offset);
    const hole =
      first === undefined ? this.#map.granuleCount - start : Math.floor((first.offset - offset) / GRANULE_BYTES);
    return hole > 0 ? hole : RUN_BYTES_MAX / GRANULE_BYTES;
  }

  #give(start: number, granules: number, data: Buffer | undefined): void {
    let from = start;
    for (let granule = start; granule <= start + granules; granule += 1) {
      const touched = granule < start + granules ? this.#taken.get(granule) : true;
      this.#taken.delete(granule);
      if (touched !== true) {
        continue;
      }
      this.#send(start, from, granule, data);
      if (granule < start + granules) {
        this.#map.mark(granule * GRANULE_BYTES, 1);
      }
      from = granule + 1;
    }
  }

  #send(start: number, from: number, to: number, data: Buffer | undefined): void {
    if (to <= from || this.#stopped) {
      return;
    }
    const offset = from * GRANULE_BYTES;
    const bytes = Math.min(to * GRANULE_BYTES, this.#map.diskBytes) - offset;
    if (data === undefined) {
      this.#stream.sendDiskZero(this.#disk, offset, bytes);
    } else {
      const at = (from - start) * GRANULE_BYTES;
      this.#stream.sendDisk(this.#disk, offset, data.subarray(at, at + bytes));
    }
    this.copiedBytes += bytes;
  }
}
