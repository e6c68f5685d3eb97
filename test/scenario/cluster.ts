/**
 * A cluster in memory for stories about the operator: objects, and what KubeVirt, agents and engines make of them, second by
 * second. The operator's plan and reconciler are the real ones; what is simulated here is only what they see.
 *
 * An engine is as simple as can be: in sync three seconds after both sides are there, a takeover a second after the owner fell
 * silent. What engines really do is for the simulator of the protocol (test/sim).
 */
import { type GuestPair, parseGuestPair } from "../../src/api/guest-pair.ts";
import { parseProtectedVm, type ProtectedVm, type ProtectedVmStatus } from "../../src/api/protected-vm.ts";
import { REPLICATION_LINKS_ANNOTATION } from "../../src/api/requests.ts";
import { parseSplitSitePair, type SplitSitePair } from "../../src/api/split-site-pair.ts";
import { GUEST_LABEL, OUTDATED_LABEL } from "../../src/api/vmi-contract.ts";
import {
  type Claim,
  type ClusterObject,
  type DataVolume,
  type ObjectName,
  type VirtualMachine,
  type Vmi,
} from "../../src/decide/cluster-objects.ts";
import { listUsedPorts } from "../../src/decide/engine-ports.ts";
import { listIsolatedNodes } from "../../src/decide/component-faults.ts";
import { guestNameOf } from "../../src/decide/guest-names.ts";
import { type Action, type Observed, type PlannedEvent } from "../../src/decide/protected-vm-plan.ts";
import { listLinkUses } from "../../src/decide/link-room.ts";
import { summarizePair } from "../../src/decide/pair-brief.ts";
import { FINALIZER } from "../../src/decide/protected-vm.ts";
import { SELECTED_NODE_ANNOTATION } from "../../src/decide/volume-places.ts";
import { isJson, type Json, mergeJson, readObject, readObjects, readText } from "../../src/lib/json-merge.ts";
import { describe, type Memory, type ProtectedVmCluster } from "../../src/operator/protected-vm-reconciler.ts";

export class RefusedBySimulation extends Error {}

export const SYSTEM = "twinrun";
export const GUESTS = "twinrun-guests";
/** On a claim of local storage that is not bound yet: where KubeVirt would start a guest that has no wish. */
export const LOCAL_ANNOTATION = "simulated/local";
const START_MS = Date.parse("2026-11-27T12:00:00Z");

type Stored = { -readonly [Key in keyof ClusterObject]: ClusterObject[Key] } & { status?: Json };

export class SimulatedCluster implements ProtectedVmCluster {
  seconds = 0;
  readonly lines: string[] = [];
  readonly #objects = new Map<string, Stored>();
  readonly #poweredOff = new Set<string>();
  #counter = 0;
  /** Kinds whose creation is refused, with the server's words. */
  readonly refusals = new Map<string, string>();
  hasDataVolumes = true;
  /** Of engines. */
  ports = { low: 7_100, high: 8_099 };
  /** What the operator did last. */
  lastAct = "";

  get nowMs(): number {
    return START_MS + this.seconds * 1_000;
  }

  iso(): string {
    return new Date(this.nowMs).toISOString();
  }

  say(who: string, what: string): void {
    this.lines.push(`${String(this.seconds).padStart(5)}s  ${who.padEnd(9)} ${what}`);
  }

  // What people do.

