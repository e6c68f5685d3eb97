/**
 * A FIFO that holds its writer: who writes into it stays blocked until this side says so.
 *
 * Before each use the pipe is filled with junk up to some room. A writer can put in as many bytes as there is room and
 * then blocks; only draining lets it finish. `opened` tells when a writer has opened the FIFO.
 *
 * The pipe belongs to the FIFO's inode and lives as long as somebody has it open; the keeper, a non-blocking reader, does
 * all the time. It also makes the writer's open return at once: what a writer waits for is room, never a reader.
 */
import { execFile } from "node:child_process";
import { closeSync, constants, open, openSync, readSync, unlinkSync, writeSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { promisify } from "node:util";
import { Failure } from "../lib/failure.ts";

export type HeldPipeFailureDetail =
  | { readonly code: "FifoUnusable"; readonly path: string }
  | { readonly code: "WriterTooSlow"; readonly afterMs: number };
export class HeldPipeFailure extends Failure<HeldPipeFailureDetail> {}

export const PAGE_BYTES = 4096;

/** Makes the pipe behind a descriptor at least so large; returns its size, or -1 when the kernel refuses. */
export type EnlargePipe = (descriptor: number, bytes: number) => number;
/** How long draining may keep the event loop; a slower writer is waited for with timers. */
const SYNCHRONOUS_WAIT_MS = 20;
const POLL_MS = 0.03;
const WAKE_AGAIN_MS = 5;

const run = promisify(execFile);

export class HeldPipe {
  readonly path: string;
  readonly #keeper: number;
  readonly #enlarge: EnlargePipe;
  readonly #junk = Buffer.alloc(64 * 1024);
  readonly #sleepCell = new Int32Array(new SharedArrayBuffer(4));
  /** Learnt by the first fill. */
  #capacityBytes = 0;
  #junkBytes = 0;

  private constructor(path: string, keeper: number, enlarge: EnlargePipe) {
    this.path = path;
    this.#keeper = keeper;
    this.#enlarge = enlarge;
  }

  /** A fresh FIFO at the path. `mode` such as 0o660 lets a writer of another user in. Without `enlarge` it has 64 KiB. */
  static async create(path: string, mode: number, enlarge: EnlargePipe = () => -1): Promise<HeldPipe> {
    releaseWriter(path);
    try {
      await run("mkfifo", ["-m", mode.toString(8), path]);
      return new HeldPipe(path, openSync(path, constants.O_RDONLY | constants.O_NONBLOCK), enlarge);
    } catch (error) {
      const remedy = "the directory must exist, be writable and on a file system that takes FIFOs";
      throw new HeldPipeFailure({ code: "FifoUnusable", path }, `no FIFO at ${path}: ${remedy}`, { cause: error });
    }
  }

  /**
   * Fills the drained pipe so that a writer gets at most `roomBytes` in; returns the room there is, which is less when
   * the pipe is small and cannot be enlarged, and none the first time.
   */
  fill(roomBytes: number): number {
    const writer = openSync(this.path, constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      if (this.#capacityBytes === 0) {
        this.#capacityBytes = writeUntilFull(writer, this.#junk);
        this.#junkBytes = this.#capacityBytes;
        return 0;
      }
      if (roomBytes + PAGE_BYTES > this.#capacityBytes) {
        this.#capacityBytes = Math.max(this.#capacityBytes, this.#enlarge(this.#keeper, roomBytes + PAGE_BYTES));
      }
      // Whole pages: a pipe counts pages, and junk that ends inside one would leave the rest of it as room.
      const roomPages = Math.min(Math.floor(roomBytes / PAGE_BYTES), this.#capacityBytes / PAGE_BYTES - 1);
      const room = Math.max(roomPages, 0) * PAGE_BYTES;
      const wantedBytes = this.#capacityBytes - room;
      this.#junkBytes = 0;
      while (this.#junkBytes < wantedBytes) {
        const size = Math.min(wantedBytes - this.#junkBytes, this.#junk.length);
        this.#junkBytes += writeSync(writer, this.#junk, 0, size);
      }
      return room;
    } finally {
      closeSync(writer);
    }
  }

  /** Resolves when a writer has opened the FIFO, or when `wake` was called. Takes a thread of libuv's pool meanwhile. */
  opened(): Promise<void> {
    return new Promise((resolve, reject) => {
      open(this.path, constants.O_RDONLY, (error, reader) => {
        if (error !== null) {
          reject(error);
          return;
        }
        closeSync(reader);
        resolve();
      });
    });
  }

  /** Ends a wait for `opened` that nobody will fulfil. Repeats, for the wait may still be queued in libuv's pool. */
  async wake(opened: Promise<void>): Promise<void> {
    const timer = setInterval(() => {
      this.wakeOnce();
    }, WAKE_AGAIN_MS);
    this.wakeOnce();
    try {
      await opened;
    } finally {
      clearInterval(timer);
    }
  }

  /** By the descriptor: the path, in the root of a pod, goes with the QEMU that was to write. */
  wakeOnce(): void {
    try {
      closeSync(openSync(`/proc/self/fd/${this.#keeper}`, constants.O_WRONLY | constants.O_NONBLOCK));
    } catch {
      // Closed: then nobody waits any more.
    }
  }

  /**
   * Reads the junk away and then what the writer writes, until it closes; returns the number of its bytes, of which those
   * that fit are in `target`. Blocks the event loop for a short time on purpose: a way round through it costs more than
   * the whole reading, and the guest waits.
   */
  async drain(target: Buffer, timeoutMs: number): Promise<number> {
    const startedAtMs = performance.now();
    let bytes = 0;
    for (;;) {
      const size = this.#read(target, bytes);
      if (size === 0) {
        return bytes;
      }
      if (size > 0) {
        bytes += size;
        continue;
      }
      const waitedMs = performance.now() - startedAtMs;
      if (waitedMs < SYNCHRONOUS_WAIT_MS) {
        Atomics.wait(this.#sleepCell, 0, 0, POLL_MS);
      } else if (waitedMs < timeoutMs) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      } else {
        throw new HeldPipeFailure(
          { code: "WriterTooSlow", afterMs: timeoutMs },
          `the writer of ${this.path} did not end within ${timeoutMs} ms; is its process stopped or the host overloaded?`,
        );
      }
    }
  }

  close(): void {
    closeSync(this.#keeper);
    removeIfThere(this.path);
  }

  /** How many of the writer's bytes were read; 0 at the end of the file, -1 when it has to be waited for. */
  #read(target: Buffer, at: number): number {
    while (this.#junkBytes > 0) {
      const size = readNow(this.#keeper, this.#junk, 0, Math.min(this.#junkBytes, this.#junk.length));
      if (size <= 0) {
        return size;
      }
      this.#junkBytes -= size;
    }
    return at < target.length
      ? readNow(this.#keeper, target, at, target.length - at)
      : readNow(this.#keeper, this.#junk, 0, this.#junk.length);
  }
}

/**
 * Lets a writer go that waits at a FIFO left behind by a process that died, and removes the FIFO: its open returns, its
 * writes fail. Nothing happens where there is none.
 */
export function releaseWriter(path: string): void {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  } catch (error) {
    if (isCode(error, "ENOENT")) {
      return;
    }
    throw error;
  }
  removeIfThere(path);
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!isCode(error, "ENOENT")) {
      throw error;
    }
  }
}

function readNow(descriptor: number, target: Buffer, at: number, size: number): number {
  try {
    return readSync(descriptor, target, at, size, null);
  } catch (error) {
    if (isCode(error, "EAGAIN")) {
      return -1;
    }
    throw error;
  }
}

function writeUntilFull(descriptor: number, junk: Buffer): number {
  let bytes = 0;
  try {
    for (;;) {
      bytes += writeSync(descriptor, junk);
    }
  } catch (error) {
    if (!isCode(error, "EAGAIN")) {
      throw error;
    }
    return bytes;
  }
}

function isCode(error: unknown, code: string): boolean {
  return typeof error === "object" && error !== null && "code" in error && error.code === code;
}
