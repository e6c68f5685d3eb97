/**
 * What the standby holds of the pages sent lately, so that of a page written again only what changed has to be sent.
 *
 * A guest writes to the same few hundred pages in epoch after epoch and to a few cache lines of each: of 200 dirty pages a
 * tenth of the bytes differ from the epoch before. Comparing 4 KiB takes a microsecond; encrypting, sending, decrypting and
 * writing them takes ten.
 *
 * A page has one place, by its number; a page that comes to a place which holds another is sent whole and takes it. What is
 * here is what the stream carried last, acknowledged or not, which is right because the standby applies the stream in order
 * and a new session begins with an empty table.
 */
import { WIRE_BLOCK_BYTES } from "../protocol/frames.ts";
import { type PageRuns } from "../memory/page-runs.ts";
import { PAGE_BYTES } from "../memory/ram-blocks.ts";

const BLOCK_WORDS = WIRE_BLOCK_BYTES / 4;
const PAGE_WORDS = PAGE_BYTES / 4;
const STATE_MASK_BLOCKS = 32;
/** 8 MiB, of which a guest that writes little touches little. */
const PLACES = 2048;

/** Deltas of one epoch in memory that is used again; see `pageDeltas` in protocol/frames.ts. */
export class DeltaBuffer {
  pages = new Uint32Array(512);
  masks = new Uint32Array(1024);
  /** Untouched memory costs nothing, so it has room for the worst case. */
  data = Buffer.allocUnsafeSlow(1024 * 1024);
  words = wordsOf(this.data);
  pageCount = 0;
  blockCount = 0;

  clear(pageCountMax: number): void {
    this.pageCount = 0;
    this.blockCount = 0;
    if (this.pages.length < pageCountMax) {
      this.pages = new Uint32Array(2 * pageCountMax);
      this.masks = new Uint32Array(4 * pageCountMax);
    }
    if (this.data.length < pageCountMax * PAGE_BYTES) {
      this.data = Buffer.allocUnsafeSlow(2 * pageCountMax * PAGE_BYTES);
      this.words = wordsOf(this.data);
    }
  }
}

export class SentPages {
  /** Page number + 1 at each place; 0 is none. */
  readonly #at = new Float64Array(PLACES);
  readonly #held = new Int32Array(PLACES * PAGE_WORDS);

  /**
   * Sorts the pages of an epoch: deltas of those that are known go into `deltas`, the others are listed in `whole`, their
   * bytes moved together at the beginning of `pages`. Pages that did not change are in neither.
   */
  sort(runs: PageRuns, pages: Buffer, deltas: DeltaBuffer, whole: PageRuns): void {
    whole.clear();
    deltas.clear(runs.pageCount);
    const words = wordsOf(pages);
    let at = 0;
    for (let run = 0; run < runs.length; run += 1) {
      const end = runs.start(run) + runs.count(run);
      for (let page = runs.start(run); page < end; page += 1, at += 1) {
        const place = placeOf(page);
        if (this.#at[place] === page + 1) {
          this.#addDelta(page, words, at * PAGE_WORDS, deltas);
          continue;
        }
        this.#at[place] = page + 1;
        this.#held.set(words.subarray(at * PAGE_WORDS, (at + 1) * PAGE_WORDS), place * PAGE_WORDS);
        if (whole.pageCount !== at) {
          pages.copyWithin(whole.pageCount * PAGE_BYTES, at * PAGE_BYTES, (at + 1) * PAGE_BYTES);
        }
        whole.add(page, 1);
      }
    }
  }

  /** For pages that go another way. */
  forget(): void {
    this.#at.fill(0);
  }

  #addDelta(page: number, words: Int32Array, from: number, deltas: DeltaBuffer): void {
    const held = placeOf(page) * PAGE_WORDS;
    const low = takeChanges(words, from, this.#held, held, deltas);
    const high = takeChanges(words, from + PAGE_WORDS / 2, this.#held, held + PAGE_WORDS / 2, deltas);
    if ((low | high) !== 0) {
      const index = deltas.pageCount;
      deltas.pages[index] = page;
      deltas.masks[2 * index] = low;
      deltas.masks[2 * index + 1] = high;
      deltas.pageCount = index + 1;
    }
  }
}

/** The same for the device state, most of which is as it was an epoch ago. */
export class SentState {
  #held = new Int32Array(0);
  #bytes = 0;
  masks = new Uint32Array(0);
  readonly changes = new DeltaBuffer();

  /**
   * Takes the state of an epoch. True: `masks` and `changes` hold what differs from the one before. False: there is none
   * of the same length, send it whole. `state` has whole blocks of memory behind its last byte.
   */
  compare(state: Buffer, stateBytes: number): boolean {
    const blocks = Math.ceil(stateBytes / WIRE_BLOCK_BYTES);
    const words = wordsOf(state);
    if (this.#bytes !== stateBytes) {
      this.#bytes = stateBytes;
      this.#held = words.slice(0, roundUp(blocks, STATE_MASK_BLOCKS) * BLOCK_WORDS);
      this.masks = new Uint32Array(Math.ceil(blocks / STATE_MASK_BLOCKS));
      return false;
    }
    this.changes.clear(Math.ceil((blocks * WIRE_BLOCK_BYTES) / PAGE_BYTES) + 1);
    state.fill(0, stateBytes, blocks * WIRE_BLOCK_BYTES);
    for (let mask = 0; mask < this.masks.length; mask += 1) {
      const first = mask * STATE_MASK_BLOCKS;
      const at = first * BLOCK_WORDS;
      const count = Math.min(STATE_MASK_BLOCKS, blocks - first);
      this.masks[mask] = takeChanges(words, at, this.#held, at, this.changes, count);
    }
    return true;
  }
}

/**
 * Appends up to 32 blocks that differ to `changes` and brings `held` up to date; returns which they are. It is the inner loop
 * of shipping: hence words instead of bytes, and no view made for a block.
 */
// eslint-disable-next-line max-params -- places in two arrays, without an object for each call
function takeChanges(
  words: Int32Array,
  from: number,
  held: Int32Array,
  heldFrom: number,
  changes: DeltaBuffer,
  blocks = 32,
): number {
  const out = changes.words;
  let outAt = changes.blockCount * BLOCK_WORDS;
  let mask = 0;
  for (let block = 0; block < blocks; block += 1) {
    const at = from + block * BLOCK_WORDS;
    const heldAt = heldFrom + block * BLOCK_WORDS;
    let different = 0;
    for (let word = 0; word < BLOCK_WORDS; word += 1) {
      different |= (words[at + word] as number) ^ (held[heldAt + word] as number);
    }
    if (different !== 0) {
      for (let word = 0; word < BLOCK_WORDS; word += 1) {
        const value = words[at + word] as number;
        out[outAt + word] = value;
        held[heldAt + word] = value;
      }
      outAt += BLOCK_WORDS;
      mask |= 1 << block;
    }
  }
  changes.blockCount = outAt / BLOCK_WORDS;
  return mask >>> 0;
}

function placeOf(page: number): number {
  return (page ^ (page >>> 11)) & (PLACES - 1);
}

function wordsOf(bytes: Buffer): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
