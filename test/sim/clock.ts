/** Virtual time: a queue of things to come, carried out in order of time and, at one time, in order of their planning. */

export type Planned = { readonly atMs: number; readonly order: number; readonly run: () => void; isCancelled: boolean };

export class Clock {
  #nowMs = 0;
  #order = 0;
  readonly #heap: Planned[] = [];

  get nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, run: () => void): Planned {
    this.#order += 1;
    const planned = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order, run, isCancelled: false };
    this.#push(planned);
    return planned;
  }

  /** Carries out the next thing; false when there is none. */
  step(): boolean {
    for (let next = this.#pop(); next !== undefined; next = this.#pop()) {
      if (!next.isCancelled) {
        this.#nowMs = next.atMs;
        next.run();
        return true;
      }
    }
    return false;
  }

  #push(planned: Planned): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(planned);
    while (index > 0) {
      const above = (index - 1) >> 1;
      const parent = heap[above] as Planned;
      if (isBefore(parent, planned)) {
        break;
      }
      heap[index] = parent;
      index = above;
    }
    heap[index] = planned;
  }

  #pop(): Planned | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) {
      return first;
    }
    let index = 0;
    for (;;) {
      let below = 2 * index + 1;
      if (below >= heap.length) {
        break;
      }
      if (below + 1 < heap.length && isBefore(heap[below + 1] as Planned, heap[below] as Planned)) {
        below += 1;
      }
      const child = heap[below] as Planned;
      if (isBefore(last, child)) {
        break;
      }
      heap[index] = child;
      index = below;
    }
    heap[index] = last;
    return first;
  }
}

function isBefore(one: Planned, other: Planned): boolean {
  return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order);
}
