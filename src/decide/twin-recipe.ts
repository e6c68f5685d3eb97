/**
 * The two VirtualMachineInstances of a guest: the same machine twice, each tied to its node.
 *
 * The same are firmware uuid and serial, MAC addresses, machine type, processor model, PCI layout and host name. Memory and
 * sockets cannot be added while it runs, and no free page is given back behind our back. Both start paused: KubeVirt never
 * resumes such a guest by itself, the engine does. Applying the recipe to its own result changes nothing, for a VirtualMachine
 * that was adopted is read again with all of it.
 */
import { GUEST_LABEL, vmiAnnotations, type VmiShape } from "../api/vmi-contract.ts";
import { isJson, type Json, mergeJson, readObject, readObjects, readText } from "../lib/json-merge.ts";
import { type ObjectMeta, type OwnerReference } from "../api/object-meta.ts";
import { type ObjectName, type Vmi } from "./cluster-objects.ts";
import { type Machine } from "./common-machine.ts";
import { HOOK_ANNOTATION, listHookSidecars } from "./hook-sidecars.ts";
import { macOf, sideName, uuidOf } from "./guest-names.ts";
import { isMemoryPluggable, readMemory, readSockets } from "./guest-size.ts";
import { type GuestSource } from "./guest-source.ts";
import { type HookMode, type Marks } from "./protected-vm-plan.ts";
import { renameReferences } from "./references.ts";

export type TwinRecipe = {
  readonly source: GuestSource;
  readonly identity: GuestIdentity;
  readonly machine: Machine;
  readonly hook: { readonly image: string; readonly mode: HookMode };
};

/** What is said of a guest in every object that is made for it. */
export type GuestIdentity = {
  readonly guest: string;
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
};

export type TwinSide = {
  readonly vmi: ObjectName;
  /** Tells this side's objects from the other's (guest-names.ts). */
  readonly mark: string;
  /** What the node's label kubernetes.io/hostname says. */
  readonly hostname: string;
  readonly shape: VmiShape;
  /** The sources of volumes that are not as in the template, by volume. */
  readonly volumes: ReadonlyMap<string, Json>;
};

const NETWORK_BINDING = "twinrun";

export function encodeVmi(recipe: TwinRecipe, side: TwinSide): Vmi {
  const { labels, annotations, spec } = encodeInstance(recipe, side);
  return {
    apiVersion: "kubevirt.io/v1",
    kind: "VirtualMachineInstance",
    metadata: {
      ...side.vmi,
      labels,
      annotations,
      ...ownedIn(recipe.identity, side.vmi.namespace),
    },
    spec,
  };
}

/** The operator finds its objects again by these. */
export function encodeMarks({ guest, namespace, name }: GuestIdentity): Marks {
  return {
    labels: { [GUEST_LABEL]: guest },
    annotations: { [vmiAnnotations.protectedVm]: `${namespace}/${name}` },
  };
}

/** An owner in another namespace would be taken for one that is gone, and the object for garbage. */
export function ownedIn(
  { namespace, name, uid }: GuestIdentity,
  place: string,
): { readonly ownerReferences?: readonly OwnerReference[] } & Partial<ObjectMeta> {
  return place === namespace
    ? { ownerReferences: [{ apiVersion: "twinrun.dev/v1alpha1", kind: "ProtectedVM", name, uid }] }
    : {};
}

export type EncodedInstance = Pick<GuestSource, "labels" | "annotations" | "spec">;

/** What goes into a VirtualMachineInstance, or into the template of an adopted VirtualMachine. */
export function encodeInstance(recipe: TwinRecipe, side: TwinSide): EncodedInstance {
  const { source, identity } = recipe;
  const marks = encodeMarks(identity);
  return {
    labels: { ...source.labels, ...marks.labels },
    annotations: {
      ...source.annotations,
      ...marks.annotations,
      [vmiAnnotations.guest]: identity.guest,
      [vmiAnnotations.startedAs]: side.shape,
      "kubevirt.io/free-page-reporting-disabled": "true",
      ...encodeHook(recipe),
    },
    spec: encodeSpec(recipe, side),
  };
}

