/**
 * Keys of objects that need a look, and the few workers that look.
 *
 * Contract of {@link QueueState}; a run that throws is tried again, each time after twice as long. Stopping aborts the runs'
 * signal and waits for them.
 */
import { type Clock, monotonicClock } from "../telemetry/clock.ts";
import { type Log, silentLog } from "../telemetry/log.ts";
import { type Backoff, QueueState, type WorkOutcome } from "./queue-state.ts";

export type WorkQueueOptions = {
  /** One look. Returns after how many ms to look again even if nothing changes. */
  readonly work: (key: string, signal: AbortSignal) => Promise<number | undefined>;
  readonly workerCount?: number | undefined;
  readonly backoff?: Backoff | undefined;
  readonly log?: Log | undefined;
  readonly clock?: Clock | undefined;
  /** Told of every run, for metrics. */
  readonly onFinished?: ((run: FinishedRun) => void) | undefined;
};

export type FinishedRun = { readonly key: string; readonly durationMs: number; readonly isFailed: boolean };

const defaultBackoff: Backoff = { minMs: 200, maxMs: 60_000 };
/** Of Node's timers, which take no longer time than 24 days. */
const timerMsMax = 3_600_000;

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #workerCount: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #state: QueueState;
  readonly #stopping = new AbortController();
  readonly #runs = new Set<Promise<void>>();
  #isStarted = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    this.#workerCount = options.workerCount ?? 4;
    this.#clock = options.clock ?? monotonicClock;
    this.#log = options.log ?? silentLog;
    this.#state = new QueueState(options.backoff ?? defaultBackoff);
  }

  get activeCount(): number {
    return this.#state.activeCount;
  }

  get waitingCount(): number {
    return this.#state.waitingCount;
  }

  get failingCount(): number {
    return this.#state.failingCount;
  }

  /** What was added before is worked on from now on: start when the caches are synced. */
  start(): void {
    this.#isStarted = true;
    this.#advance();
  }

  add(key: string, afterMs = 0): void {
    this.#state.add(key, this.#clock.nowMs(), afterMs);
    this.#advance();
  }

  /** Its object is gone for good. */
  forget(key: string): void {
    this.#state.forget(key);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearTimeout(this.#timer);
    while (this.#runs.size > 0) {
      await Promise.all(this.#runs);
    }
  }

  #advance(): void {
    if (!this.#isStarted || this.#stopping.signal.aborted) {
      return;
    }
    while (this.#runs.size < this.#workerCount) {
      const key = this.#state.take(this.#clock.nowMs());
      if (key === undefined) {
        break;
      }
      const run = this.#run(key).finally(() => {
        this.#runs.delete(run);
        this.#advance();
      });
      this.#runs.add(run);
    }
    this.#setTimer();
  }

  /** While all workers are busy none is needed: whoever finishes looks. */
  #setTimer(): void {
    clearTimeout(this.#timer);
    const dueAtMs = this.#runs.size < this.#workerCount ? this.#state.nextDueAtMs() : undefined;
    if (dueAtMs !== undefined) {
      const inMs = Math.min(timerMsMax, Math.max(0, dueAtMs - this.#clock.nowMs()));
      this.#timer = setTimeout(() => {
        this.#advance();
      }, Math.ceil(inMs));
    }
  }

  async #run(key: string): Promise<void> {
    const startedAtMs = this.#clock.nowMs();
    let outcome: WorkOutcome;
    let failure: unknown;
    try {
      outcome = { tag: "done", againAfterMs: await this.#options.work(key, this.#stopping.signal) };
    } catch (error) {
      failure = error;
      outcome = { tag: "failed" };
    }
    const nowMs = this.#clock.nowMs();
    const delayMs = this.#state.finish(key, outcome, nowMs);
    const isFailed = outcome.tag === "failed";
    if (isFailed && !this.#stopping.signal.aborted) {
      this.#log.warn({ key, error: failure, delayMs }, "work on an object failed and is tried again");
    }
    this.#options.onFinished?.({ key, durationMs: nowMs - startedAtMs, isFailed });
  }
}
