/**
 * Copies of everything the operator looks at, and word of which ProtectedVM a change concerns.
 *
 * Little is kept of each object: a cluster may have thousands of guests that are none of ours. KubeVirt and CDI may be missing,
 * or come later; what they would have is then not there.
 */
import { type GuestPair } from "../api/guest-pair.ts";
import { type ProtectedVm } from "../api/protected-vm.ts";
import { type SplitSitePair } from "../api/split-site-pair.ts";
import { GUEST_LABEL, OUTDATED_LABEL, vmiAnnotations } from "../api/vmi-contract.ts";
import {
  type Claim,
  type ClusterNode,
  type ClusterObject,
  type DataVolume,
  type Pod,
  type VirtualMachine,
  type Vmi,
  type Volume,
} from "../decide/cluster-objects.ts";
import { SELECTED_NODE_ANNOTATION } from "../decide/volume-places.ts";
import { summarizePair } from "../decide/pair-brief.ts";
import { type Cluster, type ListScope } from "../kube/cluster.ts";
import { keyOf, kindOf, type KubeObject, type ResourceKind } from "../kube/kube-object.ts";
import { type Change, Reflector } from "../kube/reflector.ts";
import { isSameJson, readText } from "../lib/json-merge.ts";
import { type Log } from "../telemetry/log.ts";

