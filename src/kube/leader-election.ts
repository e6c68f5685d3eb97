/**
 * One leader among the replicas of a process, by a Lease.
 *
 * Contract: `lead` runs in at most one process at a time. Its signal is aborted when leadership is lost or no longer certain,
 * which is at the latest `leaseMs - renewMs` before another can begin; until it returns nothing else happens here. Whoever writes
 * after a long wait asks `isCertain` first: a process that was frozen hears of its loss only when it runs again.
 */
import { type Clock, monotonicClock } from "../telemetry/clock.ts";
import { type Log, silentLog } from "../telemetry/log.ts";
import type { Cluster } from "./cluster.ts";
import {
  claim,
  disclaim,
  type ElectionTiming,
  type LeaseSpec,
  mayHold,
  type Observation,
  observe,
} from "./election-state.ts";
import { KubeFailure } from "./kube-failure.ts";
import { kindOf, type KubeObject } from "./kube-object.ts";
import { encodeMicroTime } from "./micro-time.ts";
import { sleep } from "../telemetry/sleep.ts";

export type LeaderElectionOptions = {
  readonly cluster: Pick<Cluster, "read" | "create" | "replace">;
  readonly namespace: string;
  /** Of the Lease. */
  readonly name: string;
  /** Different for every process that ever ran: a pod's name and uid. */
  readonly identity: string;
  readonly timing?: Partial<ElectionTiming> | undefined;
  readonly log?: Log | undefined;
  readonly clock?: Clock | undefined;
};

export type Leadership = {
  /** Aborted when it ends. */
  readonly signal: AbortSignal;
  /** Whether nobody else can lead at this moment. */
  isCertain(): boolean;
};

/** `ended`: `lead` returned by itself. */
export type ElectionEnd = "stopped" | "lost" | "ended";

type Lease = KubeObject & { readonly spec?: LeaseSpec };

const defaultTiming: ElectionTiming = { leaseMs: 15_000, renewMs: 10_000, retryMs: 2_000 };
const leases = kindOf("coordination.k8s.io/v1", "Lease");

export class LeaderElection {
  readonly #options: LeaderElectionOptions;
  readonly #timing: ElectionTiming;
  readonly #clock: Clock;
  readonly #log: Log;
  #observation: Observation | undefined;
  /** On our clock; before the request was sent. */
  #renewedAtMs = -Infinity;
  /** The last word in the log about why we do not lead or renew. */
  #told = "";

  constructor(options: LeaderElectionOptions) {
    this.#options = options;
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#clock = options.clock ?? monotonicClock;
    this.#log = (options.log ?? silentLog).child({ lease: options.name, identity: options.identity });
  }

  /** Waits for leadership, leads once, and gives the Lease back. What `lead` throws is thrown. */
  async run(lead: (leadership: Leadership) => Promise<void>, stop: AbortSignal): Promise<ElectionEnd> {
    if (!(await this.#acquire(stop))) {
      return "stopped";
    }
    this.#log.info({}, "leading");
    const ending = new AbortController();
    const onStop = (): void => {
      ending.abort();
    };
    stop.addEventListener("abort", onStop);
    const working = new AbortController();
    const renewing = this.#renewUntil(working.signal).finally(() => {
      ending.abort();
    });
    try {
      await lead({ signal: ending.signal, isCertain: () => !ending.signal.aborted && this.#isCertain() });
    } finally {
      stop.removeEventListener("abort", onStop);
      working.abort();
      await renewing;
      await this.#release();
    }
    if (!this.#isCertain()) {
      return "lost";
    }
    return stop.aborted ? "stopped" : "ended";
  }

  #isCertain(): boolean {
    return this.#clock.nowMs() - this.#renewedAtMs < this.#timing.renewMs;
  }

  async #acquire(stop: AbortSignal): Promise<boolean> {
    while (!stop.aborted) {
      if ((await this.#try(stop)) === "held") {
        return true;
      }
      await sleep(this.#timing.retryMs * (1 + 0.2 * Math.random()), stop);
    }
    return false;
  }

  /** Ends when the work has ended or leadership is lost. */
  async #renewUntil(workEnded: AbortSignal): Promise<void> {
    for (;;) {
      await sleep(this.#timing.retryMs, workEnded);
      if (workEnded.aborted) {
        return;
      }
      const deadlineMs = this.#renewedAtMs + this.#timing.renewMs - this.#clock.nowMs();
      const outcome = await withDeadline(deadlineMs, workEnded, (signal) => this.#try(signal));
      if (outcome === "taken") {
        this.#renewedAtMs = -Infinity;
      }
      if (!this.#isCertain()) {
        this.#log.warn({}, "leadership lost");
        return;
      }
    }
  }

  async #try(signal: AbortSignal): Promise<"held" | "taken" | "failed"> {
    const startedAtMs = this.#clock.nowMs();
    try {
      const isHeld = await this.#claim(signal);
      if (isHeld) {
        this.#renewedAtMs = startedAtMs;
      }
      this.#tell(isHeld ? "" : "another process leads", {});
      return isHeld ? "held" : "taken";
    } catch (error) {
      if (!(error instanceof KubeFailure)) {
        throw error;
      }
      // After a conflict somebody was faster; the next try sees who.
      if (!["Conflict", "AlreadyExists", "Aborted"].includes(error.detail.code)) {
        this.#tell("the Lease cannot be read or written", { error });
      }
      return "failed";
    }
  }

  async #claim(signal: AbortSignal): Promise<boolean> {
    const { cluster, namespace, name, identity } = this.#options;
    const options = { signal, timeoutMs: this.#timing.renewMs / 2 };
    const lease = await cluster.read<Lease>({ kind: leases, namespace, name }, options);
    this.#observation = observe(this.#observation, lease?.metadata.resourceVersion, this.#clock.nowMs());
    const candidate = { identity, timing: this.#timing };
    if (!mayHold(lease?.spec, this.#observation, { ...candidate, nowMs: this.#clock.nowMs() })) {
      return false;
    }
    const spec = claim(lease?.spec, candidate, encodeMicroTime(new Date()));
    if (lease === undefined) {
      const metadata = { namespace, name };
      await cluster.create<Lease>({ apiVersion: leases.apiVersion, kind: leases.kind, metadata, spec }, options);
    } else {
      await cluster.replace<Lease>({ ...lease, spec }, options);
    }
    return true;
  }

  /** Only what is surely still ours; otherwise the others wait for its end. */
  async #release(): Promise<void> {
    const { cluster, namespace, name, identity } = this.#options;
    try {
      const options = { timeoutMs: this.#timing.retryMs };
      const lease = await cluster.read<Lease>({ kind: leases, namespace, name }, options);
      if (lease?.spec?.holderIdentity === identity) {
        await cluster.replace<Lease>({ ...lease, spec: disclaim(lease.spec, encodeMicroTime(new Date())) }, options);
      }
    } catch (error) {
      this.#log.info({ error }, "the Lease was not given back; others wait for its end");
    }
  }

  #tell(why: string, fields: object): void {
    if (why !== this.#told && why !== "") {
      this.#log.info(fields, why);
    }
    this.#told = why;
  }
}

/** The call's signal is aborted in time, and with `signal`. */
async function withDeadline<T>(ms: number, signal: AbortSignal, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const ending = new AbortController();
  const end = (): void => {
    ending.abort();
  };
  const timer = setTimeout(end, Math.max(0, ms));
  signal.addEventListener("abort", end);
  try {
    return await call(ending.signal);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}
