/**
 * What happened to an object, for `kubectl events`: events.k8s.io/v1.
 *
 * Contract: {@link EventRecorder.record} returns at once and never throws; events are written in order, one request at a time,
 * with the limits of {@link EventSeries}. They are words for people: when the server is away for long the newest are dropped, and
 * nothing may depend on one. Call it when something changed, not each time it is found to be so.
 */
import { randomBytes } from "node:crypto";
import { type Clock, monotonicClock } from "../telemetry/clock.ts";
import { type Log, silentLog } from "../telemetry/log.ts";
import type { Cluster } from "./cluster.ts";
import { EventSeries, type EventSubject, type SeriesCount, type SeriesTiming } from "./event-series.ts";
import { hasKubeCode } from "./kube-failure.ts";
import { kindOf, type KubeObject } from "./kube-object.ts";
import { encodeMicroTime } from "./micro-time.ts";
import { sleep } from "../telemetry/sleep.ts";

export type EventRecorderOptions = {
  readonly cluster: Pick<Cluster, "create" | "patch">;
  /** Who reports: `twinrun.dev/operator`. */
  readonly controller: string;
  /** Which of them: the pod's or the node's name. */
  readonly instance: string;
  readonly log?: Log | undefined;
  readonly clock?: Clock | undefined;
  readonly timing?: SeriesTiming | undefined;
};

export type RecordedEvent = {
  readonly regarding: KubeObject;
  readonly related?: KubeObject | undefined;
  readonly type?: "Normal" | "Warning" | undefined;
  /** Stable, in PascalCase: `FailedOver`. */
  readonly reason: string;
  /** What was being done, in PascalCase: `Failover`. */
  readonly action: string;
  /** A sentence for people. */
  readonly note: string;
};

type Sending =
  | { readonly tag: "create"; readonly key: string; readonly object: KubeObject }
  | ({ readonly tag: "count"; readonly at: string } & SeriesCount);

const events = kindOf("events.k8s.io/v1", "Event");
const waitingMax = 500;
const triesMax = 6;
/** The API server takes 1,024 bytes. */
const noteBytesMax = 1_000;
const countEveryMs = 15_000;

export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #series: EventSeries;
  readonly #waiting: Sending[] = [];
  readonly #stopping = new AbortController();
  #sending: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #droppedCount = 0;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? monotonicClock;
    this.#log = options.log ?? silentLog;
    this.#series = new EventSeries(({ name }) => `${name.slice(0, 200)}.${randomHex()}`, options.timing);
  }

  /** Events that were not written: there were too many, or the server was away. */
  get droppedCount(): number {
    return this.#droppedCount;
  }

  record(event: RecordedEvent): void {
    const { regarding, related, type = "Normal", reason, action, note } = event;
    const subject = subjectOf(regarding);
    const key = [subject.uid, related?.metadata.uid ?? related?.metadata.name, type, reason, action, note].join("\n");
    const decision = this.#series.note(key, subject, this.#clock.nowMs());
    switch (decision.tag) {
      case "create":
        this.#send({ tag: "create", key, object: this.#encode(event, decision.name) });
        return;
      case "count":
        this.#send({ ...decision, at: encodeMicroTime(new Date()) });
        return;
      case "later":
        this.#setTimer();
        return;
      case "drop":
        this.#drop(reason);
    }
  }

  /** Writes what was recorded, for as long as it takes up to `withinMs`, and takes no more. */
  async stop(withinMs = 2_000): Promise<void> {
    clearTimeout(this.#timer);
    const timer = setTimeout(() => {
      this.#stopping.abort();
    }, withinMs);
    await this.#sending;
    clearTimeout(timer);
    this.#stopping.abort();
  }

  #encode({ regarding, related, type = "Normal", reason, action, note }: RecordedEvent, name: string): KubeObject {
    const { controller, instance } = this.#options;
    const object = {
      apiVersion: events.apiVersion,
      kind: events.kind,
      metadata: { namespace: subjectOf(regarding).namespace, name },
      eventTime: encodeMicroTime(new Date()),
      ...{ type, reason, action, note: cut(note, noteBytesMax) },
      regarding: referenceTo(regarding),
      ...(related === undefined ? {} : { related: referenceTo(related) }),
      reportingController: controller,
      reportingInstance: instance.slice(0, 128),
    };
    return object;
  }

  #send(sending: Sending): void {
    if (this.#stopping.signal.aborted) {
      return;
    }
    if (this.#waiting.length >= waitingMax) {
      this.#drop("the API server takes none");
      return;
    }
    this.#waiting.push(sending);
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      await this.#sendOne(next);
    }
  }

  async #sendOne(sending: Sending): Promise<void> {
    const { signal } = this.#stopping;
    for (let tries = 1; !signal.aborted; tries += 1) {
      try {
        await this.#write(sending, signal);
        return;
      } catch (error) {
        const mayPass = hasKubeCode(error, "Unreachable", "TimedOut", "ServerTrouble", "TooManyRequests");
        if (!mayPass || tries === triesMax) {
          // The event of a series lives for an hour by default; in a namespace that is being deleted nothing is made.
          this.#series.forget(sending.key);
          this.#drop("the API server does not take it", error);
          return;
        }
        await sleep(500 * 2 ** tries, signal);
      }
    }
  }

  async #write(sending: Sending, signal: AbortSignal): Promise<void> {
    const { cluster } = this.#options;
    if (sending.tag === "create") {
      await cluster.create(sending.object, { signal }).catch((error: unknown) => {
        if (!hasKubeCode(error, "AlreadyExists")) {
          throw error; // Otherwise an earlier try got through.
        }
      });
      return;
    }
    const { namespace, name, count, at } = sending;
    await cluster.patch({ kind: events, namespace, name }, { series: { count, lastObservedTime: at } }, { signal });
  }

  #drop(why: string, error?: unknown): void {
    this.#droppedCount += 1;
    this.#log.debug({ error, why, droppedCount: this.#droppedCount }, "an event was not written");
  }

  #setTimer(): void {
    if (this.#timer !== undefined || this.#stopping.signal.aborted) {
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      for (const due of this.#series.takeDue(this.#clock.nowMs())) {
        this.#send({ tag: "count", at: encodeMicroTime(new Date()), ...due });
      }
      if (this.#series.hasUnwritten()) {
        this.#setTimer();
      }
    }, countEveryMs);
    this.#timer.unref();
  }
}

const randomHex = (): string => randomBytes(8).toString("hex");

/** Events about what is in no namespace go to `default`. */
function subjectOf({ metadata: { namespace = "default", name, uid } }: KubeObject): EventSubject {
  return { namespace, name, uid: uid ?? `${namespace}/${name}` };
}

function referenceTo({ apiVersion, kind, metadata: { namespace, name, uid, resourceVersion } }: KubeObject): object {
  return { apiVersion, kind, namespace, name, uid, resourceVersion };
}

function cut(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text, "utf8");
  // A letter that was cut in two is left out.
  return bytes.length <= bytesMax ? text : `${bytes.toString("utf8", 0, bytesMax - 3).replace(/\uFFFD+$/, "")}…`;
}
