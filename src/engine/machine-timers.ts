/** The timers of the protocol machine: each by its name, one at a time. */
import { type TimerName } from "../protocol/side-state.ts";

export class MachineTimers {
  readonly #onFired: (timer: TimerName) => void;
  readonly #running = new Map<TimerName, NodeJS.Timeout>();

  constructor(onFired: (timer: TimerName) => void) {
    this.#onFired = onFired;
  }

  /** In place of one of the same name that runs. */
  start(timer: TimerName, afterMs: number): void {
    this.stop(timer);
    this.#running.set(
      timer,
      setTimeout(() => {
        this.#running.delete(timer);
        this.#onFired(timer);
      }, afterMs),
    );
  }

  stop(timer: TimerName): void {
    clearTimeout(this.#running.get(timer));
    this.#running.delete(timer);
  }

  stopAll(): void {
    [...this.#running.keys()].forEach((timer) => {
      this.stop(timer);
    });
  }
}
