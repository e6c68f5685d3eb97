/**
 * What an engine measures about its checkpoints, kept in fixed windows so that measuring costs nothing that grows.
 */
import { SampleWindow } from "../telemetry/sample-window.ts";
import { type RecordSample } from "./sample-log.ts";
import { type CheckpointFigures, type CheckpointPhase, type DurationFigures } from "../protocol/assignment.ts";

const PHASES: readonly CheckpointPhase[] = [
  "pause",
  "stop",
  "mark",
  "deviceState",
  "scan",
  "copy",
  "resume",
  "ship",
  "acknowledge",
];
const WINDOW = 2048;
/** The rate is counted over this time. */
const RATE_WINDOW_MS = 2_000;

export class Figures {
  readonly #phases = new Map<CheckpointPhase, SampleWindow>(PHASES.map((phase) => [phase, new SampleWindow(WINDOW)]));
  readonly #dirtyPages = new SampleWindow(WINDOW);
  readonly #addedLatency = new SampleWindow(WINDOW);
  /** Added latency of the last second or so, for the contract. */
  readonly recentAddedLatency = new SampleWindow(128);
  readonly #recent: number[] = [];
  readonly #record: RecordSample | undefined;
  #count = 0;
  #dirtyPagesCount = 0;
  sentBytes = 0;
  diskBytes = 0;

  /** `record` gets every sample as well. */
  constructor(record?: RecordSample) {
    this.#record = record;
  }

  addPhase(phase: CheckpointPhase, ms: number): void {
    this.#record?.(phase, ms);
    this.#phases.get(phase)?.add(ms);
  }

  addCheckpoint(pageCount: number, nowMs: number): void {
    this.#count += 1;
    this.#dirtyPagesCount += pageCount;
    this.#dirtyPages.add(pageCount);
    this.#record?.("dirtyPages", pageCount);
    this.#recent.push(nowMs);
    this.#forget(nowMs);
  }

  addLatency(ms: number): void {
    this.#record?.("addedLatency", ms);
    this.#addedLatency.add(ms);
    this.recentAddedLatency.add(ms);
  }

  addedLatency(): DurationFigures {
    return durations(this.#addedLatency);
  }

  checkpoint(nowMs: number): CheckpointFigures {
    this.#forget(nowMs);
    const dirty = this.#dirtyPages.figures();
    return {
      count: this.#count,
      perSecond: (this.#recent.length * 1000) / RATE_WINDOW_MS,
      phases: Object.fromEntries(
        PHASES.flatMap((phase) => {
          const window = this.#phases.get(phase);
          return window === undefined || window.count === 0 ? [] : [[phase, durations(window)] as const];
        }),
      ),
      dirtyPagesP50: dirty.p50,
      dirtyPagesMax: dirty.max,
      sentBytes: this.sentBytes,
      dirtyPagesCount: this.#dirtyPagesCount,
      diskBytes: this.diskBytes,
    };
  }

  #forget(nowMs: number): void {
    let old = 0;
    while (old < this.#recent.length && (this.#recent[old] ?? nowMs) < nowMs - RATE_WINDOW_MS) {
      old += 1;
    }
    if (old > 0) {
      this.#recent.splice(0, old);
    }
  }
}

function durations(window: SampleWindow): DurationFigures {
  const { p50, p99, max, sum, count } = window.figures();
  return { p50Ms: p50, p99Ms: p99, maxMs: max, sumMs: sum, count };
}
