/**
 * The memory of one guest, seen from outside of its QEMU: which pages were written, reading them, writing them.
 *
 * Pages have global numbers (see ram-blocks.ts). A scan and the reading that follows give one moment of the guest only while it
 * is stopped; while it runs they are good for the first copy, which a later stopped scan completes.
 */
import { Failure } from "../lib/failure.ts";
import { type Backing, closeBacking, openBacking } from "./backing-file.ts";
import { ComparisonTracker } from "./comparison-tracker.ts";
import { PageCopy } from "./page-copy.ts";
import { PageRuns } from "./page-runs.ts";
import { listPopulated } from "./populated-pages.ts";
import { PAGE_BYTES, planLayout, type PlacedBlock, type RamBlock } from "./ram-blocks.ts";
import { applyHole } from "./sparse-file.ts";
import { hasSoftDirty, SoftDirtyTracker } from "./soft-dirty-tracker.ts";
import { type GuestActivity, type Tracker, type TrackingMethod } from "./tracker.ts";
import { UserfaultTracker } from "./userfault-tracker.ts";

export class TrackingFailure extends Failure<{
  readonly code: "TrackingUnavailable";
  readonly method: TrackingMethod;
}> {}

export type GuestMemoryOptions = {
  readonly pid: number;
  readonly blocks: readonly PlacedBlock[];
  /** The shim of that QEMU; without it userfaultfd cannot be used. */
  readonly shim?: { readonly userfaultfd: number } | undefined;
  readonly method: "auto" | TrackingMethod;
};

/** From this length on a hole is made instead of writing zeros. */
const HOLE_PAGES_MIN = 16;
const ZERO_PAGES = 64;
const ZEROS = Buffer.alloc(ZERO_PAGES * PAGE_BYTES);

const METHODS: readonly TrackingMethod[] = ["userfaultfd", "softDirty", "comparison"];

export class GuestMemory {
  readonly blocks: readonly RamBlock[];
  readonly pageCount: number;
  /** Why better methods were passed over; empty when the best or the demanded one is used. */
  readonly passedOver: readonly string[];
  readonly #copy: PageCopy;
  readonly #options: GuestMemoryOptions;
  readonly #zeroRun = new PageRuns(1);
  #tracker: Tracker | undefined;
  /** Opened when first needed. */
  #backings: Backing[] | undefined;

  private constructor(options: GuestMemoryOptions) {
    this.#options = options;
    this.blocks = planLayout(options.blocks);
    this.pageCount = this.blocks.reduce((sum, block) => sum + block.pageCount, 0);
    this.#copy = new PageCopy(options.pid, this.blocks);
    this.passedOver = [];
  }

  /** Opens the memory for reading and writing; tracking costs something and begins with {@link startTracking}. */
  static open(options: GuestMemoryOptions): GuestMemory {
    return new GuestMemory(options);
  }

  /** The method in use; undefined before tracking has begun. */
  get method(): TrackingMethod | undefined {
    return this.#tracker?.method;
  }

  /** Begins to see writes: everything before counts as already known. Throws TrackingUnavailable when no method works. */
  startTracking(): void {
    if (this.#tracker !== undefined) {
      this.#tracker.start();
      return;
    }
    const { method } = this.#options;
    const reasons = this.passedOver as string[];
    for (const candidate of method === "auto" ? METHODS : [method]) {
      const tracker = this.#openTracker(candidate, reasons);
      if (tracker !== undefined) {
        this.#tracker = tracker;
        // Held open on purpose: else the kernel frees all of the guest's memory before it reports the death of its process,
        // which takes a takeover's time (768 MiB on a busy host: 0.7 s).
        this.#backing(0);
        return;
      }
    }
    throw new TrackingFailure(
      { code: "TrackingUnavailable", method: method === "auto" ? "comparison" : method },
      `writes of the guest cannot be tracked (${reasons.join("; ")}): set tracker to auto, or use Linux 6.7 or later and the shim`,
    );
  }

  /** Replaces `runs` by the pages written since the last scan and watches them again. */
  scan(runs: PageRuns, guest: GuestActivity = "stopped"): void {
    runs.clear();
    if (this.#tracker === undefined) {
      this.startTracking();
      runs.add(0, this.pageCount);
      return;
    }
    this.#tracker.scan(runs, guest);
  }

