/** The operator's figures for Prometheus. Those of guests are the agents'; here is how many there are in which state. */
import { type ProtectedVmStatus } from "../api/protected-vm.ts";
import { MetricsRegistry } from "../telemetry/metrics.ts";

export type OperatorView = {
  readonly waitingCount: number;
  readonly failingCount: number;
  readonly protectedVms: readonly {
    readonly metadata: { readonly namespace?: string | undefined; readonly name: string };
    readonly status?: ProtectedVmStatus | undefined;
  }[];
};

const BOUNDS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10];

export class OperatorMetrics {
  readonly #registry = new MetricsRegistry();
  readonly #leader = this.#registry.gauge({ name: "twinrun_operator_leader", help: "1 while this replica leads." });
  readonly #duration = this.#registry.histogram({
    name: "twinrun_operator_reconcile_seconds",
    help: "How long one look at a ProtectedVM took.",
    bounds: BOUNDS,
  });
  readonly #failures = this.#registry.counter({
    name: "twinrun_operator_reconcile_failures_total",
    help: "Looks at a ProtectedVM that failed and were tried again.",
  });
  readonly #waiting = this.#registry.gauge({
    name: "twinrun_operator_queue_waiting",
    help: "ProtectedVMs that need a look now or at a known time.",
  });
  readonly #failing = this.#registry.gauge({
    name: "twinrun_operator_queue_failing",
    help: "ProtectedVMs whose last look failed.",
  });
  readonly #guests = this.#registry.gauge({
    name: "twinrun_protected_vms",
    help: "ProtectedVMs by the reason of their condition Ready.",
    labelNames: ["reason"],
  });
  readonly #isolated = this.#registry.gauge({
    name: "twinrun_component_isolated",
    help: "1 for each part of a ProtectedVM's sides that failed again and again, until a person clears it.",
    labelNames: ["namespace", "name", "node", "component"],
  });
  readonly #reasons = new Set<string>();

  constructor() {
    this.#leader.set(0);
    this.#failures.add(0);
  }

  setLeader(isLeader: boolean): void {
    this.#leader.set(isLeader ? 1 : 0);
  }

  finished({ durationMs, isFailed }: { readonly durationMs: number; readonly isFailed: boolean }): void {
    this.#duration.observe(durationMs / 1_000);
    if (isFailed) {
      this.#failures.add(1);
    }
  }

  write({ waitingCount, failingCount, protectedVms }: OperatorView): string {
    this.#waiting.set(waitingCount);
    this.#failing.set(failingCount);
    const counts = new Map<string, number>();
    for (const { status } of protectedVms) {
      const reason = status?.conditions?.find(({ type }) => type === "Ready")?.reason ?? "Unknown";
      counts.set(reason, (counts.get(reason) ?? 0) + 1);
      this.#reasons.add(reason);
    }
    this.#setIsolated(protectedVms);
    for (const reason of this.#reasons) {
      this.#guests.set(counts.get(reason) ?? 0, { reason });
    }
    return this.#registry.write();
  }

  #setIsolated(protectedVms: OperatorView["protectedVms"]): void {
    this.#isolated.remove({});
    for (const { metadata, status } of protectedVms) {
      const { namespace = "", name } = metadata;
      for (const { node, component } of status?.faults?.filter(({ state }) => state === "Isolated") ?? []) {
        this.#isolated.set(1, { namespace, name, node, component });
      }
    }
  }
}
