/** What `import` makes of disks and a command line: a volume for each disk, and the ProtectedVM that uses them. */
import { API_VERSION } from "../api/custom-resource.ts";
import { listGuestObstacles } from "../api/guest-obstacles.ts";
import { parseProtectedVm } from "../api/protected-vm.ts";
import { parseQuantity } from "../decide/quantity.ts";
import { type OvfMachine } from "../image/ovf.ts";
import { isJson, type Json, mergeJson, readObject, readObjects, readPath, readText } from "../lib/json-merge.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { type Invocation } from "./command-line.ts";
import { type KubeObject } from "./kube-objects.ts";

/** What the volume was made for, so that no command ever writes over another's. */
export const IMPORT_ANNOTATION = "twinrun.dev/import-of";

const BUSES = ["virtio", "sata", "scsi"] as const;
const MODELS = ["virtio", "e1000e"] as const;
const MIB = 2 ** 20;
/** What a file system keeps for itself; CDI's figure, and it adds that itself. */
const FILE_SYSTEM_SHARE = 0.06;

export type ImportWish = {
  readonly name: string;
  readonly namespace: string;
  /** The two, the first of which gets the volumes. */
  readonly nodes: readonly string[];
  readonly cores: number | undefined;
  readonly memory: string | undefined;
  /** `pod`, or a NetworkAttachmentDefinition; undefined where nothing was said. */
  readonly networks: readonly string[] | undefined;
  readonly isEfi: boolean;
  readonly diskBus: (typeof BUSES)[number];
  readonly nicModel: (typeof MODELS)[number];
  readonly storageClass: string | undefined;
  readonly sizeBytes: number | undefined;
  /** A ProtectedVM to start from. */
  readonly template: Json;
};

export type PlannedDisk = { readonly virtualBytes: number; readonly identity: string };
export type PlannedVolume = {
  readonly disk: string;
  readonly claim: string;
  readonly bytes: number;
  readonly object: KubeObject;
};
export type ImportPlan = {
  readonly volumes: readonly PlannedVolume[];
  readonly vm: KubeObject;
  readonly notes: readonly string[];
};

/** What a wish is made of besides the command line: what the OVF says, and the template. */
export type ImportBasis = {
  readonly namespace: string;
  readonly machine: OvfMachine | undefined;
  readonly template: Json;
};

/** Throws UsageWrong with what is missing. The command line wins over the template, the template over the OVF. */
export function parseImportWish({ texts, numbers }: Invocation, basis: ImportBasis): ImportWish {
  const { namespace, machine, template } = basis;
  const firmware = parseChoice(
    "firmware",
    texts.get("firmware"),
    ["bios", "efi"] as const,
    machine?.isEfi === true ? "efi" : "bios",
  );
  return {
    ...{ name: requireName(texts.get("name"), basis), namespace, template },
    nodes: parseNodes(texts.get("nodes"), template),
    ...parseSizeOfMachine({ cores: numbers.get("cpus"), memory: texts.get("memory") }, basis),
    networks: parseNetworks(texts.get("network"), machine, template),
    isEfi: firmware === "efi",
    diskBus: parseChoice("disk-bus", texts.get("disk-bus"), BUSES, "virtio"),
    nicModel: parseChoice("nic-model", texts.get("nic-model"), MODELS, "virtio"),
    storageClass: texts.get("storage-class"),
    sizeBytes: parseSize("size", texts.get("size")),
  };
}

function requireName(given: string | undefined, { machine, template }: ImportBasis): string {
  const name = given ?? readText(template, "metadata", "name") ?? makeName(machine?.name);
  if (name === undefined) {
    throw usageWrong("import needs --name NAME, what the ProtectedVM is to be called");
  }
  return name;
}

type SizeOfMachine = Pick<ImportWish, "cores" | "memory">;