export const kinds = {
  protectedVm: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"),
  pair: kindOf("twinrun.dev/v1alpha1", "GuestPair"),
  splitSitePair: kindOf("twinrun.dev/v1alpha1", "SplitSitePair"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  machine: kindOf("kubevirt.io/v1", "VirtualMachine"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  claim: kindOf("v1", "PersistentVolumeClaim"),
  volume: kindOf("v1", "PersistentVolume"),
  node: kindOf("v1", "Node"),
  pod: kindOf("v1", "Pod"),
  secret: kindOf("v1", "Secret"),
  configMap: kindOf("v1", "ConfigMap"),
  lease: kindOf("coordination.k8s.io/v1", "Lease"),
} as const;

const AGENTS = "app.kubernetes.io/component=agent";
const MISSING_RETRY_MS = 30_000;

type Any = KubeObject & ClusterObject;
export type StoredVm = KubeObject & Pick<ProtectedVm, "spec" | "status">;
export type StoredSites = KubeObject & Pick<SplitSitePair, "spec" | "status">;

export type CachesOptions = {
  readonly cluster: Cluster;
  /** Where GuestPairs and agents are. */
  readonly namespace: string;
  /** A ProtectedVM, by its key, needs a look. */
  readonly onChange: (key: string) => void;
  /** A SplitSitePair, by its name, needs a look. */
  readonly onSitesChange: (name: string) => void;
  readonly log: Log;
};

const inNamespace = ({ namespace, name }: { namespace?: string | undefined; name: string }): string =>
  keyOf({ namespace, name });
const guestOf = ({ metadata }: ClusterObject): readonly string[] => {
  const guest = metadata.labels?.[GUEST_LABEL];
  return guest === undefined ? [] : [guest];
};

type Startable = Pick<Reflector<KubeObject>, "start" | "stop" | "synced">;

export class ObjectCaches {
  readonly #options: CachesOptions;
  readonly #all: Startable[] = [];
  /** Of kinds that the cluster may not have. */
  readonly #optional = new Map<ResourceKind, { readonly reflector: Startable; timer: NodeJS.Timeout | undefined }>();
  readonly protectedVms: Reflector<StoredVm>;
  readonly pairs: Reflector<KubeObject & GuestPair>;
  readonly splitSitePairs: Reflector<StoredSites>;
  readonly vmis: Reflector<Any, Vmi>;
  readonly machines: Reflector<Any, VirtualMachine>;
  readonly dataVolumes: Reflector<Any, DataVolume>;
  readonly claims: Reflector<Any, Claim>;
  readonly volumes: Reflector<Any, Volume>;
  readonly nodes: Reflector<Any, ClusterNode>;
  readonly agents: Reflector<Any, Pod>;
  #isStopped = false;
  #hasDataVolumes = false;

  constructor(options: CachesOptions) {
    this.#options = options;
    const { namespace } = options;
    this.protectedVms = this.#open<StoredVm, StoredVm>({
      kind: kinds.protectedVm,
      keep: keepWhole,
      indexes: VM_INDEXES,
      onChange: (change) => {
        this.#vmChanged(change);
      },
    });
    this.pairs = this.#open<KubeObject & GuestPair, KubeObject & GuestPair>({
      kind: kinds.pair,
      scope: { namespace },
      keep: keepWhole,
      indexes: { node: ({ spec }) => spec.sides.map(({ node }) => node) },
      onChange: this.#pairChanged,
    });
    this.splitSitePairs = this.#open<StoredSites, StoredSites>({
      kind: kinds.splitSitePair,
      isOptional: true,
      keep: keepWhole,
      onChange: this.#sitesChanged,
    });
    const perGuest = { indexes: { guest: guestOf }, onChange: this.#ownedChanged };
    this.vmis = this.#open<Any, Vmi>({
      kind: kinds.vmi,
      isOptional: true,
      keep: keepVmi,
      ...perGuest,
      onChange: this.#vmiChanged,
    });
    this.machines = this.#open<Any, VirtualMachine>({
      kind: kinds.machine,
      isOptional: true,
      keep: keepMachine,
      onChange: ({ key }) => {
        this.#tellMachine(key);
      },
    });
    this.dataVolumes = this.#open<Any, DataVolume>({
      kind: kinds.dataVolume,
      isOptional: true,
      keep: keepVolume,
      ...perGuest,
    });
    this.claims = this.#open<Any, Claim>({
      kind: kinds.claim,
      keep: keepVolume,
      ...perGuest,
      onChange: this.#claimChanged,
    });
    // Its claim tells when there is something new.
    this.volumes = this.#open<Any, Volume>({ kind: kinds.volume, keep: keepAffinity, onChange: () => undefined });
    this.nodes = this.#open<Any, ClusterNode>({
      ...{ kind: kinds.node, keep: keepNode },
      onChange: ({ key }) => {
        this.#tellNode(key);
      },
    });
    this.agents = this.#open<Any, Pod>({
      kind: kinds.pod,
      scope: { namespace, labelSelector: AGENTS },
      keep: keepPod,
      indexes: {},
      onChange: ({ before, after }) => {
        this.#tellNode(readText((after ?? before)?.spec, "nodeName") ?? "");
      },
    });
  }

  /** Resolves when everything is there that the cluster has. */
  async start(): Promise<void> {
    const optional = [...this.#optional];
    const present = await Promise.all(optional.map(([kind]) => this.#startOptional(kind)));
    const required = this.#all.filter(
      (each) => ![...this.#optional.values()].some((other) => other.reflector === each),
    );
    required.forEach((each) => {
      each.start();
    });
    const started = optional.flatMap(([, { reflector }], index) => (present[index] === true ? [reflector] : []));
    await Promise.all([...required, ...started].map((each) => each.synced()));
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    for (const { timer } of this.#optional.values()) {
      clearTimeout(timer);
    }
    await Promise.all(this.#all.map((each) => each.stop()));
  }

  get hasDataVolumes(): boolean {
    return this.#hasDataVolumes;
  }

  /** False when the cluster has no such kind; it is looked for again. */
  async #startOptional(kind: ResourceKind): Promise<boolean> {
    const optional = this.#optional.get(kind);
    const isThere = await this.#options.cluster.hasResource(kind).catch(() => false);
    if (this.#isStopped) {
      return false;
    }
    if (!isThere) {
      this.#options.log.info({ kind: kind.kind }, "the cluster has no such kind yet");
      const timer = setTimeout(() => void this.#startOptional(kind), MISSING_RETRY_MS);
      timer.unref();
      if (optional !== undefined) {
        optional.timer = timer;
      }
      return false;
    }
    this.#hasDataVolumes ||= kind === kinds.dataVolume;
    optional?.reflector.start();
    return true;
  }

  #open<T extends KubeObject, Kept>(what: {
    readonly kind: ResourceKind;
    readonly scope?: ListScope;
    readonly isOptional?: boolean;
    readonly keep: (object: T) => Kept;
    readonly indexes?: Readonly<Record<string, (kept: Kept) => readonly string[]>>;
    readonly onChange: (change: Change<Kept>) => void;
  }): Reflector<T, Kept> {
    const { cluster, log } = this.#options;
    const { kind, scope, keep, indexes = {}, isOptional = false, onChange } = what;
    const reflector = new Reflector<T, Kept>({ cluster, kind, scope, keep, indexes, log });
    reflector.onChange((change) => {
      if (!isSameJson(withoutVersion(change.before), withoutVersion(change.after))) {
        onChange(change);
      }
    });
    this.#all.push(reflector);
    if (isOptional) {
      this.#optional.set(kind, { reflector, timer: undefined });
    }
    return reflector;
  }

  /** Its own status is no news. */
  #vmChanged({ key, before, after }: Change<StoredVm>): void {
    const relevant = (object: StoredVm | undefined): unknown =>
      object === undefined ? undefined : withoutVersion({ ...object, status: undefined });
    if (!isSameJson(relevant(before), relevant(after))) {
      this.#options.onChange(key);
      [...listSitesOf(before), ...listSitesOf(after)].forEach(this.#options.onSitesChange);
      [...listGroups(before), ...listGroups(after)].forEach((group) => {
        this.#tell(this.protectedVms.listBy("group", group));
      });
      // A rival may have waited for its end.
      [...listMachines(before), ...listMachines(after)].forEach((machine) => {
        this.#tellMachine(machine);
      });
    }
  }

  /** Its own status is no news. */
  readonly #sitesChanged = ({ key, before, after }: Change<StoredSites>): void => {
    if (!isSameJson(before?.spec, after?.spec)) {
      this.#options.onSitesChange(key);
      this.#tell(this.protectedVms.listBy("sites", key));
    }
  };

  readonly #ownedChanged = ({ before, after }: Change<ClusterObject>): void => {
    // Also when somebody has just taken the mark away.
    const owner = ownerOf(after) ?? ownerOf(before);
    if (owner !== undefined) {
      this.#options.onChange(owner);
    }
  };

  /** What its sides report is what there is to say of their sites. */
  readonly #pairChanged = (change: Change<GuestPair>): void => {
    this.#ownedChanged(change);
    const owner = ownerOf(change.after) ?? ownerOf(change.before);
    const protectedVm = owner === undefined ? undefined : this.protectedVms.get(owner);
    listSitesOf(protectedVm).forEach(this.#options.onSitesChange);
    if (hasMoved(change)) {
      listGroups(protectedVm).forEach((group) => {
        this.#tell(this.protectedVms.listBy("group", group));
      });
    }
  };

  readonly #vmiChanged = (change: Change<Vmi>): void => {
    this.#ownedChanged(change);
    this.#tellMachine(change.key);
  };

  /** A claim that CDI makes has the name of its DataVolume, and little else of it. */
  readonly #claimChanged = (change: Change<Claim>): void => {
    this.#ownedChanged(change);
    const volume = this.dataVolumes.get(change.key);
    if (volume !== undefined) {
      this.#ownedChanged({ key: change.key, before: undefined, after: volume });
    }
  };

  #tellMachine(machine: string): void {
    this.#tell(this.protectedVms.listBy("machine", machine));
  }

  #tell(protectedVms: readonly StoredVm[]): void {
    for (const { metadata } of protectedVms) {
      this.#options.onChange(keyOf(metadata));
    }
  }

  /** Those that wait for a node that they do not have yet look again by themselves. */
  #tellNode(node: string): void {
    this.splitSitePairs.keys().forEach((name) => {
      this.#options.onSitesChange(name);
    });
    for (const pair of this.pairs.listBy("node", node)) {
      this.#ownedChanged({ key: "", before: undefined, after: pair });
    }
  }
}

