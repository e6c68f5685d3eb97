/**
 * The standby's copy of one disk: writes are applied strictly in the order they were given.
 *
 * The image is written underneath a QEMU that waits in `-incoming defer`; its block node is inactive until the takeover
 * (not locked, caches invalid), so nobody else touches the file. Neighbouring writes are joined into one system call.
 *
 * A block device is written through the page cache as well. QEMU, which goes past it, still finds what was written: the kernel
 * writes back what it has of a place before it lets a direct read or write get there.
 */
import { ftruncateSync } from "node:fs";
import { type FileHandle } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { monotonicMs } from "../telemetry/clock.ts";
import { Failure } from "../lib/failure.ts";
import { type OpenedDisk, openForWriting, tryZeroRange } from "../memory/block-device.ts";
import { sayDiskFault } from "./disk-faults.ts";
import { type PlacedDisk } from "./placed-disks.ts";

export type StandbyDiskFailureDetail = {
  readonly code: "StandbyDiskFailed";
  readonly disk: string;
  readonly path: string;
  readonly errno: string;
};
export class StandbyDiskFailure extends Failure<StandbyDiskFailureDetail> {}

type Write = { readonly offset: number; readonly data: Buffer | undefined; readonly bytes: number };

/** Frees a run of a file so that it reads as zero. */
export type PunchHole = (fd: number, offset: number, bytes: number) => void;

const JOIN_WRITES_MAX = 256;
/** A device may take its time for zeros, and nothing else happens meanwhile. */
const ZERO_BYTES_MAX = 32 * 1024 * 1024;
const ZEROS = Buffer.alloc(1024 * 1024);

/** A request that takes longer will not come back while anybody still waits for the guest. */
const STALL_MS = 5_000;

/** Requests that have ended since somebody looked. */
export type DiskSample = { readonly count: number; readonly totalMs: number };

export class StandbyDisk {
  readonly id: string;
  readonly path: string;
  readonly file: FileHandle;
  #bytes: number;
  readonly #punchHole: PunchHole;
  readonly isDevice: boolean;
  /** False once it has refused. */
  #deviceZeros = true;
  #queue: Write[] = [];
  #running: Promise<void> | undefined;
  #waitingBytes = 0;
  #written = false;
  #sample = { count: 0, totalMs: 0 };
  /** Of the requests under way. */
  readonly #startedAtMs = new Set<number>();
  failure: StandbyDiskFailure | undefined;
  /** Called once, at the first request that fails: nothing after it is written either. */
  onFailed: (failure: StandbyDiskFailure) => void = () => undefined;

  private constructor({ id, path }: Pick<PlacedDisk, "id" | "path">, opened: OpenedDisk, punchHole: PunchHole) {
    this.id = id;
    this.path = path;
    this.file = opened.file;
    this.#bytes = opened.bytes;
    this.isDevice = opened.isDevice;
    this.#punchHole = punchHole;
  }

