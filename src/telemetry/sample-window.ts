/**
 * Quantiles over the last samples of a figure, for reports a person or a pacing rule reads once in a while.
 *
 * Contract: `add` is constant time and allocates nothing; `quantile` and `figures` sort a copy in memory that was set
 * aside once. Quantiles are nearest-rank (p99 of 100 samples is the 99th, never an invented value between two).
 * `count` and `sum` cover the whole life of the window, not only what is still in the ring.
 */
export type WindowFigures = {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  readonly sum: number;
  readonly count: number;
};

export class SampleWindow {
  readonly #ring: Float64Array;
  readonly #sorted: Float64Array;
  #next = 0;
  #kept = 0;
  #sum = 0;
  #count = 0;

  constructor(capacity: number) {
    this.#ring = new Float64Array(capacity);
    this.#sorted = new Float64Array(capacity);
  }

  add(value: number): void {
    this.#ring[this.#next] = value;
    this.#next = (this.#next + 1) % this.#ring.length;
    this.#kept = Math.min(this.#kept + 1, this.#ring.length);
    this.#sum += value;
    this.#count += 1;
  }

  get count(): number {
    return this.#count;
  }

  /** The value that the given share (0..1) of the kept samples does not exceed; 0 while there are none. */
  quantile(share: number): number {
    return valueAt(this.#sort(), share);
  }

  figures(): WindowFigures {
    const sorted = this.#sort();
    return {
      p50: valueAt(sorted, 0.5),
      p99: valueAt(sorted, 0.99),
      max: valueAt(sorted, 1),
      sum: this.#sum,
      count: this.#count,
    };
  }

  /** Forgets the kept samples; count and sum go on. */
  clear(): void {
    this.#next = 0;
    this.#kept = 0;
  }

  #sort(): Float64Array {
    // The first #kept places of the ring are in use, in whatever order: only their set matters here.
    const view = this.#sorted.subarray(0, this.#kept);
    view.set(this.#ring.subarray(0, this.#kept));
    return view.sort();
  }
}

function valueAt(sorted: Float64Array, share: number): number {
  const rank = Math.max(1, Math.ceil(share * sorted.length));
  return sorted[rank - 1] ?? 0;
}