function encodeHook({ hook, source }: TwinRecipe): Readonly<Record<string, string>> {
  if (hook.mode === "NetworkBinding") {
    return {};
  }
  // In an adopted VirtualMachine there is our own already, perhaps of an earlier version.
  const others = listHookSidecars(source.annotations).filter(
    (each) => repositoryOf(readText(each, "image") ?? "") !== repositoryOf(hook.image),
  );
  const own = { args: ["--version", "v1alpha3"], image: hook.image, imagePullPolicy: "IfNotPresent" };
  return { [HOOK_ANNOTATION]: JSON.stringify([own, ...others]) };
}

/** Without tag and digest. */
const repositoryOf = (image: string): string => image.replace(/@.*$/, "").replace(/:[^:/]*$/, "");

function encodeSpec({ source, identity, machine, hook }: TwinRecipe, side: TwinSide): Json {
  const { spec } = source;
  const sockets = readSockets(spec);
  const memory = readMemory(spec);
  const { interfaces, networks } = encodeNetworks(spec, identity, { side, mode: hook.mode });
  const own =
    side.vmi.namespace === identity.namespace ? spec : renameReferences(spec, (name) => sideName(name, side.mark));
  return mergeJson(own, {
    hostname: readText(spec, "hostname") ?? hostnameOf(source.virtualMachine?.metadata.name ?? identity.name),
    startStrategy: "Paused",
    evictionStrategy: "External",
    nodeSelector: { ...readObject(spec, "nodeSelector"), "kubernetes.io/hostname": side.hostname },
    domain: {
      cpu: { sockets, maxSockets: sockets, model: machine.cpuModel },
      memory: memory === undefined ? undefined : { guest: memory, maxGuest: isMemoryPluggable(spec) ? memory : null },
      machine: machine.type === undefined ? undefined : { type: machine.type },
      firmware: encodeFirmware(spec, identity.uid),
      devices: { interfaces },
    },
    networks,
    volumes: encodeVolumes(own, side),
  });
}

/** Part of a DNS name; a VirtualMachineInstance of another name would otherwise have another one. */
const hostnameOf = (name: string): string => name.replaceAll(".", "-").slice(0, 63).replace(/-+$/, "");

function encodeFirmware(spec: Json, uid: string): Json {
  const uuid = readText(spec, "domain", "firmware", "uuid") ?? uuidOf(`${uid}/firmware`);
  return { uuid, serial: readText(spec, "domain", "firmware", "serial") ?? uuidOf(`${uid}/serial`) };
}

type NetworkPlace = { readonly side: TwinSide; readonly mode: HookMode };

/** KubeVirt adds a pod network where there is none, with a MAC address of chance; so it is added here. */
function encodeNetworks(
  spec: Json,
  { uid, namespace }: GuestIdentity,
  { side, mode }: NetworkPlace,
): { readonly interfaces: readonly Json[]; readonly networks: readonly Json[] } {
  const devices = readObject(spec, "domain", "devices");
  const isBare = devices["interfaces"] === undefined && devices["autoattachPodInterface"] !== false;
  const interfaces = isBare ? [{ name: "default", masquerade: {} }] : readObjects(devices, "interfaces");
  const networks = isBare ? [{ name: "default", pod: {} }] : readObjects(spec, "networks");
  return {
    interfaces: interfaces.map((device) => encodeInterface(device, uid, mode)),
    networks: side.vmi.namespace === namespace ? networks : networks.map((each) => qualifyNetwork(each, namespace)),
  };
}

function encodeInterface(device: Json, uid: string, mode: HookMode): Json {
  const macAddress = readText(device, "macAddress") ?? macOf(uid, readText(device, "name") ?? "");
  const { bridge, ...others } = device;
  return mode === "NetworkBinding" && isJson(bridge)
    ? { ...others, binding: { name: NETWORK_BINDING }, macAddress }
    : { ...device, macAddress };
}

/** A network attachment without a namespace is looked for in that of the VirtualMachineInstance. */
function qualifyNetwork(network: Json, namespace: string): Json {
  const name = readText(network, "multus", "networkName");
  return name === undefined || name.includes("/")
    ? network
    : mergeJson(network, { multus: { networkName: `${namespace}/${name}` } });
}

function encodeVolumes(spec: Json, { volumes }: TwinSide): readonly Json[] {
  return readObjects(spec, "volumes").map((volume) => {
    const name = readText(volume, "name") ?? "";
    const other = volumes.get(name);
    return other === undefined ? volume : { name, ...other };
  });
}