  addNode(
    name: string,
    {
      labels = {},
      models = ["Haswell", "Skylake-Server"],
      links,
    }: { labels?: Record<string, string>; models?: string[]; links?: string | undefined } = {},
  ): void {
    const kubevirt = models.map((model) => [`cpu-model.node.kubevirt.io/${model}`, "true"]);
    this.put({
      apiVersion: "v1",
      kind: "Node",
      metadata: {
        name,
        labels: {
          "kubernetes.io/hostname": name,
          "kubevirt.io/schedulable": "true",
          "machine-type.node.kubevirt.io/pc-q35-rhel9.4.0": "true",
          "machine-type.node.kubevirt.io/pc-q35-rhel9.6.0": "true",
          ...(Object.fromEntries(kubevirt) as Record<string, string>),
          ...labels,
        },
        ...(links === undefined ? {} : { annotations: { [REPLICATION_LINKS_ANNOTATION]: links } }),
      },
      spec: {},
      status: {
        conditions: [{ type: "Ready", status: "True", lastTransitionTime: this.iso() }],
        addresses: [{ type: "InternalIP", address: `10.0.0.${this.listKind("Node").length + 1}` }],
        allocatable: { memory: "16Gi" },
      },
    });
    this.put({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: `agent-${name}`, namespace: SYSTEM },
      spec: { nodeName: name },
      status: { conditions: [{ type: "Ready", status: "True", lastTransitionTime: this.iso() }] },
    });
  }

  power(name: string, isOn: boolean): void {
    if (isOn) {
      this.#poweredOff.delete(name);
      this.#setReady("Node", "", name, "True");
      this.#setReady("Pod", SYSTEM, `agent-${name}`, "True");
      for (const vmi of this.listKind("VirtualMachineInstance").filter(
        (each) => readText(each.status, "nodeName") === name,
      )) {
        this.#setStatus(vmi, { phase: "Failed" });
      }
    } else {
      this.#poweredOff.add(name);
    }
    this.say("person", `powers ${name} ${isOn ? "on" : "off"}`);
  }

  /** Its controllers put the label on as soon as they are of another version than an instance's pod. */
  outdateInstances(): void {
    for (const vmi of this.listKind("VirtualMachineInstance")) {
      vmi.metadata = { ...vmi.metadata, labels: { ...vmi.metadata.labels, [OUTDATED_LABEL]: "" } };
    }
    this.say("kubevirt", "has a new launcher");
  }

  isOff = (name: string): boolean => this.#poweredOff.has(name);

  /** The control plane notices a dead node only after a while. */
  markAway(name: string): void {
    if (this.#setReady("Node", "", name, "Unknown")) {
      this.#setReady("Pod", SYSTEM, `agent-${name}`, "False");
      this.say("cluster", `${name} is not Ready`);
    }
  }

  #setReady(kind: string, namespace: string, name: string, status: string): boolean {
    const object = this.get(kind, { namespace, name });
    const [ready] = readObjects(object?.status, "conditions");
    if (object === undefined || ready?.["status"] === status) {
      return false;
    }
    this.#setStatus(object, { conditions: [{ type: "Ready", status, lastTransitionTime: this.iso() }] });
    return true;
  }

  #setStatus(object: Stored, patch: Json): void {
    object.status = mergeJson(object.status ?? {}, patch);
  }

  setStatus(kind: string, name: ObjectName, patch: Json): void {
    const object = this.get(kind, name);
    if (object !== undefined) {
      this.#setStatus(object, patch);
    }
  }

  // The store.

  #keyOf = (kind: string, { namespace, name }: { namespace?: string | undefined; name: string }): string =>
    `${kind} ${namespace ?? ""}/${name}`;

  get(kind: string, name: { namespace?: string | undefined; name: string }): Stored | undefined {
    return this.#objects.get(this.#keyOf(kind, name));
  }

  listKind(kind: string): readonly Stored[] {
    return [...this.#objects.values()].filter((object) => object.kind === kind);
  }

  put(object: Stored): Stored {
    const before = this.get(object.kind, object.metadata);
    this.#counter += before === undefined ? 1 : 0;
    const hasSameSpec = JSON.stringify(before?.spec) === JSON.stringify(object.spec);
    const stored: Stored = {
      ...object,
      metadata: {
        creationTimestamp: this.iso(),
        uid: `00000000-0000-4000-8000-${String(this.#counter).padStart(12, "0")}`,
        generation: 1,
        ...before?.metadata,
        ...object.metadata,
        ...(before === undefined || hasSameSpec ? {} : { generation: (before.metadata.generation ?? 1) + 1 }),
      },
      ...(before?.status === undefined || object.status !== undefined ? {} : { status: before.status }),
    };
    this.#objects.set(this.#keyOf(object.kind, object.metadata), stored);
    return stored;
  }

  remove(kind: string, name: { namespace?: string | undefined; name: string }): void {
    const object = this.get(kind, name);
    if (object === undefined) {
      return;
    }
    const waits = kind === "VirtualMachineInstance" || (object.metadata.finalizers ?? []).length > 0;
    if (waits) {
      object.metadata = { ...object.metadata, deletionTimestamp: object.metadata.deletionTimestamp ?? this.iso() };
      return;
    }
    this.erase(kind, name);
  }

  erase(kind: string, name: { namespace?: string | undefined; name: string }): void {
    this.#objects.delete(this.#keyOf(kind, name));
    const owned = kind === "DataVolume" ? this.get("PersistentVolumeClaim", name) : undefined;
    if (owned !== undefined) {
      this.erase("PersistentVolumeClaim", owned.metadata);
    }
  }

  names(): readonly string[] {
    return [...this.#objects.keys()].filter((key) => !/^(Node|Pod) /.test(key)).sort();
  }

  // What the operator sees and does.

  observe(key: string, memory: Memory, nowMs: number): Observed | undefined {
    const [namespace = "", name = ""] = key.split("/");
    const object = this.get("ProtectedVM", { namespace, name });
    if (object === undefined) {
      return undefined;
    }
    const protectedVm = parseProtectedVm(object, key);
    const guest = guestNameOf(name, protectedVm.metadata.uid ?? "");
    const vmName = { namespace, name: protectedVm.spec.virtualMachineRef?.name ?? "" };
    const isOfGuest = ({ metadata }: ClusterObject): boolean => metadata.labels?.[GUEST_LABEL] === guest;
    const vmis = this.listKind("VirtualMachineInstance") as readonly Vmi[];
    const pairs = this.listPairs();
    return {
      protectedVm,
      previous: memory.previous ?? protectedVm.status,
      settings: {
        namespace: SYSTEM,
        guestsNamespace: GUESTS,
        hookImage: "twinrun/hook:test",
        hookMode: "Sidecar",
        ports: this.ports,
        renewsLaunchers: true,
      },
      virtualMachine: this.get("VirtualMachine", vmName) as VirtualMachine | undefined,
      rivals: this.#listRivals(protectedVm),
      splitSitePair: this.#findSites(protectedVm),
      nodes: this.listKind("Node"),
      agents: this.listKind("Pod"),
      pair: pairs.find(({ metadata }) => metadata.name === guest),
      vmis: vmis.filter(
        (vmi) => isOfGuest(vmi) || (vmi.metadata.name === vmName.name && vmi.metadata.namespace === namespace),
      ),
      findVmi: (each) => this.get("VirtualMachineInstance", each),
      claims: (this.listKind("PersistentVolumeClaim") as readonly Claim[]).filter(isOfGuest),
      dataVolumes: (this.listKind("DataVolume") as readonly DataVolume[]).filter(isOfGuest),
      findClaim: (each) => this.get("PersistentVolumeClaim", each),
      findVolume: (each) => this.get("PersistentVolume", { name: each }),
      findDataVolume: (each) => this.get("DataVolume", each),
      hasDataVolumes: this.hasDataVolumes,
      usedPorts: listUsedPorts(pairs.filter(({ metadata }) => metadata.name !== guest)),
      load: this.#countSides(pairs),
      isolatedNodes: listIsolatedNodes(
        this.listKind("ProtectedVM")
          .filter(({ metadata }) => metadata.uid !== protectedVm.metadata.uid)
          .flatMap((each) => (each.status as ProtectedVmStatus | undefined)?.faults ?? []),
      ),
      others: pairs.filter(({ metadata }) => metadata.name !== guest).map(summarizePair),
      linkUses: listLinkUses(pairs.filter(({ metadata }) => metadata.name !== guest)),
      neighbours: this.#listNeighbours(protectedVm),
      refusal: memory.refusal,
      nowMs,
    };
  }

  listPairs(): readonly GuestPair[] {
    return this.listKind("GuestPair").map((pair) => parseGuestPair(pair, pair.metadata.name));
  }

  #findSites({ spec }: ProtectedVm): SplitSitePair | undefined {
    const name = spec.placement.splitSitePairRef?.name;
    const object = this.listKind("SplitSitePair").find(({ metadata }) => metadata.name === name);
    return object === undefined ? undefined : parseSplitSitePair(object, object.metadata.name);
  }

  #listRivals(of: ProtectedVm): readonly ProtectedVm[] {
    const ref = of.spec.virtualMachineRef?.name;
    return this.listKind("ProtectedVM")
      .map((each) => parseProtectedVm(each, each.metadata.name))
      .filter(
        ({ metadata, spec }) =>
          metadata.uid !== of.metadata.uid && ref !== undefined && spec.virtualMachineRef?.name === ref,
      );
  }

  #listNeighbours({ metadata: { uid } }: ProtectedVm): Observed["neighbours"] {
    return this.listKind("ProtectedVM")
      .filter(({ metadata }) => metadata.uid !== uid)
      .map((protectedVm) => {
        const name = guestNameOf(protectedVm.metadata.name, protectedVm.metadata.uid ?? "");
        return { protectedVm, pair: this.get("GuestPair", { namespace: SYSTEM, name }) };
      });
  }

  #countSides(pairs: readonly GuestPair[]): ReadonlyMap<string, number> {
    const load = new Map<string, number>();
    for (const { node } of pairs.flatMap(({ spec }) => spec.sides)) {
      load.set(node, (load.get(node) ?? 0) + 1);
    }
    return load;
  }

  async writeStatus(protectedVm: ProtectedVm, status: ProtectedVmStatus): Promise<void> {
    const object = this.get("ProtectedVM", protectedVm.metadata);
    if (object === undefined) {
      return;
    }
    const before = object.status;
    object.status = status;
    this.#sayStatus(before, status);
  }

  #sayStatus(before: Json | undefined, status: ProtectedVmStatus): void {
    for (const [type, bad] of [["Ready"], ["Stalled", "True"], ["PlacementMet", "False"]] as const) {
      const now = status.conditions?.find((condition) => condition.type === type);
      const old = readObjects(before, "conditions").find((condition) => condition["type"] === type);
      const isNews = type === "Ready" || now?.status === bad || old?.["status"] === bad;
      if (now !== undefined && isNews && (old?.["reason"] !== now.reason || old["message"] !== now.message)) {
        this.say("status", `${type} ${now.status} ${now.reason}: ${now.message}`);
      }
    }
  }

  record(_: ProtectedVm, { type, reason, message }: PlannedEvent): void {
    this.say("event", `${type} ${reason}: ${message}`);
  }

  explainRefusal(error: unknown): string | undefined {
    return error instanceof RefusedBySimulation ? error.message : undefined;
  }

  async perform(action: Action, { protectedVm }: Observed): Promise<void> {
    const told = describe(action);
    this.lastAct = [told.action, told.object ?? "", this.#detail(action)].join(" ").trim();
    this.say("operator", this.lastAct);
    const own = this.get("ProtectedVM", protectedVm.metadata);
    switch (action.tag) {
      case "applyFinalizer":
        this.#setFinalizers(own, [FINALIZER]);
        return;
      case "removeFinalizer":
        this.erase("ProtectedVM", protectedVm.metadata);
        this.say("cluster", `ProtectedVM ${protectedVm.metadata.name} is gone`);
        return;
      case "applyPair":
        this.put(action.pair);
        return;
      case "createObject":
        this.#create(action.object);
        return;
      case "copyReference":
        this.put({ apiVersion: "v1", kind: action.kind, metadata: { ...action.target, ...action.metadata } });
        return;
      case "patchObject":
        this.#patch(action.kind, action.name, action.patch);
        return;
      case "deleteObject":
        this.remove(action.kind, action.name);
        return;
      case "deleteCopies":
        this.#deleteCopies(action.guest);
        return;
      case "clearRequest":
        this.annotate(protectedVm.metadata.name, action.annotation, undefined);
        return;
      case "forgetReports":
        this.#forgetReports(protectedVm, action.nodes);
        return;
      default:
        return;
    }
  }

  #detail(action: Action): string {
    if (action.tag === "applyPair") {
      const { roles, sides, intent } = action.pair.spec;
      const places = sides.map(({ node, vmi }) => `${node}=${vmi.namespace}/${vmi.name}`).join(" ");
      const names = sides[0]?.links.map(({ name }) => name).join(",");
      const links = names === "node" ? "" : ` links ${names ?? ""}`;
      const declared = sides.flatMap(({ node, linkMiBPerSecond: mib }) =>
        mib === undefined ? [] : [`${node}:${mib}`],
      );
      const carries = declared.length === 0 ? "" : ` carries ${declared.join(",")}`;
      return `${places} roles ${roles.term}:${roles.primary}${intent === "Release" ? " Release" : ""}${links}${carries}`;
    }
    if (action.tag === "createObject") {
      const shape = action.object.metadata.annotations?.["twinrun.dev/started-as"];
      return shape === undefined ? "" : `as ${shape}`;
    }
    const runStrategy = action.tag === "patchObject" ? readText(action.patch, "spec", "runStrategy") : undefined;
    return runStrategy === undefined ? "" : `to runStrategy ${runStrategy}`;
  }

  #create(object: ClusterObject): void {
    const refusal = this.refusals.get(object.kind);
    if (refusal !== undefined) {
      throw new RefusedBySimulation(refusal);
    }
    if (this.get(object.kind, object.metadata) === undefined) {
      this.put({ ...object });
    }
  }

  #setFinalizers(object: Stored | undefined, finalizers: readonly string[]): void {
    if (object !== undefined) {
      object.metadata = { ...object.metadata, finalizers };
    }
  }

  #patch(kind: string, name: ObjectName, patch: Json): void {
    const object = this.get(kind, name);
    if (object !== undefined) {
      const { metadata, ...others } = mergeJson(object, patch);
      this.put({ ...(others as unknown as Stored), metadata: metadata as Stored["metadata"] });
      const stored = this.get(kind, name);
      if (stored !== undefined) {
        stored.metadata = metadata as Stored["metadata"];
      }
    }
  }

  annotate(name: string, annotation: string, value: string | undefined): void {
    const object = this.listKind("ProtectedVM").find(({ metadata }) => metadata.name === name);
    if (object !== undefined) {
      const others = Object.entries(object.metadata.annotations ?? {}).filter(([each]) => each !== annotation);
      const given = value === undefined ? [] : [[annotation, value] as const];
      object.metadata = { ...object.metadata, annotations: Object.fromEntries([...others, ...given]) };
    }
  }

  #deleteCopies(guest: string): void {
    for (const object of [...this.listKind("Secret"), ...this.listKind("ConfigMap")]) {
      if (object.metadata.labels?.[GUEST_LABEL] === guest) {
        this.erase(object.kind, object.metadata);
      }
    }
  }

  #forgetReports({ metadata }: ProtectedVm, nodes: readonly string[]): void {
    const pair = this.get("GuestPair", { namespace: SYSTEM, name: guestNameOf(metadata.name, metadata.uid ?? "") });
    if (pair !== undefined) {
      const sides = readObjects(pair.status, "sides").filter((side) => !nodes.includes(readText(side, "node") ?? ""));
      pair.status = { sides };
    }
  }

  // What KubeVirt and CDI do, once a second.

  runKubeVirt(): void {
    this.listKind("DataVolume").forEach((volume) => {
      this.#fillVolume(volume);
    });
    this.listKind("PersistentVolumeClaim").forEach((claim) => {
      this.#bind(claim);
    });
    this.listKind("VirtualMachine").forEach((machine) => {
      this.#startMachine(machine);
    });
    this.listKind("VirtualMachineInstance").forEach((vmi) => {
      this.#runInstance(vmi);
    });
  }

  #fillVolume(volume: Stored): void {
    if (readText(volume.status, "phase") === undefined) {
      const spec = readObject(volume.spec, "storage");
      this.put({ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { ...nameOf(volume) }, spec });
      volume.status = { phase: "Succeeded" };
    }
  }

  /** One that waits for its first pod is bound with it; see `vm` in story.ts. */
  #bind(claim: Stored): void {
    const waits = claim.metadata.annotations?.[LOCAL_ANNOTATION] !== undefined;
    if (readText(claim.status, "phase") === undefined && !waits) {
      const storage = readText(claim.spec, "resources", "requests", "storage") ?? "1Gi";
      claim.status = { phase: "Bound", capacity: { storage } };
    }
  }

  #startMachine(machine: Stored): void {
    const strategy = readText(machine.spec, "runStrategy");
    if (
      ["Once", "Always"].includes(strategy ?? "") &&
      this.get("VirtualMachineInstance", machine.metadata) === undefined
    ) {
      const { metadata, spec } = readObject(machine.spec, "template");
      this.put({
        apiVersion: "kubevirt.io/v1",
        kind: "VirtualMachineInstance",
        metadata: { ...(isJson(metadata) ? metadata : {}), ...nameOf(machine) },
        spec: isJson(spec) ? spec : {},
      });
      this.say("kubevirt", `starts VirtualMachine ${machine.metadata.name}`);
    }
  }

  /** On local storage: from now on a pod with the claim can be there only. */
  bindTo(claim: Stored, node: string): void {
    const volumeName = `local-${claim.metadata.name}`;
    const annotations = { ...claim.metadata.annotations, [SELECTED_NODE_ANNOTATION]: node };
    claim.metadata = { ...claim.metadata, annotations };
    claim.spec = { ...claim.spec, volumeName };
    claim.status = { phase: "Bound", capacity: { storage: "10Gi" } };
    const matchExpressions = [{ key: "kubernetes.io/hostname", operator: "In", values: [node] }];
    this.put({
      apiVersion: "v1",
      kind: "PersistentVolume",
      metadata: { name: volumeName },
      spec: { nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions }] } } },
    });
    this.say("cluster", `volume ${claim.metadata.name} is on ${node}`);
  }

  /** Undefined while no node has what it needs. */
  #schedule(vmi: Stored): string | undefined {
    const asked = readText(vmi.spec, "nodeSelector", "kubernetes.io/hostname");
    const namespace = vmi.metadata.namespace ?? "";
    const locals = readObjects(vmi.spec, "volumes").flatMap((volume) => {
      const name = readText(volume, "persistentVolumeClaim", "claimName") ?? "";
      const claim = this.get("PersistentVolumeClaim", { namespace, name });
      const chosen = claim?.metadata.annotations?.[LOCAL_ANNOTATION];
      return claim === undefined || chosen === undefined ? [] : [{ claim, chosen }];
    });
    const bound = locals.map(({ claim }) => claim.metadata.annotations?.[SELECTED_NODE_ANNOTATION]);
    const node = asked ?? bound.find((each) => each !== undefined) ?? locals[0]?.chosen ?? "node-a";
    if (bound.some((each) => each !== undefined && each !== node)) {
      return undefined;
    }
    for (const { claim } of locals.filter((_, index) => bound[index] === undefined)) {
      this.bindTo(claim, node);
    }
    return node;
  }

  #runInstance(vmi: Stored): void {
    const phase = readText(vmi.status, "phase");
    const isWaiting = phase === "Scheduling" && vmi.metadata.deletionTimestamp === undefined;
    const node = isWaiting ? this.#schedule(vmi) : (readText(vmi.status, "nodeName") ?? "");
    if (node === undefined || this.isOff(node)) {
      return;
    }
    const name = `${vmi.metadata.namespace ?? ""}/${vmi.metadata.name}`;
    if (vmi.metadata.deletionTimestamp !== undefined) {
      this.erase("VirtualMachineInstance", vmi.metadata);
      this.say("kubevirt", `${name} is gone`);
    } else if (phase === undefined) {
      this.#setStatus(vmi, { phase: "Scheduling" });
    } else if (phase === "Scheduling") {
      this.#setStatus(vmi, { phase: "Running", nodeName: node, qemu: "fresh" });
      this.say("kubevirt", `${name} runs on ${node}`);
    } else if (phase === "Running" && readText(vmi.status, "qemu") === "dead") {
      this.#setStatus(vmi, { phase: "Failed" });
      this.say("kubevirt", `${name} failed`);
    }
  }
}

export const nameOf = ({ metadata }: ClusterObject): ObjectName => ({
  namespace: metadata.namespace ?? "",
  name: metadata.name,
});
