/**
 * A copy of one kind's objects that follows the API server, and word of every change in it.
 *
 * Contract: once {@link Reflector.synced} has resolved, the copy is what the server had at some moment, and moves only forward.
 * After an outage it goes on from the last version it saw; where the server cannot (410), it lists anew and tells the
 * differences, deletions too. Listeners hear the key and look themselves; one that throws is logged and heard again at the next
 * change. While the server is away the copy stays as it is: `silentSinceMs` says for how long.
 *
 * Why not the library's informer: it stops at any error but a closed connection, sets no bookmarks and keeps whole objects.
 */
import { Random } from "../lib/random.ts";
import { type Log, silentLog } from "../telemetry/log.ts";
import type { Cluster, ListScope, WatchEvent } from "./cluster.ts";
import { hasKubeCode } from "./kube-failure.ts";
import { keyOf, type KubeObject, type ResourceKind } from "./kube-object.ts";
import { sleep } from "../telemetry/sleep.ts";
import {
  initialProgress,
  nextStep,
  type Progress,
  type ReflectorEvent,
  type VersionDoubt,
} from "./reflector-progress.ts";

/** What a reflector needs of {@link Cluster}. */
export type Watchable = Pick<Cluster, "listPages" | "watch">;

export type ReflectorOptions<T extends KubeObject, Kept> = {
  readonly cluster: Watchable;
  readonly kind: ResourceKind;
  readonly scope?: ListScope | undefined;
  /** What to remember of an object; else all of it but `managedFields`. Keep little: there may be thousands. */
  readonly keep?: ((object: T) => Kept) | undefined;
  /** By name: the values under which {@link Reflector.listBy} finds an object. */
  readonly indexes?: Readonly<Record<string, (kept: Kept) => readonly string[]>> | undefined;
  readonly log?: Log | undefined;
  readonly timing?: Partial<ReflectorTiming> | undefined;
};

export type ReflectorTiming = {
  /** A watch is asked for again after one to two times this, so that not all watches end together. */
  readonly watchSeconds: number;
  /** For the server to begin to answer. */
  readonly answerMs: number;
  /** More than the minute between two bookmarks. */
  readonly silenceMs: number;
  readonly backoffMinMs: number;
  /** As late as we may notice that the server is back. */
  readonly backoffMaxMs: number;
};

/** An object that was made anew under its old name is one change, with another uid in `after`. */
export type Change<Kept> = {
  readonly key: string;
  readonly before: Kept | undefined;
  readonly after: Kept | undefined;
};

type Entry<Kept> = { readonly kept: Kept; readonly resourceVersion: string };

const defaultTiming: ReflectorTiming = {
  watchSeconds: 300,
  answerMs: 15_000,
  silenceMs: 90_000,
  backoffMinMs: 250,
  backoffMaxMs: 10_000,
};

export class Reflector<T extends KubeObject, Kept = T> {
  readonly #options: ReflectorOptions<T, Kept>;
  readonly #timing: ReflectorTiming;
  readonly #log: Log;
  readonly #random = new Random(Date.now());
  readonly #entries = new Map<string, Entry<Kept>>();
  readonly #indexes = new Map<string, Map<string, Set<string>>>();
  readonly #listeners = new Set<(change: Change<Kept>) => void>();
  readonly #stopping = new AbortController();
  readonly #synced: Promise<void>;
  #tellSynced: () => void = () => undefined;
  #running: Promise<void> | undefined;
  #progress: Progress = initialProgress;
  #heardAtMs = performance.now();

