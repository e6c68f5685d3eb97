/**
 * Copies pages out of and into the QEMU process, by its own addresses.
 *
 * process_vm_readv and process_vm_writev take up to 1024 ranges of the other process a call, so an ordinary epoch is one system
 * call. Reading through an own mapping of the guest's memfd is faster once all its pages are mapped (200 pages: 0.07 ms instead of
 * 0.18), but then the whole guest counts as resident in this process, and while they are not yet mapped it gains nothing.
 */
import { countSetBits, countTrailingZeros } from "../lib/bits.ts";
import { Failure } from "../lib/failure.ts";
import { addressOf, processVmReadv, processVmWritev, systemCallFailure } from "./libc.ts";
import { type PageRuns } from "./page-runs.ts";
import { PAGE_BYTES, type RamBlock } from "./ram-blocks.ts";

export class PageCopyFailure extends Failure<{
  readonly code: "GuestMemoryGone";
  readonly copiedBytes: number;
  readonly wantedBytes: number;
}> {}

const BLOCK_BYTES = 64;
const RANGES_MAX = 1024; // IOV_MAX
/** Every other block. */
const RANGES_PER_PAGE_MAX = 32;
const CALL_BYTES_MAX = 1 << 30; // The kernel stops a little below 2 GiB.
const REMEDY = "the engine needs root or CAP_SYS_PTRACE, and the guest's process has to be alive";

export class PageCopy {
  readonly #pid: number;
  readonly #blocks: readonly RamBlock[];
  readonly #remote = new Uint32Array(new ArrayBuffer(RANGES_MAX * 16));
  readonly #local = new BigUint64Array(new ArrayBuffer(16));
  #ranges = 0;
  #bytes = 0;

  constructor(pid: number, blocks: readonly RamBlock[]) {
    this.#pid = pid;
    this.#blocks = blocks;
  }

  /** Reads the pages of `runs`, one after another, into `target` from `offset` on. Returns the bytes read. */
  read(runs: PageRuns, target: Uint8Array, offset = 0): number {
    return this.#copy(runs, target, offset, processVmReadv);
  }

  /** Writes `source` from `offset` on into the pages of `runs`. */
  write(runs: PageRuns, source: Uint8Array, offset = 0): void {
    this.#copy(runs, source, offset, processVmWritev);
  }

  /**
   * Writes 64-byte blocks: those of `pages[i]` whose bits are set in `masks[2 * i]` (the lower 32) and `masks[2 * i + 1]`, from
   * `source` in that order. Neighbouring blocks are one range.
   */
  writeBlocks(pages: Uint32Array, masks: Uint32Array, source: Uint8Array): void {
    if (countSetBits(masks) * BLOCK_BYTES !== source.length) {
      throw new RangeError(`the masks do not name ${source.length} bytes`);
    }
    this.#clear();
    // SAFETY: as in #copy; the ranges sum up to the bytes of `source`, checked above.
    const base = addressOf(source);
    let done = 0;
    let block = 0;
    for (let index = 0; index < pages.length; index++) {
      const page = pages[index] as number;
      block = this.#blockAt(page, page < (this.#blocks[block]?.firstPage ?? 0) ? 0 : block);
      const { firstPage, address } = this.#blocks[block] as RamBlock;
      const pageAddress = address + (page - firstPage) * PAGE_BYTES;
      if (this.#ranges + RANGES_PER_PAGE_MAX > RANGES_MAX) {
        done += this.#flush(base, done, processVmWritev);
      }
      this.#pushBlocks(pageAddress, masks[2 * index] as number);
      this.#pushBlocks(pageAddress + PAGE_BYTES / 2, masks[2 * index + 1] as number);
    }
    this.#flush(base, done, processVmWritev);
  }

  #copy(runs: PageRuns, buffer: Uint8Array, offset: number, call: typeof processVmReadv): number {
    if (offset + runs.pageCount * PAGE_BYTES > buffer.length) {
      throw new RangeError(`${runs.pageCount} pages do not fit into ${buffer.length - offset} bytes`);
    }
    this.#clear();
    // SAFETY: `buffer` is an argument of this function and so alive until it returns; its bytes do not move.
    const base = addressOf(buffer);
    let done = offset;
    let block = 0;
    for (let run = 0; run < runs.length; run++) {
      let page = runs.start(run);
      const end = page + runs.count(run);
      while (page < end) {
        const within = this.#blockAt(page, block);
        block = within;
        const { firstPage, pageCount, address } = this.#blocks[within] as RamBlock;
        const count = Math.min(end - page, firstPage + pageCount - page, CALL_BYTES_MAX / PAGE_BYTES);
        if (this.#ranges === RANGES_MAX || this.#bytes + count * PAGE_BYTES > CALL_BYTES_MAX) {
          done += this.#flush(base, done, call);
        }
        this.#push(address + (page - firstPage) * PAGE_BYTES, count * PAGE_BYTES);
        page += count;
      }
    }
    done += this.#flush(base, done, call);
    return done - offset;
  }

  /** A range for each run of set bits. */
  #pushBlocks(address: number, mask: number): void {
    let left = mask;
    let at = address;
    while (left !== 0) {
      const clear = countTrailingZeros(left);
      left >>>= clear;
      const set = left === 0xffff_ffff ? 32 : countTrailingZeros(~left);
      this.#push(at + clear * BLOCK_BYTES, set * BLOCK_BYTES);
      at += (clear + set) * BLOCK_BYTES;
      left = set === 32 ? 0 : left >>> set;
    }
  }

  /** A copy that threw may have left ranges. */
  #clear(): void {
    this.#ranges = 0;
    this.#bytes = 0;
  }

  #blockAt(page: number, from: number): number {
    let at = from;
    for (let block = this.#blocks[at]; block !== undefined; block = this.#blocks[++at]) {
      if (page < block.firstPage + block.pageCount) {
        return at;
      }
    }
    throw new RangeError(`page ${page} is outside of the guest`);
  }

  #push(address: number, bytes: number): void {
    const at = this.#ranges * 4;
    this.#remote[at] = address >>> 0;
    this.#remote[at + 1] = address / 0x1_0000_0000;
    this.#remote[at + 2] = bytes;
    this.#remote[at + 3] = 0;
    this.#ranges++;
    this.#bytes += bytes;
  }

  #flush(base: bigint, done: number, call: typeof processVmReadv): number {
    if (this.#ranges === 0) {
      return 0;
    }
    const wantedBytes = this.#bytes;
    this.#local[0] = base + BigInt(done);
    this.#local[1] = BigInt(wantedBytes);
    // SAFETY: #local names `wantedBytes` bytes inside the caller's buffer (checked in #copy); #remote is ours and only read.
    const copiedBytes = call(this.#pid, this.#local, 1, this.#remote, this.#ranges, 0);
    this.#ranges = 0;
    this.#bytes = 0;
    if (copiedBytes < 0) {
      throw systemCallFailure(call === processVmReadv ? "process_vm_readv" : "process_vm_writev", REMEDY);
    }
    if (copiedBytes !== wantedBytes) {
      throw new PageCopyFailure(
        { code: "GuestMemoryGone", copiedBytes, wantedBytes },
        `only ${copiedBytes} of ${wantedBytes} bytes of guest memory could be copied: a RAM block was unmapped; start the engine anew`,
      );
    }
    return wantedBytes;
  }
}
