/** The reconciler's cluster, over the API server: what is seen comes from copies, what is done goes to the server. */
import { type GuestPair, parseGuestPair } from "../api/guest-pair.ts";
import { parseProtectedVm, type ProtectedVm, type ProtectedVmStatus } from "../api/protected-vm.ts";
import { parseSplitSitePair, type SplitSitePair } from "../api/split-site-pair.ts";
import { GUEST_LABEL } from "../api/vmi-contract.ts";
import { type ObjectName, type Vmi } from "../decide/cluster-objects.ts";
import { listIsolatedNodes } from "../decide/component-faults.ts";
import { isFree, listUsedPorts } from "../decide/engine-ports.ts";
import { guestNameOf, recordLeaseName } from "../decide/guest-names.ts";
import {
  type Action,
  type DeletableKind,
  type DesiredPair,
  type Observed,
  type OperatorSettings,
  type PlannedEvent,
} from "../decide/protected-vm-plan.ts";
import { listLinkUses } from "../decide/link-room.ts";
import { findPlaceTaken } from "../decide/misplacement.ts";
import { type Neighbour } from "../decide/neighbours.ts";
import { summarizePair } from "../decide/pair-brief.ts";
import { FINALIZER } from "../decide/protected-vm.ts";
import { type Cluster } from "../kube/cluster.ts";
import { type EventRecorder } from "../kube/event-recorder.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { keyOf, type KubeObject, type ResourceKind } from "../kube/kube-object.ts";
import { Failure } from "../lib/failure.ts";
import { type Json } from "../lib/json-merge.ts";
import { QuorumFailure } from "../net/quorum-link.ts";
import { kinds, type ObjectCaches } from "./object-caches.ts";
import { type Memory, Outdated, type ProtectedVmCluster } from "./protected-vm-reconciler.ts";
import { type QuorumRecords } from "./quorum-records.ts";

export const FIELD_MANAGER = "twinrun-operator";

/** Something that has to be copied is not there. */
export class SourceMissing extends Failure<{ readonly code: "SourceMissing" }> {}

export type KubeClusterOptions = {
  readonly cluster: Cluster;
  readonly caches: ObjectCaches;
  readonly events: Pick<EventRecorder, "record">;
  readonly settings: OperatorSettings;
  readonly quorumRecords: Pick<QuorumRecords, "remove" | "isInLeases">;
  /** Whether nobody else leads at this moment. */
  readonly isLeader: () => boolean;
};

const OWN_TAGS = ["applyFinalizer", "removeFinalizer", "applyPair", "clearRequest", "forgetReports"] as const;
type OwnAction = Extract<Action, { tag: (typeof OWN_TAGS)[number] }>;
const isOwn = (action: Action): action is OwnAction => OWN_TAGS.some((tag) => tag === action.tag);

type Applied = { readonly pair: GuestPair; readonly atMs: number };

/** By then the copy has it, or somebody deleted it. */
const APPLIED_FOR_MS = 30_000;

const CHANGEABLE: Readonly<Record<DeletableKind | "VirtualMachine", ResourceKind>> = {
  VirtualMachine: kinds.machine,
  VirtualMachineInstance: kinds.vmi,
  PersistentVolumeClaim: kinds.claim,
  DataVolume: kinds.dataVolume,
  GuestPair: kinds.pair,
};

export class KubeProtectedVmCluster implements ProtectedVmCluster {
  readonly #options: KubeClusterOptions;
  /** Pairs as the server has them since we applied them: the copy may be a moment behind. */
  readonly #applied = new Map<string, Applied>();

  constructor(options: KubeClusterOptions) {
    this.#options = options;
  }

