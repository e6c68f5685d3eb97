/**
 * Plays what an operator has around it where no guests run, against a real API server: four nodes with their agents, KubeVirt and
 * CDI, so that as many ProtectedVMs as wanted become Ready and stay idle.
 *
 * KubeVirt and CDI are played by a few lines: an instance runs as soon as it is there, a volume is bound. The agents' part that
 * an operator notices is not played: it is the agents' own reporter (src/agent/pair-reporter.ts), given an engine's report once
 * a second as engines do, with figures that move as those of an idle guest of the lab.
 */
import { PairReporter } from "../../src/agent/pair-reporter.ts";
import { type GuestStatus } from "../../src/agent/guest-runner.ts";
import { type GuestPair } from "../../src/api/guest-pair.ts";
import { GUEST_LABEL } from "../../src/api/vmi-contract.ts";
import { type Cluster } from "../../src/kube/cluster.ts";
import { keyOf, kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { WorkQueue } from "../../src/kube/work-queue.ts";
import { type Json, readObject } from "../../src/lib/json-merge.ts";
import { Random } from "../../src/lib/random.ts";
import { type DurationFigures, type EngineReport } from "../../src/protocol/assignment.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { addNode } from "../build/cluster-node.ts";
import { buildReport } from "../build/engine-report.ts";

/** In pairs: a guest has both nodes of one, and the default range of ports is enough for half of the crowd on each. */
export const nodePairs = [
  ["node-a", "node-b"],
  ["node-c", "node-d"],
] as const;
const nodes = nodePairs.flat();
export const systemNamespace = "twinrun";

type Stored = KubeObject & { readonly spec?: Json; readonly status?: Json };
type Pair = KubeObject & GuestPair;

const kinds = {
  pair: kindOf("twinrun.dev/v1alpha1", "GuestPair"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  claim: kindOf("v1", "PersistentVolumeClaim"),
};

/** Of an engine. */
const reportEveryMs = 1_000;
const partsOfARound = 50;

export class PlayedCluster {
  readonly #cluster: Cluster;
  readonly #random = new Random(1);
  readonly #pairs: Reflector<Pair>;
  readonly #instances: Reflector<Stored>;
  readonly #volumes: Reflector<Stored>;
  readonly #queue: WorkQueue;
  readonly #reporters: readonly PairReporter[];
  /** No agent says anything. */
  isSilent = false;
  #timer: NodeJS.Timeout | undefined;
  #next = 0;
  readonly #lanes: Promise<unknown>[] = Array.from({ length: 8 }, () => Promise.resolve());
  #nextLane = 0;

  private constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.#queue = new WorkQueue({ work: (key) => this.#work(key), workerCount: 8 });
    const follow = <T extends KubeObject>(kind: (typeof kinds)[keyof typeof kinds], part: string): Reflector<T> => {
      const indexes = { guest: (object: T) => [object.metadata.labels?.[GUEST_LABEL] ?? ""] };
      const reflector = new Reflector<T>({ cluster, kind, indexes });
      reflector.onChange(({ key, before, after }) => {
        if (before === undefined && after !== undefined) {
          this.#queue.add(`${part} ${key}`);
        }
      });
      return reflector;
    };
    this.#pairs = follow<Pair>(kinds.pair, "pair");
    this.#instances = follow<Stored>(kinds.vmi, "instance");
    this.#volumes = follow<Stored>(kinds.dataVolume, "volume");
    this.#reporters = nodes.map((node) => this.#createReporter(node));
  }

  static async start(cluster: Cluster): Promise<PlayedCluster> {
    for (const [index, name] of nodes.entries()) {
      // Room for every guest of the crowd.
      const room = { address: `10.1.0.${index + 1}`, memory: "64Ti" };
      await addNode(cluster, { name, namespace: systemNamespace, ...room });
    }
    const played = new PlayedCluster(cluster);
    const followed = [played.#pairs, played.#instances, played.#volumes];
    followed.forEach((each) => {
      each.start();
    });
    await Promise.all(followed.map((each) => each.synced()));
    played.#queue.start();
    // Agents and engines do not all speak in the same moment.
    played.#timer = setInterval(() => {
      played.#reportSome();
    }, reportEveryMs / partsOfARound);
    return played;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#reporters.forEach((reporter) => {
      reporter.close();
    });
    await this.#queue.stop();
    await Promise.all([this.#pairs.stop(), this.#instances.stop(), this.#volumes.stop()]);
  }

  #reportSome(): void {
    const guests = this.#pairs.keys();
    const share = this.isSilent ? 0 : Math.ceil(guests.length / partsOfARound);
    for (let count = 0; count < share; count += 1) {
      this.#next += 1;
      this.#report(this.#pairs.get(guests[this.#next % guests.length] ?? ""));
    }
  }

  #report(pair: Pair | undefined): void {
    if (pair !== undefined && this.#instances.listBy("guest", pair.metadata.name).length === pair.spec.sides.length) {
      for (const { node } of pair.spec.sides) {
        this.#reporters[nodes.findIndex((name) => name === node)]?.guestChanged(pair.metadata.name);
      }
    }
  }

  async #work(key: string): Promise<undefined> {
    const [part = "", name = ""] = key.split(" ");
    if (part === "instance") {
      await this.#run(this.#instances.get(name));
    } else if (part === "volume") {
      await this.#fill(this.#volumes.get(name));
    }
    return undefined;
  }

  /** As KubeVirt does. */
  async #run(instance: Stored | undefined): Promise<void> {
    if (instance === undefined) {
      return;
    }
    const { namespace, name } = instance.metadata;
    const node = readObject(instance.spec, "nodeSelector")["kubernetes.io/hostname"];
    const status = { phase: "Running", nodeName: node, conditions: [{ type: "Ready", status: "True" }] };
    await this.#cluster.patch({ kind: kinds.vmi, namespace, name }, { status });
  }

  /** As CDI does. */
  async #fill(volume: Stored | undefined): Promise<void> {
    if (volume === undefined) {
      return;
    }
    const { namespace, name, labels } = volume.metadata;
    const { resources, storageClassName } = readObject(volume.spec, "storage");
    const claim = {
      ...{ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { namespace, name, labels } },
      spec: { resources, storageClassName, accessModes: ["ReadWriteOnce"] },
    };
    await this.#cluster.apply<KubeObject>(claim, "cdi");
    const bound = { phase: "Bound", capacity: { storage: "10Gi" } };
    await this.#cluster.patch({ kind: kinds.claim, namespace, name }, { status: bound }, { subresource: "status" });
    const ref = { kind: kinds.dataVolume, namespace, name };
    await this.#cluster.patch(ref, { status: { phase: "Succeeded" } }, { subresource: "status" });
  }

  #createReporter(node: string): PairReporter {
    const find = (name: string): Pair | undefined => this.#pairs.get(keyOf({ namespace: systemNamespace, name }));
    return new PairReporter({
      node,
      apiVersion: "twinrun.dev/v1alpha1",
      readGuest: (guest) => {
        const pair = find(guest);
        return pair === undefined ? undefined : this.#buildStatus(pair, node);
      },
      readObject: (guest) => {
        const pair = find(guest);
        return pair === undefined
          ? undefined
          : { namespace: systemNamespace, name: guest, generation: pair.metadata.generation ?? 1 };
      },
      readTrouble: () => undefined,
      readFaults: () => [],
      isListed: () => true,
      readWritten: ({ name }) => find(name)?.status?.sides?.find((side) => side.node === node),
      applyStatus: (object, fieldManager) => this.#inLane(() => this.#cluster.applyStatus(object, fieldManager)),
      log: silentLog,
    });
  }

  /** Not all at once: two agents would not have so many guests. */
  #inLane<T>(write: () => Promise<T>): Promise<T> {
    this.#nextLane = (this.#nextLane + 1) % this.#lanes.length;
    const written = (this.#lanes[this.#nextLane] ?? Promise.resolve()).then(write);
    this.#lanes[this.#nextLane] = written.catch(() => undefined);
    return written;
  }

  #buildStatus({ spec }: Pair, node: string): GuestStatus {
    const links = spec.sides[0]?.links.map(({ name }) => name) ?? [];
    return {
      guest: spec.guest,
      mode: spec.mode,
      peerNode: spec.sides.find((side) => side.node !== node)?.node ?? "",
      disks: spec.disks,
      links,
      supervision: "running",
      enginePid: 1,
      engineRestartsCount: 0,
      qemu: null,
      changePending: false,
      wantedShape: null,
      trouble: null,
      report: this.#buildReport(spec, node),
    };
  }

  /** As engines of an idle guest report; how much their figures move was seen on the lab. */
  #buildReport({ roles, disks }: GuestPair["spec"], node: string): EngineReport {
    const isPrimary = node === roles.primary;
    const around = (value: number, share: number): number => value * (1 + share * (2 * this.#random.fraction() - 1));
    const duration = (p50Ms: number, p99Ms: number): DurationFigures => ({
      p50Ms: around(p50Ms, 0.1),
      p99Ms: around(p99Ms, 0.5),
      maxMs: around(2 * p99Ms, 0.5),
      ...{ sumMs: 100 * p50Ms, count: 100 },
    });
    const report = buildReport();
    return {
      ...report,
      role: isPrimary ? "primary" : "standby",
      ...{
        term: 1,
        primaryNode: roles.primary,
        syncPercent: 100,
        takeoversCount: 0,
        tracker: isPrimary ? "userfaultfd" : "none",
      },
      epoch: Math.round(performance.now() / 1_000),
      disks: disks.map((id) => ({ id, syncPercent: 100, dirtyBytes: 0 })),
      checkpoint: {
        ...report.checkpoint,
        perSecond: around(1, 0.1),
        phases: isPrimary ? { pause: duration(3, 8) } : {},
        dirtyPagesP50: Math.round(around(200, 0.1)),
      },
      addedLatency: duration(6, 12),
      lagMs: around(500, 1),
      links: [{ name: "node", alive: true, rttMs: around(0.4, 0.3) }],
    };
  }
}
