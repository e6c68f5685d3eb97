/**
 * The operator: copies of the cluster, a queue of ProtectedVMs that need a look, and a reconciler that looks. Copies are kept
 * by every replica, so that the next leader knows the cluster when it begins; only the leader works.
 */
import { type OperatorSettings } from "../decide/protected-vm-plan.ts";
import { type Cluster } from "../kube/cluster.ts";
import { EventRecorder } from "../kube/event-recorder.ts";
import { LeaderElection, type ElectionEnd, type Leadership } from "../kube/leader-election.ts";
import { WorkQueue } from "../kube/work-queue.ts";
import { type Log } from "../telemetry/log.ts";
import { startCertificates } from "./certificates/certificates.ts";
import { keepRollingAgents } from "./agent-roller.ts";
import { keepRollingEtcd } from "./etcd-roller.ts";
import { KubeProtectedVmCluster } from "./kube-protected-vm-cluster.ts";
import { ObjectCaches } from "./object-caches.ts";
import { OperatorMetrics } from "./operator-metrics.ts";
import { ProtectedVmReconciler } from "./protected-vm-reconciler.ts";
import { type QuorumRecords } from "./quorum-records.ts";
import { SplitSitePairReconciler } from "./split-site-pair-reconciler.ts";

export type OperatorOptions = {
  readonly cluster: Cluster;
  readonly settings: OperatorSettings;
  /** Whether cert-manager makes the authorities of the installation. */
  readonly usesCertManager: boolean;
  readonly quorumRecords: QuorumRecords;
  /** Different for every process that ever ran. */
  readonly identity: string;
  /** Called after every action, by its tag. */
  readonly pass?: ((step: string) => void) | undefined;
  readonly log: Log;
};

const LEASE = "twinrun-operator";
/** Shorter than usual: what is said of guests is as old as this when the leader goes with its node. */
const LEASE_TIMING = { leaseMs: 9_000, renewMs: 6_000, retryMs: 1_500 };
/** A ProtectedVM is looked at now and then though nothing seems to have changed. */
const RESYNC_MS = 600_000;

export class Operator {
  readonly #options: OperatorOptions;
  readonly #caches: ObjectCaches;
  readonly metrics = new OperatorMetrics();
  #queue: WorkQueue | undefined;
  #sitesQueue: WorkQueue | undefined;
  #isReady = false;

  constructor(options: OperatorOptions) {
    this.#options = options;
    this.#caches = new ObjectCaches({
      cluster: options.cluster,
      namespace: options.settings.namespace,
      onChange: (key) => {
        this.#queue?.add(key);
      },
      onSitesChange: (name) => {
        this.#sitesQueue?.add(name);
      },
      log: options.log,
    });
  }

  /** It knows the cluster, and could lead. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /**
   * Leads whenever its time comes, until `stop`. An API server that is away takes the lead from every replica; were that the end of
   * the process, the kubelet would wait longer before each start, up to five minutes.
   */
  async run(stop: AbortSignal): Promise<ElectionEnd> {
    const { cluster, settings, identity, log } = this.#options;
    const stopped = new Promise<void>((resolve) => {
      stop.addEventListener("abort", () => {
        resolve();
      });
    });
    try {
      await Promise.race([this.#caches.start(), stopped]);
      this.#isReady = !stop.aborted;
      const lease = { namespace: settings.namespace, name: LEASE, timing: LEASE_TIMING };
      for (;;) {
        const election = new LeaderElection({ cluster, identity, log, ...lease });
        const end = await election.run((leadership) => this.#lead(leadership), stop);
        if (end !== "lost" || stop.aborted) {
          return end;
        }
      }
    } finally {
      this.#isReady = false;
      await this.#caches.stop();
    }
  }

  async #lead(leadership: Leadership): Promise<void> {
    const { cluster, settings, usesCertManager, quorumRecords, identity, log, pass } = this.#options;
    const events = new EventRecorder({ cluster, controller: "twinrun.dev/operator", instance: identity, log });
    const view = new KubeProtectedVmCluster({
      ...{ cluster, caches: this.#caches, events, settings, quorumRecords },
      isLeader: () => leadership.isCertain(),
    });
    const reconciler = new ProtectedVmReconciler({
      cluster: view,
      nowMs: Date.now,
      log,
      ...(pass === undefined ? {} : { pass }),
    });
    const queue = new WorkQueue({
      work: (key) => reconciler.reconcile(key),
      onFinished: (run) => {
        this.metrics.finished(run);
      },
      log,
    });
    this.#queue = queue;
    this.metrics.setLeader(true);
    const addAll = (): void => {
      this.#caches.protectedVms.keys().forEach((key) => {
        queue.add(key);
      });
    };
    addAll();
    const resync = setInterval(addAll, RESYNC_MS);
    queue.start();
    const certificates = startCertificates(cluster, {
      ...{ namespace: settings.namespace, isOfCertManager: usesCertManager, log },
    });
    const sitesQueue = this.#startSites(() => leadership.isCertain());
    const roller = { cluster, namespace: settings.namespace, log, signal: leadership.signal };
    const rolling = [keepRollingEtcd(roller), keepRollingAgents({ ...roller, caches: this.#caches })];
    await new Promise<void>((resolve) => {
      leadership.signal.addEventListener("abort", () => {
        resolve();
      });
    });
    clearInterval(resync);
    this.#queue = undefined;
    this.#sitesQueue = undefined;
    this.metrics.setLeader(false);
    await Promise.all([queue.stop(), sitesQueue.stop(), certificates.stop(), ...rolling]);
    await events.stop();
  }

  #startSites(isLeader: () => boolean): WorkQueue {
    const { cluster, settings, log } = this.#options;
    const { namespace } = settings;
    const reconciler = new SplitSitePairReconciler({
      ...{ cluster, caches: this.#caches, namespace, isLeader },
      nowMs: Date.now,
    });
    const queue = new WorkQueue({ work: (name) => reconciler.reconcile(name), workerCount: 1, log });
    this.#sitesQueue = queue;
    this.#caches.splitSitePairs.keys().forEach((name) => {
      queue.add(name);
    });
    queue.start();
    return queue;
  }

  writeMetrics(): string {
    return this.metrics.write({
      waitingCount: this.#queue?.waitingCount ?? 0,
      failingCount: this.#queue?.failingCount ?? 0,
      protectedVms: this.#caches.protectedVms.list(),
    });
  }
}
