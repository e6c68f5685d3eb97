/**
 * Which events are written, and which only count. Pure: time comes in.
 *
 * The same event of the same object again within six minutes becomes a count on the one that was written (a series), and that
 * count is written at once for the second and then at most once a minute. An object that has too many different ones loses
 * some: 25 at once, then one every 30 s.
 */
export type SeriesTiming = {
  readonly seriesMs: number;
  readonly countEveryMs: number;
  readonly burst: number;
  readonly oneEveryMs: number;
};

export const defaultSeriesTiming: SeriesTiming = {
  seriesMs: 360_000,
  countEveryMs: 60_000,
  burst: 25,
  oneEveryMs: 30_000,
};

/** The object an event is about; `namespace` is where the event goes. */
export type EventSubject = { readonly namespace: string; readonly name: string; readonly uid: string };

export type SeriesCount = {
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  readonly count: number;
};

export type EventDecision =
  | { readonly tag: "create"; readonly name: string }
  | ({ readonly tag: "count" } & SeriesCount)
  /** Written with a later count. */
  | { readonly tag: "later" }
  | { readonly tag: "drop" };

type Series = {
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  count: number;
  writtenCount: number;
  writtenAtMs: number;
  seenAtMs: number;
};
type Allowance = { left: number; atMs: number };

/** More series than this are not remembered: the one not seen for the longest time goes. */
const rememberedMax = 1_000;

export class EventSeries {
  readonly #timing: SeriesTiming;
  readonly #newName: (subject: EventSubject) => string;
  readonly #series = new Map<string, Series>();
  readonly #allowances = new Map<string, Allowance>();

  /** `newName` gives a name for an event about an object, never twice the same. */
  constructor(newName: (subject: EventSubject) => string, timing: SeriesTiming = defaultSeriesTiming) {
    this.#newName = newName;
    this.#timing = timing;
  }

  /** `key` is all that makes two events the same. */
  note(key: string, subject: EventSubject, nowMs: number): EventDecision {
    const known = this.#series.get(key);
    if (known !== undefined && nowMs - known.seenAtMs < this.#timing.seriesMs) {
      known.count += 1;
      known.seenAtMs = nowMs;
      remember(this.#series, key, known);
      return known.writtenCount === 1 || this.#isDue(known, nowMs) ? countOf(known, nowMs) : { tag: "later" };
    }
    if (!this.#mayCreate(subject.uid, nowMs)) {
      return { tag: "drop" };
    }
    const name = this.#newName(subject);
    const written = { count: 1, writtenCount: 1, writtenAtMs: nowMs, seenAtMs: nowMs };
    remember(this.#series, key, { key, namespace: subject.namespace, name, ...written });
    return { tag: "create", name };
  }

  /** The counts that are to be written now. */
  takeDue(nowMs: number): SeriesCount[] {
    return [...this.#series.values()]
      .filter((series) => series.count > series.writtenCount && this.#isDue(series, nowMs))
      .map((series) => countOf(series, nowMs));
  }

  /** Whether counts wait for their time. */
  hasUnwritten(): boolean {
    return [...this.#series.values()].some(({ count, writtenCount }) => count > writtenCount);
  }

  /** The event is not there (any more): the next one of its kind is written anew. */
  forget(key: string): void {
    this.#series.delete(key);
  }

  #isDue({ writtenAtMs }: Series, nowMs: number): boolean {
    return nowMs - writtenAtMs >= this.#timing.countEveryMs;
  }

  #mayCreate(uid: string, nowMs: number): boolean {
    const { burst, oneEveryMs } = this.#timing;
    const before = this.#allowances.get(uid) ?? { left: burst, atMs: nowMs };
    const left = Math.min(burst, before.left + (nowMs - before.atMs) / oneEveryMs);
    remember(this.#allowances, uid, { left: left >= 1 ? left - 1 : left, atMs: nowMs });
    return left >= 1;
  }
}

function countOf(series: Series, nowMs: number): { readonly tag: "count" } & SeriesCount {
  series.writtenCount = series.count;
  series.writtenAtMs = nowMs;
  const { key, namespace, name, count } = series;
  return { tag: "count", key, namespace, name, count };
}

/** The end of a Map is what was set last. */
function remember<Value>(values: Map<string, Value>, key: string, value: Value): void {
  values.delete(key);
  values.set(key, value);
  if (values.size > rememberedMax) {
    for (const oldest of values.keys()) {
      values.delete(oldest);
      return;
    }
  }
}