  observe(key: string, memory: Memory, nowMs: number): Observed | undefined {
    const { caches, settings } = this.#options;
    const stored = caches.protectedVms.get(key);
    if (stored === undefined) {
      return undefined;
    }
    const protectedVm = parseProtectedVm(stored, key);
    const { name, uid = "" } = protectedVm.metadata;
    const guest = guestNameOf(name, uid);
    const machineKey = this.#machineKeyOf(protectedVm);
    const own = machineKey === undefined ? undefined : caches.vmis.get(machineKey);
    const find = ({ namespace, name: of }: ObjectName): string => keyOf({ namespace, name: of });
    const listNeighbours = (): readonly Neighbour[] => this.#listNeighbours(protectedVm);
    const others = (): readonly GuestPair[] => this.#listPairs().filter((pair) => pair.metadata.name !== guest);
    return {
      protectedVm,
      previous: memory.previous ?? protectedVm.status,
      settings,
      virtualMachine: machineKey === undefined ? undefined : caches.machines.get(machineKey),
      rivals: this.#listRivals(protectedVm, machineKey),
      splitSitePair: this.#findSites(protectedVm),
      nodes: caches.nodes.list(),
      agents: caches.agents.list(),
      pair: this.#findPair(guest, nowMs),
      vmis: withOwn(caches.vmis.listBy("guest", guest), own),
      findVmi: (each) => caches.vmis.get(find(each)),
      claims: caches.claims.listBy("guest", guest),
      dataVolumes: caches.dataVolumes.listBy("guest", guest),
      findClaim: (each) => caches.claims.get(find(each)),
      findVolume: (each) => caches.volumes.get(each),
      findDataVolume: (each) => caches.dataVolumes.get(find(each)),
      hasDataVolumes: caches.hasDataVolumes,
      // Few guests need these: those that are placed, and those for which there is planned work.
      get usedPorts() {
        return listUsedPorts(others());
      },
      get load() {
        return countSides(others());
      },
      get isolatedNodes() {
        const statuses = caches.protectedVms.list().filter(({ metadata }) => metadata.uid !== uid);
        return listIsolatedNodes(statuses.flatMap(({ status }) => status?.faults ?? []));
      },
      get others() {
        return others().map(summarizePair);
      },
      get linkUses() {
        return listLinkUses(others());
      },
      get neighbours() {
        return listNeighbours();
      },
      refusal: memory.refusal,
      nowMs,
    };
  }