  /** Reads the pages of `runs`, one after another, into `target` from `offset` on. Returns the bytes read. */
  read(runs: PageRuns, target: Uint8Array, offset = 0): number {
    return this.#tracker?.read?.(runs, target, offset) ?? this.#copy.read(runs, target, offset);
  }

  /** Writes `source` from `offset` on into the pages of `runs`. */
  write(runs: PageRuns, source: Uint8Array, offset = 0): void {
    this.#copy.write(runs, source, offset);
  }

  /** Writes single 64-byte blocks of pages, as a `pageDeltas` frame has them; see {@link PageCopy.writeBlocks}. */
  writeBlocks(pages: Uint32Array, masks: Uint32Array, source: Uint8Array): void {
    this.#copy.writeBlocks(pages, masks, source);
  }

  /** Replaces `runs` by the pages that may hold something else than zeros: all a first copy has to read. */
  listPopulated(runs: PageRuns): void {
    runs.clear();
    for (const [index, block] of this.blocks.entries()) {
      listPopulated(this.#options.pid, block, this.#backing(index), runs);
    }
  }

  /**
   * Makes the pages of `runs` zero. Long runs of a shared block become holes, so a standby uses no more memory than its primary;
   * short ones are written, which is cheaper.
   */
  applyZeros(runs: PageRuns): void {
    for (let run = 0; run < runs.length; run++) {
      let page = runs.start(run);
      const end = page + runs.count(run);
      while (page < end) {
        const index = this.blocks.findIndex((block) => page < block.firstPage + block.pageCount);
        const block = this.blocks[index];
        if (block === undefined) {
          throw new RangeError(`page ${page} is outside of the guest`);
        }
        const count = Math.min(end, block.firstPage + block.pageCount) - page;
        if (count < HOLE_PAGES_MIN || !this.#punch(index, page, count)) {
          this.#writeZeros(page, count);
        }
        page += count;
      }
    }
  }

  close(): void {
    this.#tracker?.close();
    this.#tracker = undefined;
    this.#backings?.forEach(closeBacking);
    this.#backings = undefined;
  }

  #backing(index: number): Backing {
    this.#backings ??= this.blocks.map((block) => openBacking(this.#options.pid, block));
    return this.#backings[index] ?? { tag: "unknown" };
  }

  #punch(index: number, page: number, count: number): boolean {
    const backing = this.#backing(index);
    const block = this.blocks[index];
    if (backing.tag !== "shared" || block === undefined) {
      return false;
    }
    try {
      const within = (page - block.firstPage) * PAGE_BYTES;
      applyHole(backing.file.fd, backing.file.offset + within, count * PAGE_BYTES);
      return true;
    } catch {
      return false; // Huge pages are only given back whole; then zeros are written.
    }
  }

  #writeZeros(page: number, count: number): void {
    for (let at = page; at < page + count; at += ZERO_PAGES) {
      this.#zeroRun.clear();
      this.#zeroRun.add(at, Math.min(ZERO_PAGES, page + count - at));
      this.#copy.write(this.#zeroRun, ZEROS);
    }
  }

  #openTracker(method: TrackingMethod, reasons: string[]): Tracker | undefined {
    let tracker: Tracker | undefined;
    try {
      tracker = this.#createTracker(method);
      tracker.start();
      return tracker;
    } catch (error) {
      tracker?.close();
      reasons.push(`${method}: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  #createTracker(method: TrackingMethod): Tracker {
    const { pid, shim } = this.#options;
    switch (method) {
      case "userfaultfd":
        if (shim === undefined || shim.userfaultfd < 0) {
          throw new TrackingFailure({ code: "TrackingUnavailable", method }, "QEMU has no userfaultfd of the shim");
        }
        return new UserfaultTracker(pid, this.blocks, shim.userfaultfd);
      case "softDirty":
        if (!hasSoftDirty()) {
          throw new TrackingFailure({ code: "TrackingUnavailable", method }, "this kernel has no soft-dirty bits");
        }
        return new SoftDirtyTracker(pid, this.blocks);
      case "comparison":
        return new ComparisonTracker(pid, this.blocks);
    }
  }
}