  constructor(options: ReflectorOptions<T, Kept>) {
    this.#options = options;
    this.#synced = new Promise((resolve) => {
      this.#tellSynced = resolve;
    });
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#log = options.log ?? silentLog;
    for (const name of Object.keys(options.indexes ?? {})) {
      this.#indexes.set(name, new Map());
    }
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Resolves when nothing is under way any more; the copy stays readable. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#tellSynced();
    await this.#running;
  }

  /** Resolves after the first whole list, or when stopped before. */
  synced(): Promise<void> {
    return this.#synced;
  }

  get isSynced(): boolean {
    return this.#progress.listedCount > 0;
  }

  /** Whole lists so far: one, unless something went wrong. */
  get listedCount(): number {
    return this.#progress.listedCount;
  }

  /** For how long nothing was heard from the server; up to a minute is usual. */
  get silentForMs(): number {
    return performance.now() - this.#heardAtMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** By {@link keyOf}. */
  get(key: string): Kept | undefined {
    return this.#entries.get(key)?.kept;
  }

  keys(): string[] {
    return [...this.#entries.keys()];
  }

  list(): Kept[] {
    return [...this.#entries.values()].map(({ kept }) => kept);
  }

  /** Those for which the index of this name gave this value. */
  listBy(index: string, value: string): Kept[] {
    const found: Kept[] = [];
    for (const key of this.#indexes.get(index)?.get(value) ?? []) {
      const entry = this.#entries.get(key);
      if (entry !== undefined) {
        found.push(entry.kept);
      }
    }
    return found;
  }

  /** Called after the copy has changed, for every object of the first list too. Returns the way to end it. */
  onChange(listener: (change: Change<Kept>) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const step = this.#progress.step;
      const event = step.tag === "list" ? await this.#list() : await this.#watch(step.resourceVersion);
      if (this.#stopping.signal.aborted) {
        return;
      }
      const before = this.#progress;
      this.#progress = nextStep(before, event, this.#timing);
      this.#tell(before, event);
      await this.#wait(this.#progress.delayMs);
    }
  }

  async #list(): Promise<ReflectorEvent> {
    const { cluster, kind, scope } = this.#options;
    const found = new Map<string, Entry<Kept>>();
    try {
      const options = { signal: this.#stopping.signal };
      // A list that outlived its pages is tried again in one piece.
      const paging = this.#progress.hasExpired ? { pageSize: 0 } : {};
      const resourceVersion = await cluster.listPages<T>(
        { kind, ...scope, ...paging },
        ({ items }) => {
          this.#heardAtMs = performance.now();
          for (const object of items) {
            found.set(keyOf(object.metadata), this.#keep(object));
          }
        },
        options,
      );
      this.#replaceAll(found);
      this.#tellSynced();
      return { tag: "listed", resourceVersion };
    } catch (error) {
      return { tag: "failed", error, isExpired: hasKubeCode(error, "Expired") };
    }
  }

  async #watch(from: string): Promise<ReflectorEvent> {
    const { cluster, kind, scope } = this.#options;
    const { watchSeconds, answerMs, silenceMs } = this.#timing;
    const startedAtMs = performance.now();
    let resourceVersion = from;
    let eventCount = 0;
    const take = (event: WatchEvent<T>): void => {
      this.#heardAtMs = performance.now();
      eventCount += 1;
      resourceVersion = event.tag === "bookmark" ? event.resourceVersion : this.#take(event);
    };
    const ended = (): { resourceVersion: string; isFruitful: boolean } => ({
      resourceVersion,
      isFruitful: eventCount > 0 || performance.now() - startedAtMs > 1_000,
    });
    try {
      const timeoutSeconds = Math.round(watchSeconds * (1 + this.#random.fraction()));
      const options = {
        ...scope,
        resourceVersion: from,
        timeoutSeconds,
        answerMs,
        silenceMs,
        signal: this.#stopping.signal,
      };
      await cluster.watch<T>(kind, options, take);
      return { tag: "watchEnded", ...ended() };
    } catch (error) {
      return { tag: "watchFailed", ...ended(), error, doubt: doubtOf(error) };
    }
  }

  #take({ tag, object }: Exclude<WatchEvent<T>, { tag: "bookmark" }>): string {
    const key = keyOf(object.metadata);
    const entry = this.#keep(object);
    this.#set(key, tag === "deleted" ? undefined : entry);
    return entry.resourceVersion;
  }

  #keep(object: T): Entry<Kept> {
    const { keep } = this.#options;
    const kept = keep === undefined ? (withoutManagedFields(object) as unknown as Kept) : keep(object);
    return { kept, resourceVersion: object.metadata.resourceVersion ?? "" };
  }

  #replaceAll(found: ReadonlyMap<string, Entry<Kept>>): void {
    for (const key of this.keys()) {
      if (!found.has(key)) {
        this.#set(key, undefined);
      }
    }
    for (const [key, entry] of found) {
      if (this.#entries.get(key)?.resourceVersion !== entry.resourceVersion) {
        this.#set(key, entry);
      }
    }
  }

  #set(key: string, entry: Entry<Kept> | undefined): void {
    const before = this.#entries.get(key)?.kept;
    if (entry === undefined) {
      this.#entries.delete(key);
    } else {
      this.#entries.set(key, entry);
    }
    const change = { key, before, after: entry?.kept };
    this.#index(change);
    if (before === undefined && entry === undefined) {
      return;
    }
    for (const listener of this.#listeners) {
      try {
        listener(change);
      } catch (error) {
        this.#log.error({ error, key, plural: this.#options.kind.plural }, "a listener failed");
      }
    }
  }

  #index({ key, before, after }: Change<Kept>): void {
    for (const [name, valuesOf] of Object.entries(this.#options.indexes ?? {})) {
      const index = this.#indexes.get(name) ?? new Map<string, Set<string>>();
      for (const value of before === undefined ? [] : valuesOf(before)) {
        removeFrom(index, value, key);
      }
      for (const value of after === undefined ? [] : valuesOf(after)) {
        index.set(value, (index.get(value) ?? new Set()).add(key));
      }
    }
  }

  /** The first failure of a row is worth a line, and that it is over. */
  #tell(before: Progress, event: ReflectorEvent): void {
    const { plural } = this.#options.kind;
    const { failedCount, delayMs } = this.#progress;
    if (event.tag === "failed" || event.tag === "watchFailed") {
      // That a server forgets is usual, after its restart for one; so is silence about a kind of which nothing happens.
      const isUsual = hasKubeCode(event.error, "Expired") || isSilence(event);
      const level = failedCount === 1 && !isUsual ? "warn" : "debug";
      this.#log[level]({ error: event.error, plural, failedCount, delayMs }, "the API server is not followed");
    } else if (before.failedCount > 0 && failedCount === 0) {
      this.#log.info({ plural, failedCount: before.failedCount }, "the API server is followed again");
    }
  }

  /** With jitter: half to all of the time, so that a thousand nodes do not come back in the same moment. */
  #wait(delayMs: number): Promise<void> {
    return sleep(delayMs * (0.5 + 0.5 * this.#random.fraction()), this.#stopping.signal);
  }
}

const isSilence = (event: ReflectorEvent): boolean =>
  event.tag === "watchFailed" && event.isFruitful && hasKubeCode(event.error, "TimedOut");

function removeFrom(index: Map<string, Set<string>>, value: string, key: string): void {
  const keys = index.get(value);
  keys?.delete(key);
  if (keys?.size === 0) {
    index.delete(value);
  }
}

/** What the failure of a watch says about the version it was to go on from. */
function doubtOf(error: unknown): VersionDoubt {
  if (hasKubeCode(error, "Unreachable", "TimedOut", "Untrusted", "TooManyRequests", "Unauthorized")) {
    return "none";
  }
  return hasKubeCode(error, "ServerTrouble") ? "some" : "certainty";
}

/** They are often longer than all the rest. */
function withoutManagedFields<T extends KubeObject>(object: T): T {
  return { ...object, metadata: { ...object.metadata, managedFields: undefined } };
}