/** Undefined is what the template has. */
function parseSizeOfMachine({ cores, memory }: SizeOfMachine, { machine, template }: ImportBasis): SizeOfMachine {
  const domain = readObject(template, "spec", "virtualMachineTemplate", "spec", "template", "spec", "domain");
  const ovfBytes = machine?.memoryBytes;
  const ovfMemory = ovfBytes === undefined ? undefined : `${Math.ceil(ovfBytes / MIB)}Mi`;
  return {
    cores: cores ?? (isJson(domain["cpu"]) ? undefined : (machine?.cores ?? 1)),
    memory: memory ?? (isJson(domain["memory"]) ? undefined : requireMemory(ovfMemory)),
  };
}

/** Of an OVF's machine, as an object may be called. */
function makeName(given: string | undefined): string | undefined {
  const name = given
    ?.toLowerCase()
    .replaceAll(/[^a-z0-9-]+/g, "-")
    .slice(0, 40)
    .replaceAll(/^-+|-+$/g, "");
  return name === "" ? undefined : name;
}

function requireMemory(memory: string | undefined): string {
  if (memory === undefined) {
    throw usageWrong("import needs --memory SIZE, as in --memory 2Gi: a disk does not say how much its machine had");
  }
  return memory;
}

/** The volume is made where the guest starts, so both nodes must be known. */
function parseNodes(given: string | undefined, template: Json): readonly string[] {
  const own = readPath(template, "spec", "placement", "nodes");
  const names = given?.split(",").map((node) => node.trim()) ?? (Array.isArray(own) ? (own as string[]) : []);
  if (names.length !== 2 || names.includes("") || names[0] === names[1]) {
    throw usageWrong(
      `import needs --nodes A,B, two different nodes: the volumes are made for the first; found "${names.join(",")}"`,
    );
  }
  return names;
}

function parseNetworks(
  given: string | undefined,
  machine: OvfMachine | undefined,
  template: Json,
): readonly string[] | undefined {
  const names = given?.split(",").map((network) => network.trim());
  const hasOwn = readPath(template, "spec", "virtualMachineTemplate") !== undefined;
  const wanted = machine?.networks ?? [];
  if (names === undefined && !hasOwn && wanted.length > 0) {
    throw usageWrong(
      `the OVF's machine has ${wanted.length} network cards (${wanted.join(", ")}): name a network of this cluster for each ` +
        "with --network NAME,... (a NetworkAttachmentDefinition, or pod)",
    );
  }
  return names ?? (hasOwn ? undefined : ["pod"]);
}

function parseChoice<Value extends string>(
  flag: string,
  given: string | undefined,
  choices: readonly Value[],
  otherwise: Value,
): Value {
  const chosen = choices.find((choice) => choice === (given ?? otherwise));
  if (chosen === undefined) {
    throw usageWrong(`--${flag} must be ${choices.join(" or ")}, not ${given ?? ""}`);
  }
  return chosen;
}

export function parseSize(flag: string, given: string | undefined): number | undefined {
  const bytes = given === undefined ? undefined : parseQuantity(given);
  if (given !== undefined && (bytes === undefined || !(bytes > 0))) {
    throw usageWrong(`--${flag} must be a size such as 20Gi, not ${given}`);
  }
  return bytes;
}

/** Pure: the same wish makes the same objects. */
export function planImport(wish: ImportWish, disks: readonly PlannedDisk[], hasDataVolumes: boolean): ImportPlan {
  const volumes = disks.map((disk, index) => planVolume(wish, disk, { index, hasDataVolumes }));
  const vm = buildProtectedVm(wish, volumes, hasDataVolumes);
  const instance = readObject(vm["spec"], "virtualMachineTemplate", "spec", "template", "spec");
  const obstacles = listGuestObstacles(instance);
  const refused = obstacles.filter(({ severity }) => severity === "refused");
  if (refused.length > 0) {
    const says = refused.map(({ message, remedy }) => `${message}; ${remedy}`).join("; ");
    throw new CliFailure("Refused", `the guest could not be protected: ${says}`);
  }
  return { volumes, vm, notes: obstacles.map(({ message, remedy }) => `${message}; ${remedy}`) };
}

type Place = { readonly index: number; readonly hasDataVolumes: boolean };

