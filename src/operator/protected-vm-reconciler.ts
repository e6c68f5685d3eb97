/**
 * Observes, plans, reports, acts: one ProtectedVM at a time, as often as it is asked to.
 *
 * The status is written before anything is done, so that an operator that dies leaves its intention visible. What it knows
 * besides what it sees is only what spares others its repetitions: the status it wrote last, which its cache may not have yet,
 * and the events it told. All of it may be lost at any moment.
 */
import { type ProtectedVm, type ProtectedVmStatus } from "../api/protected-vm.ts";
import { type Action, type Observed, type Plan, type PlannedEvent } from "../decide/protected-vm-plan.ts";
import { planProtectedVm } from "../decide/protected-vm.ts";
import { decideStatusWrite, withoutFigures } from "../decide/status-write.ts";
import { Failure } from "../lib/failure.ts";
import { type Log } from "../telemetry/log.ts";

/** What is remembered of a ProtectedVM from one pass to the next. */
export type Memory = {
  readonly previous: ProtectedVmStatus | undefined;
  readonly refusal: string | undefined;
};

/** What the plan was made from is no longer so; the next one is made from what is. */
export class Outdated extends Failure<{ readonly code: "Outdated" }> {}

/** What the reconciler needs of the cluster; implemented over src/kube, and by a simulated cluster in tests. */
export interface ProtectedVmCluster {
  /** From caches; undefined when there is no such ProtectedVM. `key` is NAMESPACE/NAME. */
  observe(key: string, memory: Memory, nowMs: number): Observed | undefined;
  writeStatus(protectedVm: ProtectedVm, status: ProtectedVmStatus): Promise<void>;
  /** Throws {@link Outdated} when the action is no longer right. */
  perform(action: Action, observed: Observed): Promise<void>;
  /** Never fails, for an event changes nothing. */
  record(protectedVm: ProtectedVm, event: PlannedEvent): void;
  /** What a person has to know of an error that trying again will not mend; undefined for any other. */
  explainRefusal(error: unknown): string | undefined;
}

export type ReconcilerOptions = {
  readonly cluster: ProtectedVmCluster;
  /** Milliseconds of the epoch, for times in objects. */
  readonly nowMs: () => number;
  readonly log: Log;
  /** Called after every action, by its tag. */
  readonly pass?: (step: string) => void;
};

type Known = {
  /** Of the ProtectedVM: one of the same name is another. */
  uid: string | undefined;
  status: ProtectedVmStatus | undefined;
  statusAtMs: number | undefined;
  refusal: string | undefined;
  readonly told: Map<string, number>;
};

const forgetful = (): Known => ({
  uid: undefined,
  status: undefined,
  statusAtMs: undefined,
  refusal: undefined,
  told: new Map(),
});

const REFUSED_RECHECK_MS = 30_000;
/** For a copy that is a moment behind. */
const OUTDATED_RECHECK_MS = 50;
const TOLD_FOR_MS = 60_000;

export class ProtectedVmReconciler {
  readonly #options: ReconcilerOptions;
  readonly #known = new Map<string, Known>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Returns when to look again even if nothing changes. An error means: soon, and less soon each time. */
  async reconcile(key: string): Promise<number | undefined> {
    const { cluster, log } = this.#options;
    const observed = this.#observe(key);
    if (observed === undefined) {
      this.#known.delete(key);
      return undefined;
    }
    const known = this.#recall(key);
    const plan = planProtectedVm(observed);
    const figuresAfterMs = await this.#report(observed, known, plan);
    try {
      for (const action of plan.actions) {
        log.info({ protectedVm: key, ...describe(action) }, "acts");
        await cluster.perform(action, observed);
        this.#options.pass?.(action.tag);
      }
    } catch (error) {
      if (error instanceof Outdated) {
        log.debug({ protectedVm: key, why: error.message }, "plans again");
        return OUTDATED_RECHECK_MS;
      }
      return await this.#refuse(key, known, error);
    }
    known.refusal = undefined;
    const soonestMs = Math.min(plan.recheckAfterMs ?? Infinity, figuresAfterMs ?? Infinity);
    return Number.isFinite(soonestMs) ? soonestMs : undefined;
  }