  #findSites({ spec }: ProtectedVm): SplitSitePair | undefined {
    const name = spec.placement.splitSitePairRef?.name;
    const stored = name === undefined ? undefined : this.#options.caches.splitSitePairs.get(name);
    return stored === undefined ? undefined : parseSplitSitePair(stored, `SplitSitePair ${stored.metadata.name}`);
  }

  #machineKeyOf({ metadata, spec }: ProtectedVm): string | undefined {
    const name = spec.virtualMachineRef?.name;
    return name === undefined ? undefined : keyOf({ namespace: metadata.namespace, name });
  }

  #listRivals({ metadata }: ProtectedVm, machineKey: string | undefined): readonly ProtectedVm[] {
    const rivals = machineKey === undefined ? [] : this.#options.caches.protectedVms.listBy("machine", machineKey);
    return rivals
      .filter((rival) => rival.metadata.uid !== metadata.uid)
      .map((rival) => parseProtectedVm(rival, keyOf(rival.metadata)));
  }

  /** Those that can matter: for most guests only the few that keep others away. */
  #listNeighbours({ metadata: { namespace = "", uid: own }, spec }: ProtectedVm): readonly Neighbour[] {
    const { placement, failover, start } = spec;
    const mindsOthers = placement.apartFrom !== undefined || failover.group !== undefined || start.order > 0;
    const neighbours = this.#options.caches.protectedVms
      .listBy(mindsOthers ? "namespace" : "apart", namespace)
      .filter(({ metadata }) => metadata.uid !== own);
    const find = (guest: string): GuestPair | undefined => this.#findNewest(guest);
    return neighbours.map((protectedVm) => ({
      protectedVm,
      // Of most nothing more is asked than their spec.
      get pair() {
        return find(guestNameOf(protectedVm.metadata.name, protectedVm.metadata.uid ?? ""));
      },
    }));
  }

  /** As it is here, unchecked. */
  #findNewest(guest: string): GuestPair | undefined {
    const { caches, settings } = this.#options;
    const cached = caches.pairs.get(keyOf({ namespace: settings.namespace, name: guest }));
    const applied = this.#applied.get(guest)?.pair;
    const isOlder = applied !== undefined && (cached === undefined || versionOf(cached) < versionOf(applied));
    return isOlder ? applied : cached;
  }

  #listPairs(): readonly GuestPair[] {
    const cached = this.#options.caches.pairs.list();
    const known = new Set(cached.map(({ metadata }) => metadata.name));
    const applied = [...this.#applied.values()].map(({ pair }) => pair);
    return [...cached, ...applied.filter(({ metadata }) => !known.has(metadata.name))];
  }

  /** The newer of the copy and what we applied. */
  #findPair(guest: string, nowMs: number): GuestPair | undefined {
    const { caches, settings } = this.#options;
    const stored = caches.pairs.get(keyOf({ namespace: settings.namespace, name: guest }));
    const cached = stored === undefined ? undefined : parseGuestPair(stored, guest);
    const applied = this.#applied.get(guest);
    if (applied === undefined) {
      return cached;
    }
    const isOld = nowMs - applied.atMs >= APPLIED_FOR_MS;
    if (isOld || (cached !== undefined && versionOf(cached) >= versionOf(applied.pair))) {
      this.#applied.delete(guest);
      return cached;
    }
    return applied.pair;
  }

  async writeStatus({ apiVersion, kind, metadata }: ProtectedVm, status: ProtectedVmStatus): Promise<void> {
    this.#assertLeader();
    const { namespace, name } = metadata;
    await this.#options.cluster
      .applyStatus({ apiVersion, kind, metadata: { namespace, name }, status }, FIELD_MANAGER)
      .catch((error: unknown) => {
        if (!hasKubeCode(error, "NotFound")) {
          throw error; // Otherwise it is gone, and nobody will read it.
        }
      });
  }

  record(protectedVm: ProtectedVm, { type, reason, message }: PlannedEvent): void {
    this.#options.events.record({ regarding: protectedVm, type, reason, action: reason, note: message });
  }

  explainRefusal(error: unknown): string | undefined {
    if (error instanceof SourceMissing || error instanceof QuorumFailure) {
      return error.message;
    }
    return hasKubeCode(error, "Refused", "Forbidden", "NotFound") ? error.message : undefined;
  }

  async perform(action: Action, observed: Observed): Promise<void> {
    this.#assertLeader();
    return isOwn(action) ? this.#performOnOwn(action, observed) : this.#performOnOthers(action, observed);
  }

  async #performOnOthers(action: Exclude<Action, OwnAction>, observed: Observed): Promise<void> {
    switch (action.tag) {
      case "createObject":
        await ignore("AlreadyExists", this.#options.cluster.create(action.object, { fieldManager: FIELD_MANAGER }));
        return;
      case "copyReference":
        return this.#copy(action);
      case "patchObject":
        return this.#patch(action);
      case "deleteObject":
        return this.#delete(action, observed);
      case "thawInstance":
        return this.#thaw(action.name);
      case "deleteCopies":
        return this.#deleteCopies(action.guest);
      case "deleteRecord":
        return this.#deleteRecord(action);
    }
  }

  /** On the ProtectedVM itself and its pair. */
  async #performOnOwn(action: OwnAction, observed: Observed): Promise<void> {
    const { protectedVm, pair } = observed;
    switch (action.tag) {
      case "applyFinalizer":
        return this.#applyFinalizers(protectedVm, [FINALIZER]);
      case "removeFinalizer":
        return this.#applyFinalizers(protectedVm, []);
      case "applyPair":
        return this.#applyPair(action.pair, observed);
      case "clearRequest":
        return this.#clearRequest(protectedVm, { ...action.leaves, [action.annotation]: null });
      case "forgetReports":
        return this.#forgetReports(pair, action.nodes);
    }
  }

  async #clearRequest(
    { metadata: { namespace, name } }: ProtectedVm,
    annotations: Readonly<Record<string, string | null>>,
  ): Promise<void> {
    const patch = { metadata: { annotations } };
    await ignore("NotFound", this.#options.cluster.patch({ kind: kinds.protectedVm, namespace, name }, patch));
  }

  /** An instance that is going takes its guest along; the guest's other side is thawed when it goes on there. */
  async #thaw(name: ObjectName): Promise<void> {
    const kind = { ...kinds.vmi, apiVersion: "subresources.kubevirt.io/v1" };
    await ignore("NotFound", this.#options.cluster.putSubresource({ kind, ...name }, "unfreeze", {}));
  }

  async #deleteRecord({ guest, quorums }: Extract<Action, { tag: "deleteRecord" }>): Promise<void> {
    const { cluster, settings, quorumRecords } = this.#options;
    for (const replicas of quorums) {
      await quorumRecords.remove(guest, replicas);
    }
    if (quorums.length === 0) {
      const lease = { kind: kinds.lease, namespace: settings.namespace, name: recordLeaseName(guest) };
      await (quorumRecords.isInLeases ? cluster.remove(lease) : quorumRecords.remove(guest));
    }
  }

  #assertLeader(): void {
    if (!this.#options.isLeader()) {
      throw new Outdated({ code: "Outdated" }, "another operator may lead by now; nothing is written");
    }
  }

  /** Its uid keeps a ProtectedVM that is gone from being made anew. */
  async #applyFinalizers({ apiVersion, kind, metadata }: ProtectedVm, finalizers: readonly string[]): Promise<void> {
    const { namespace, name, uid } = metadata;
    const intent = {
      apiVersion,
      kind,
      metadata: { namespace, name, uid, ...(finalizers.length === 0 ? {} : { finalizers }) },
    };
    await ignore("NotFound", this.#options.cluster.apply<KubeObject>(intent, FIELD_MANAGER));
  }

  async #applyPair(pair: DesiredPair, observed: Observed): Promise<void> {
    const { nowMs } = observed;
    const { name } = pair.metadata;
    const { port, sides } = pair.spec;
    const used = listUsedPorts(this.#listPairs().filter(({ metadata }) => metadata.name !== name));
    const nodes = sides.map(({ node }) => node);
    if (!isFree(port, used, nodes)) {
      throw new Outdated({ code: "Outdated" }, `port ${port} was given to another guest in the same moment`);
    }
    const taken = findPlaceTaken(observed, nodes);
    if (taken !== undefined) {
      throw new Outdated({ code: "Outdated" }, taken);
    }
    const before = this.#applied.get(name);
    // Seen by others from now on, so that none of them takes the same port.
    this.#applied.set(name, before ?? { pair, atMs: nowMs });
    try {
      const stored = await this.#options.cluster.apply<KubeObject & GuestPair>(pair, FIELD_MANAGER);
      this.#applied.set(name, { pair: parseGuestPair(stored, name), atMs: nowMs });
    } catch (error) {
      this.#applied.delete(name);
      throw error;
    }
  }

  async #copy({ kind, source, target, metadata }: Extract<Action, { tag: "copyReference" }>): Promise<void> {
    const { cluster } = this.#options;
    const resource = kind === "Secret" ? kinds.secret : kinds.configMap;
    const found = await cluster.read<KubeObject & Json>({ kind: resource, ...source });
    if (found === undefined) {
      const says = `the guest's volumes name ${kind} ${source.name}, which is not in namespace ${source.namespace}; make it`;
      throw new SourceMissing({ code: "SourceMissing" }, says);
    }
    const { data, binaryData, type } = found;
    const held = await cluster.read<KubeObject>({ kind: resource, ...target });
    if (held !== undefined && held.metadata.labels?.[GUEST_LABEL] !== metadata.labels[GUEST_LABEL]) {
      const says = `${kind} ${target.namespace}/${target.name} is another guest's; give ${source.name} another name`;
      throw new SourceMissing({ code: "SourceMissing" }, says);
    }
    await cluster.apply<KubeObject>(
      { apiVersion: "v1", kind, metadata: { ...target, ...metadata }, ...defined({ data, binaryData, type }) },
      FIELD_MANAGER,
    );
  }

  async #patch({ kind, name, patch }: Extract<Action, { tag: "patchObject" }>): Promise<void> {
    const options = { fieldManager: FIELD_MANAGER };
    await ignore("NotFound", this.#options.cluster.patch({ kind: CHANGEABLE[kind], ...name }, patch, options));
  }

  /** An agent may have asked for something else since; what is deleted does not come back. */
  async #delete(action: Extract<Action, { tag: "deleteObject" }>, { pair }: Observed): Promise<void> {
    const { cluster } = this.#options;
    const { kind, name, uid, resourceVersion } = action;
    if (pair !== undefined && kind !== "GuestPair") {
      const { namespace, name: guest } = pair.metadata;
      const newest = await cluster.read<KubeObject>({ kind: kinds.pair, namespace, name: guest });
      if (newest?.metadata.resourceVersion !== pair.metadata.resourceVersion) {
        throw new Outdated({ code: "Outdated" }, "the guest's agents have reported something new");
      }
    }
    this.#applied.delete(kind === "GuestPair" ? name.name : "");
    await ignore("Conflict", cluster.remove({ kind: CHANGEABLE[kind], ...name }, { uid, resourceVersion }));
  }

  async #deleteCopies(guest: string): Promise<void> {
    const { cluster, settings } = this.#options;
    for (const kind of [kinds.secret, kinds.configMap]) {
      const { items } = await cluster.list(kind, {
        namespace: settings.guestsNamespace,
        labelSelector: `${GUEST_LABEL}=${guest}`,
      });
      for (const { metadata } of items) {
        await cluster.remove({ kind, namespace: settings.guestsNamespace, name: metadata.name });
      }
    }
  }

  async #forgetReports(pair: GuestPair | undefined, nodes: readonly string[]): Promise<void> {
    if (pair === undefined) {
      return;
    }
    const { cluster } = this.#options;
    const ref = { kind: kinds.pair, namespace: pair.metadata.namespace, name: pair.metadata.name };
    const newest = await cluster.read<KubeObject & GuestPair>(ref);
    const sides = newest?.status?.sides?.filter(({ node }) => !nodes.includes(node));
    const { resourceVersion } = newest?.metadata ?? {};
    await ignore(
      "NotFound",
      cluster.patch(ref, { metadata: { resourceVersion }, status: { sides } }, { subresource: "status" }),
    );
  }
}

const versionOf = ({ metadata }: GuestPair): number => Number(metadata.resourceVersion ?? 0);

const withOwn = (vmis: readonly Vmi[], own: Vmi | undefined): readonly Vmi[] =>
  own === undefined || vmis.includes(own) ? vmis : [...vmis, own];

function countSides(pairs: readonly GuestPair[]): ReadonlyMap<string, number> {
  const load = new Map<string, number>();
  for (const { node } of pairs.flatMap(({ spec }) => spec.sides)) {
    load.set(node, (load.get(node) ?? 0) + 1);
  }
  return load;
}

const defined = (fields: Json): Json =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

/** For what is as good as done then. */
async function ignore(code: "AlreadyExists" | "NotFound" | "Conflict", call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!hasKubeCode(error, code)) {
      throw error;
    }
  }
}