const ownerOf = (object: ClusterObject | undefined): string | undefined =>
  object?.metadata.annotations?.[vmiAnnotations.protectedVm];

function listMachines(object: StoredVm | undefined): readonly string[] {
  const name = object?.spec.virtualMachineRef?.name;
  return name === undefined ? [] : [inNamespace({ namespace: object?.metadata.namespace, name })];
}

const listNamespaces = ({ metadata }: StoredVm): readonly string[] => [metadata.namespace ?? ""];

/** The namespaces in which it keeps others away from its nodes. */
const listApart = (object: StoredVm): readonly string[] =>
  object.spec.placement.apartFrom === undefined ? [] : listNamespaces(object);

function listGroups(object: StoredVm | undefined): readonly string[] {
  const group = object?.spec.failover.group;
  return group === undefined ? [] : [inNamespace({ namespace: object?.metadata.namespace, name: group })];
}

/** Its sides, or who runs it: what the others of its group have to know. */
function hasMoved({ before, after }: Change<GuestPair>): boolean {
  const places = [before, after].map((pair) => {
    const brief = pair && summarizePair(pair);
    return `${brief?.nodes.join(" ") ?? ""} ${brief?.primary ?? ""}`;
  });
  return places[0] !== places[1];
}

const VM_INDEXES = {
  ...{ machine: listMachines, sites: listSitesOf },
  ...{ namespace: listNamespaces, apart: listApart, group: listGroups },
};

function listSitesOf(object: StoredVm | undefined): readonly string[] {
  const name = object?.spec.placement.splitSitePairRef?.name;
  return name === undefined ? [] : [name];
}

function withoutVersion(object: unknown): unknown {
  const { metadata, ...others } = (object ?? {}) as { readonly metadata?: object };
  return object === undefined ? undefined : { ...others, metadata: { ...metadata, resourceVersion: undefined } };
}