  #recall(key: string): Known {
    const known = this.#known.get(key) ?? forgetful();
    this.#known.set(key, known);
    return known;
  }

  #observe(key: string): Observed | undefined {
    const { cluster, nowMs } = this.#options;
    const known = this.#recall(key);
    const observed = cluster.observe(key, { previous: known.status, refusal: known.refusal }, nowMs());
    const uid = observed?.protectedVm.metadata.uid;
    if (observed === undefined || known.uid === undefined || known.uid === uid) {
      known.uid = uid;
      return observed;
    }
    this.#known.set(key, { ...forgetful(), uid });
    return cluster.observe(key, { previous: undefined, refusal: undefined }, nowMs());
  }

  /** Returns when figures that moved may be written. */
  async #report(
    { protectedVm, previous, nowMs }: Observed,
    known: Known,
    { status, events, changes }: Plan,
  ): Promise<number | undefined> {
    const decision = decideStatusWrite({ status: previous, atMs: known.statusAtMs }, status, { withoutFigures, nowMs });
    if (decision.tag === "write") {
      await this.#options.cluster.writeStatus(protectedVm, status);
      known.status = status;
      known.statusAtMs = nowMs;
      this.#options.pass?.("writeStatus");
      for (const change of changes) {
        this.#options.cluster.record(protectedVm, change);
      }
    }
    for (const event of events) {
      this.#tell(protectedVm, known, { event, nowMs });
    }
    return decision.tag === "later" ? decision.afterMs : undefined;
  }

  /** The same passes are made again until the cache shows what they did; their news is told once. */
  #tell(protectedVm: ProtectedVm, { told }: Known, { event, nowMs }: { event: PlannedEvent; nowMs: number }): void {
    const text = `${event.reason} ${event.message}`;
    const toldAtMs = told.get(text);
    for (const [old, atMs] of told) {
      if (nowMs - atMs >= TOLD_FOR_MS) {
        told.delete(old);
      }
    }
    if (toldAtMs === undefined || nowMs - toldAtMs >= TOLD_FOR_MS) {
      told.set(text, nowMs);
      this.#options.cluster.record(protectedVm, event);
    }
  }

  async #refuse(key: string, known: Known, error: unknown): Promise<number> {
    const refusal = this.#options.cluster.explainRefusal(error);
    if (refusal === undefined) {
      throw error;
    }
    this.#options.log.warn({ protectedVm: key, refusal }, "refused by the API server");
    known.refusal = refusal;
    const observed = this.#observe(key);
    if (observed !== undefined) {
      await this.#report(observed, known, planProtectedVm(observed));
    }
    return REFUSED_RECHECK_MS;
  }
}

type Description = { readonly action: string; readonly object?: string };

/** An action in a few words. */
// eslint-disable-next-line complexity -- One line for each action there is.
export function describe(action: Action): Description {
  switch (action.tag) {
    case "createObject":
      return { action: "create", object: `${action.object.kind} ${sayName(action.object.metadata)}` };
    case "patchObject":
      return { action: "patch", object: `${action.kind} ${sayName(action.name)}` };
    case "deleteObject":
      return { action: "delete", object: `${action.kind} ${sayName(action.name)} (${action.why})` };
    case "thawInstance":
      return { action: "thaw", object: `VirtualMachineInstance ${sayName(action.name)}` };
    case "copyReference":
      return { action: "copy", object: `${action.kind} ${action.source.name} to ${sayName(action.target)}` };
    case "applyPair":
      return { action: "apply", object: `GuestPair ${action.pair.metadata.name}` };
    case "clearRequest":
      return { action: "clear", object: action.annotation };
    case "forgetReports":
      return { action: "forget", object: action.nodes.join(", ") };
    case "applyFinalizer":
    case "removeFinalizer":
    case "deleteCopies":
    case "deleteRecord":
      return { action: action.tag };
  }
}

const sayName = ({ namespace, name }: { readonly namespace?: string | undefined; readonly name: string }): string =>
  `${namespace ?? ""}/${name}`;
