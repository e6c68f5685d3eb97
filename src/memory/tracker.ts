/**
 * Finds the pages a guest has written since it was last asked. Three ways, best first; which one is used is reported.
 *
 * Contract of a scan: it adds every page written since the last scan (it may add more) and starts watching those again. While
 * the guest runs, a page written during the scan is in this scan or in the next one, never in none.
 */
import { type PageRuns } from "./page-runs.ts";

export type TrackingMethod = "userfaultfd" | "softDirty" | "comparison";
export type GuestActivity = "stopped" | "running";

export interface Tracker {
  readonly method: TrackingMethod;
  /** From here on writes are seen. */
  start(): void;
  /** `guest` says whether it may write meanwhile: the slower methods need to know. */
  scan(runs: PageRuns, guest: GuestActivity): void;
  /**
   * Reads pages as of their last scan, where the method keeps them. Comparison has to: when something else was sent than what
   * it compares with later, a page that changed back in between would never be sent again.
   */
  readonly read?: (runs: PageRuns, target: Uint8Array, offset: number) => number;
  close(): void;
}