function planVolume(wish: ImportWish, { virtualBytes, identity }: PlannedDisk, place: Place): PlannedVolume {
  const { name, namespace, storageClass, sizeBytes = 0 } = wish;
  const disk = place.index === 0 ? "disk" : `disk${place.index + 1}`;
  const claim = `${name}-${disk}`;
  const bytes = Math.ceil(Math.max(virtualBytes, sizeBytes) / MIB) * MIB;
  const metadata = { name: claim, namespace, annotations: { [IMPORT_ANNOTATION]: identity } };
  const storageClassName = storageClass === undefined ? {} : { storageClassName: storageClass };
  const request = (size: number): Json => ({ ...storageClassName, resources: { requests: { storage: String(size) } } });
  const withRoom = Math.ceil((bytes * (1 + FILE_SYSTEM_SHARE)) / MIB) * MIB;
  const object = place.hasDataVolumes
    ? {
        ...{ apiVersion: "cdi.kubevirt.io/v1beta1", kind: "DataVolume", metadata },
        spec: { source: { blank: {} }, storage: request(bytes) },
      }
    : {
        ...{ apiVersion: "v1", kind: "PersistentVolumeClaim", metadata },
        spec: { accessModes: ["ReadWriteOnce"], ...request(withRoom) },
      };
  return { disk, claim, bytes, object };
}

function buildProtectedVm(
  wish: ImportWish,
  volumes: readonly PlannedVolume[],
  hasDataVolumes: boolean,
): KubeObject & Json {
  const { name, namespace, nodes, template, storageClass } = wish;
  const path = ["spec", "virtualMachineTemplate", "spec", "template", "spec"];
  const own = readObject(template, ...path);
  const isNew = (item: Json): boolean => !volumes.some(({ disk }) => disk === item["name"]);
  const devices = {
    disks: [
      ...volumes.map(({ disk }, index) => ({
        ...{ name: disk, disk: { bus: wish.diskBus } },
        ...(index === 0 ? { bootOrder: 1 } : {}),
      })),
      ...readObjects(own, "domain", "devices", "disks").filter(isNew),
    ],
    ...buildInterfaces(wish),
  };
  const instance = {
    domain: { ...buildMachine(wish), devices },
    volumes: [
      ...volumes.map(({ disk, claim }) => ({
        name: disk,
        ...(hasDataVolumes ? { dataVolume: { name: claim } } : { persistentVolumeClaim: { claimName: claim } }),
      })),
      ...readObjects(own, "volumes").filter(isNew),
    ],
    ...(wish.networks === undefined ? {} : { networks: wish.networks.map(buildNetwork) }),
  };
  const side = storageClass === undefined ? {} : { storageClassName: storageClass };
  const object = mergeJson(template, {
    ...{ apiVersion: API_VERSION, kind: "ProtectedVM", metadata: { name, namespace } },
    spec: {
      ...{ mode: readText(template, "spec", "mode") ?? "FaultTolerant", placement: { nodes } },
      ...(storageClass === undefined ? {} : { storage: { first: side, second: side } }),
      virtualMachineTemplate: { spec: { template: { spec: instance } } },
    },
  });
  parseProtectedVm(object, "the ProtectedVM of this command line");
  return object as KubeObject & Json;
}

function buildMachine({ cores, memory, isEfi }: ImportWish): Json {
  return {
    ...(cores === undefined ? {} : { cpu: { cores } }),
    ...(memory === undefined ? {} : { memory: { guest: memory } }),
    ...(isEfi ? { firmware: { bootloader: { efi: { secureBoot: false } } } } : {}),
  };
}

const interfaceName = (index: number): string => `net${index + 1}`;

function buildInterfaces({ networks, nicModel }: ImportWish): Json {
  const model = nicModel === "virtio" ? {} : { model: nicModel };
  const interfaces = networks?.map((network, index) => ({
    ...{ name: interfaceName(index), ...model },
    ...(network === "pod" ? { masquerade: {} } : { bridge: {} }),
  }));
  return interfaces === undefined ? {} : { interfaces };
}

const buildNetwork = (network: string, index: number): Json => ({
  name: interfaceName(index),
  ...(network === "pod" ? { pod: {} } : { multus: { networkName: network } }),
});
