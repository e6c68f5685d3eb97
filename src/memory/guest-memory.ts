/**
 * The memory of one guest, seen from outside of its QEMU: which pages were written, reading them, writing them.
 *
 * Pages have global numbers (see ram-blocks.ts). A scan and the reading that follows give one moment of the guest only while it
 * is stopped; while it runs they are good for the first copy, which a later stopped scan completes.
 */
import { Failure } from "../lib/failure.ts";
import { ComparisonTracker } from "./comparison-tracker.ts";
import { PageCopy } from "./page-copy.ts";
import { type PageRuns } from "./page-runs.ts";
import { planLayout, type PlacedBlock, type RamBlock } from "./ram-blocks.ts";
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

const METHODS: readonly TrackingMethod[] = ["userfaultfd", "softDirty", "comparison"];

export class GuestMemory {
  readonly blocks: readonly RamBlock[];
  readonly pageCount: number;
  /** Why better methods were passed over; empty when the best or the demanded one is used. */
  readonly passedOver: readonly string[];
  readonly #copy: PageCopy;
  readonly #options: GuestMemoryOptions;
  #tracker: Tracker | undefined;

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

  /** The method in use; the one asked for or the best guess before tracking has begun. */
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

  close(): void {
    this.#tracker?.close();
    this.#tracker = undefined;
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
