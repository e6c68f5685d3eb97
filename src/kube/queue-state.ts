/**
 * Which key is worked on next, and when. Pure: time comes in.
 *
 * Invariants: a key is worked on by one at a time; what was added during the work is worked on once more after it; however often
 * a key was added, it waits once, with the earliest of its times. Every run starts from nothing: a look "again in 30 s" that an
 * earlier run asked for is forgotten when another run comes first and does not ask.
 */
export type Backoff = { readonly minMs: number; readonly maxMs: number };

export type WorkOutcome =
  { readonly tag: "done"; readonly againAfterMs: number | undefined } | { readonly tag: "failed" };

export class QueueState {
  readonly #backoff: Backoff;
  /** In order. */
  readonly #ready = new Set<string>();
  readonly #dueAtMs = new Map<string, number>();
  readonly #active = new Set<string>();
  readonly #failures = new Map<string, number>();

  constructor(backoff: Backoff) {
    this.#backoff = backoff;
  }

  get activeCount(): number {
    return this.#active.size;
  }

  /** Ready or waiting for their time. */
  get waitingCount(): number {
    return this.#ready.size + this.#dueAtMs.size;
  }

  /** What failed and was not done since. */
  get failingCount(): number {
    return this.#failures.size;
  }

  /** A change makes a key ready at once, though it may be backing off after a failure: the change may be the remedy. */
  add(key: string, nowMs: number, afterMs = 0): void {
    if (this.#ready.has(key)) {
      return;
    }
    if (afterMs <= 0) {
      this.#dueAtMs.delete(key);
      this.#ready.add(key);
      return;
    }
    this.#dueAtMs.set(key, Math.min(nowMs + afterMs, this.#dueAtMs.get(key) ?? Infinity));
  }

  /** The key to work on now, which is then active. */
  take(nowMs: number): string | undefined {
    for (const [key, dueAtMs] of this.#dueAtMs) {
      if (dueAtMs <= nowMs) {
        this.#dueAtMs.delete(key);
        this.#ready.add(key);
      }
    }
    for (const key of this.#ready) {
      if (!this.#active.has(key)) {
        this.#ready.delete(key);
        this.#dueAtMs.delete(key);
        this.#active.add(key);
        return key;
      }
    }
    return undefined;
  }

  /** Returns how long the key waits after a failure. */
  finish(key: string, outcome: WorkOutcome, nowMs: number): number {
    this.#active.delete(key);
    if (outcome.tag === "done") {
      this.#failures.delete(key);
      if (outcome.againAfterMs !== undefined) {
        // No time at all would never let another key have its turn.
        this.add(key, nowMs, Math.max(1, outcome.againAfterMs));
      }
      return 0;
    }
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    const delayMs = Math.min(this.#backoff.maxMs, this.#backoff.minMs * 2 ** failures);
    this.add(key, nowMs, delayMs);
    return delayMs;
  }

  /** When {@link take} may have more to give without anything being added or finished. */
  nextDueAtMs(): number | undefined {
    let next: number | undefined;
    for (const dueAtMs of this.#dueAtMs.values()) {
      next = Math.min(dueAtMs, next ?? Infinity);
    }
    return next;
  }

  /** Its object is gone for good: nothing is left to remember. */
  forget(key: string): void {
    this.#ready.delete(key);
    this.#dueAtMs.delete(key);
    this.#failures.delete(key);
  }
}