/** What kubectl applied last, the whole object once more. */
const LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration";

function keepWhole<T extends KubeObject>(object: T): T {
  const annotations = Object.entries(object.metadata.annotations ?? {}).filter(([name]) => name !== LAST_APPLIED);
  return {
    ...object,
    metadata: { ...object.metadata, managedFields: undefined, annotations: Object.fromEntries(annotations) },
  };
}

/** Of a machine's status nothing is read, and KubeVirt writes it often. */
function keepMachine(object: Any): VirtualMachine {
  return { ...keepWhole(object), status: undefined };
}

const keepMetadata = ({ metadata }: KubeObject): KubeObject["metadata"] => {
  const { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp, labels, annotations } = metadata;
  return { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp, labels, annotations };
};

/** Of annotations only ours: others are long, and often written. */
function keepMarks(object: KubeObject): KubeObject["metadata"] {
  const metadata = keepMetadata(object);
  const ours = Object.entries(metadata.annotations ?? {}).filter(([name]) => name.startsWith("twinrun.dev/"));
  const guest = metadata.labels?.[GUEST_LABEL];
  return {
    ...metadata,
    annotations: Object.fromEntries(ours),
    labels: guest === undefined ? {} : { [GUEST_LABEL]: guest },
  };
}

function keepVmi(object: Any): Vmi {
  const { phase, nodeName, evacuationNodeName, conditions } = (object as Vmi).status ?? {};
  const told = (conditions ?? []).filter(({ type }) => ["Synchronized", "Paused", "Ready"].includes(type));
  const kept = told.map(({ type, status, message }) => ({ type, status, message }));
  const metadata = keepMarks(object);
  const outdated = object.metadata.labels?.[OUTDATED_LABEL];
  const labels = { ...metadata.labels, ...(outdated === undefined ? {} : { [OUTDATED_LABEL]: outdated }) };
  return {
    ...{ apiVersion: object.apiVersion, kind: object.kind, metadata: { ...metadata, labels } },
    status: { phase, nodeName, evacuationNodeName, conditions: kept },
  };
}

function keepVolume(object: Any): Claim & DataVolume {
  const { volumeMode, storageClassName, resources, volumeName } = object.spec ?? {};
  const { phase, capacity } = (object as Claim).status ?? {};
  const metadata = keepMarks(object);
  const node = object.metadata.annotations?.[SELECTED_NODE_ANNOTATION];
  const chosen = node === undefined ? {} : { [SELECTED_NODE_ANNOTATION]: node };
  return {
    ...{ apiVersion: object.apiVersion, kind: object.kind },
    metadata: { ...metadata, annotations: { ...metadata.annotations, ...chosen } },
    ...(object.kind === "DataVolume" ? {} : { spec: { volumeMode, storageClassName, resources, volumeName } }),
    status: { phase, capacity },
  };
}

function keepAffinity({ apiVersion, kind, metadata: { name, resourceVersion }, spec }: Any): Volume {
  return { apiVersion, kind, metadata: { name, resourceVersion }, spec: { nodeAffinity: spec?.["nodeAffinity"] } };
}

/** Heartbeats are left out: they are no news. */
function keepNode(object: Any): ClusterNode {
  const { conditions, addresses, allocatable } = (object as ClusterNode).status ?? {};
  const ready = (conditions ?? []).filter(({ type }) => type === "Ready");
  const { annotations = {}, ...metadata } = keepMetadata(object);
  const ours = Object.entries(annotations).filter(([name]) => name.startsWith("twinrun.dev/"));
  return {
    ...{ apiVersion: object.apiVersion, kind: object.kind },
    metadata: { ...metadata, annotations: Object.fromEntries(ours) },
    spec: { unschedulable: object.spec?.["unschedulable"] },
    status: {
      conditions: ready.map(({ type, status, lastTransitionTime }) => ({ type, status, lastTransitionTime })),
      addresses,
      allocatable: { memory: allocatable?.["memory"] ?? "" },
    },
  };
}

function keepPod(object: Any): Pod {
  const ready = ((object as Pod).status?.conditions ?? []).filter(({ type }) => type === "Ready");
  return {
    ...{ apiVersion: object.apiVersion, kind: object.kind, metadata: keepMarks(object) },
    spec: { nodeName: object.spec?.["nodeName"] },
    status: {
      conditions: ready.map(({ type, status, lastTransitionTime }) => ({ type, status, lastTransitionTime })),
      containerStatuses: (object as Pod).status?.containerStatuses?.map(({ state }) => ({
        state: { running: state?.running },
      })),
    },
  };
}