  static async open(place: Pick<PlacedDisk, "id" | "path">, punchHole: PunchHole): Promise<StandbyDisk> {
    return new StandbyDisk(place, await openForWriting(place.path), punchHole);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** For a file that takes the size of the primary's; before the first write of a session. */
  resize(bytes: number): void {
    if (bytes !== this.#bytes) {
      ftruncateSync(this.file.fd, bytes);
      this.#bytes = bytes;
    }
  }

  /** Bytes given but not written yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  write(offset: number, data: Buffer): void {
    this.#add({ offset, data, bytes: data.length });
  }

  zero(offset: number, bytes: number): void {
    this.#add({ offset, data: undefined, bytes });
  }

  /** Resolves when everything given so far is in the file; throws the first failure there ever was. */
  async settle(): Promise<void> {
    while (this.#running !== undefined) {
      await this.#running;
    }
    if (this.failure !== undefined) {
      throw this.failure;
    }
  }

  /** Makes what was written durable; cheap when nothing was. */
  async sync(): Promise<void> {
    await this.settle();
    if (this.#written) {
      this.#written = false;
      await this.#measure(() => this.file.datasync()).catch((cause: unknown) => {
        this.#fail("writing", cause);
      });
      await this.settle();
    }
  }

  /** To be called when reading it failed: what it holds cannot be known. */
  readFailed(cause: unknown): StandbyDiskFailure {
    return this.#fail("reading", cause);
  }

  /** How long requests took since the last call. */
  takeSample(): DiskSample {
    const sample = this.#sample;
    this.#sample = { count: 0, totalMs: 0 };
    return sample;
  }

  /** To be called now and then: a request that does not come back is a failure as well. */
  checkStall(nowMs: number): void {
    const [oldestMs = nowMs] = this.#startedAtMs;
    if (nowMs - oldestMs > STALL_MS && this.failure === undefined) {
      this.#fail("writing", new Error(`no answer within ${STALL_MS} ms`));
    }
  }

  async #measure<T>(request: () => Promise<T>): Promise<T> {
    const startedAtMs = monotonicMs();
    this.#startedAtMs.add(startedAtMs);
    try {
      return await request();
    } finally {
      this.#startedAtMs.delete(startedAtMs);
      this.#sample.count += 1;
      this.#sample.totalMs += monotonicMs() - startedAtMs;
    }
  }

  #fail(operation: "reading" | "writing", cause: unknown): StandbyDiskFailure {
    if (this.failure === undefined) {
      const { code: errno = "unknown", message } = cause as NodeJS.ErrnoException;
      const remedy = "free or replace the standby's volume, then it is synchronised anew";
      const says = sayDiskFault(this.id, `${operation} ${this.path} failed: ${message}; ${remedy}`);
      const detail = { code: "StandbyDiskFailed", disk: this.id, path: this.path, errno } as const;
      this.failure = new StandbyDiskFailure(detail, says, { cause });
      this.#queue = [];
      this.#waitingBytes = 0;
      this.onFailed(this.failure);
    }
    return this.failure;
  }

  async close(): Promise<void> {
    this.#queue = [];
    await this.#running?.catch(() => undefined);
    await this.file.close().catch(() => undefined); // Some tell now of a write that failed; whoever wants to know calls sync.
  }

  #add(write: Write): void {
    if (this.failure !== undefined) {
      return;
    }
    this.#queue.push(write);
    this.#waitingBytes += write.data?.length ?? 0;
    this.#running ??= this.#drain();
  }

  /** Over as soon as there is nothing left, in the same turn: what is given a moment later begins another. */
  async #drain(): Promise<void> {
    try {
      for (let batch = this.#takeBatch(); batch[0] !== undefined; batch = this.#takeBatch()) {
        const [first] = batch;
        await this.#measure(() => this.#apply(first, batch));
        this.#written = true;
        for (const write of batch) {
          this.#waitingBytes -= write.data?.length ?? 0;
        }
      }
    } catch (cause) {
      this.#fail("writing", cause);
    } finally {
      this.#running = undefined;
    }
  }

  async #apply(first: Write, batch: readonly Write[]): Promise<void> {
    if (first.data === undefined) {
      if (this.isDevice) {
        await this.#zeroDevice(first);
      } else {
        this.#punchHole(this.file.fd, first.offset, first.bytes);
      }
      return;
    }
    const parts = batch.map(({ data }) => data ?? Buffer.alloc(0));
    const total = parts.reduce((sum, part) => sum + part.length, 0);
    const { bytesWritten } = await this.file.writev(parts, first.offset);
    if (bytesWritten < total) {
      // A short write of a regular file means that the volume is full; the next one says so.
      const rest = Buffer.concat(parts).subarray(bytesWritten);
      await writeAll(this.file, rest, first.offset + bytesWritten);
    }
  }

  /** Not every device can zero a run, and none less than its sectors. */
  async #zeroDevice({ offset, bytes }: Write): Promise<void> {
    for (let done = 0; done < bytes;) {
      const length = Math.min(this.#deviceZeros ? ZERO_BYTES_MAX : ZEROS.length, bytes - done);
      if (this.#deviceZeros && tryZeroRange(this.file.fd, offset + done, length)) {
        await setImmediate();
      } else if (length <= ZEROS.length) {
        await writeAll(this.file, ZEROS.subarray(0, length), offset + done);
      } else {
        this.#deviceZeros = false;
        continue;
      }
      done += length;
    }
  }

  /** A zero run alone, or data that is contiguous on the disk. */
  #takeBatch(): Write[] {
    const [first] = this.#queue;
    if (first === undefined) {
      return [];
    }
    let count = 1;
    if (first.data !== undefined) {
      let end = first.offset + first.bytes;
      for (
        let next = this.#queue[count];
        next?.data !== undefined && next.offset === end && count < JOIN_WRITES_MAX;
        next = this.#queue[count]
      ) {
        end += next.bytes;
        count += 1;
      }
    }
    return this.#queue.splice(0, count);
  }
}

async function writeAll(file: FileHandle, data: Buffer, offset: number): Promise<void> {
  let written = 0;
  while (written < data.length) {
    const { bytesWritten } = await file.write(data, written, data.length - written, offset + written);
    written += bytesWritten;
  }
}
