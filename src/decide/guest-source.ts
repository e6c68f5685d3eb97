/**
 * Where a guest's VirtualMachineInstances are made from: the template of the ProtectedVM, or that of a VirtualMachine. And what
 * no guest can have under protection, as far as it can be seen in a spec; the hook finds the rest in the domain.
 */
import { type StalledReason } from "../api/conditions.ts";
import { present } from "../lib/assert.ts";
import { isJson, type Json, readObject, readObjects, readPath, readText } from "../lib/json-merge.ts";
import { type VirtualMachine } from "./cluster-objects.ts";
import { type HookMode, type Observed } from "./protected-vm-plan.ts";

export type GuestSource = {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Of the VirtualMachineInstance. */
  readonly spec: Json;
  readonly dataVolumeTemplates: readonly Json[];
  /** The one that is adopted. */
  readonly virtualMachine: VirtualMachine | undefined;
};

export type SourceChoice =
  | { readonly tag: "found"; readonly source: GuestSource }
  | { readonly tag: "stalled"; readonly reason: StalledReason; readonly message: string };

export function findSource(observed: Observed): SourceChoice {
  const choice = findAnySource(observed);
  if (choice.tag === "stalled") {
    return choice;
  }
  const obstacle = findObstacle(choice.source.spec, observed.settings.hookMode);
  return obstacle === undefined
    ? choice
    : { tag: "stalled", reason: "NotProtectable", message: `the guest cannot be protected: ${obstacle}` };
}

/** Whether it can be protected or not: enough to let go of it. */
export function findAnySource(observed: Observed): SourceChoice {
  const { virtualMachineTemplate: template, virtualMachineRef: ref } = observed.protectedVm.spec;
  return template === undefined ? findVirtualMachine(observed, ref?.name ?? "") : found(template.spec, undefined);
}

function found(spec: unknown, virtualMachine: VirtualMachine | undefined): SourceChoice {
  return {
    tag: "found",
    source: {
      labels: readTexts(spec, "template", "metadata", "labels"),
      annotations: readTexts(spec, "template", "metadata", "annotations"),
      spec: readObject(spec, "template", "spec"),
      dataVolumeTemplates: readObjects(spec, "dataVolumeTemplates"),
      virtualMachine,
    },
  };
}

function readTexts(value: unknown, ...path: readonly string[]): Readonly<Record<string, string>> {
  const entries = Object.entries(readObject(value, ...path));
  return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === "string"));
}

function findVirtualMachine({ virtualMachine, rivals, protectedVm }: Observed, name: string): SourceChoice {
  if (virtualMachine === undefined) {
    const message = `there is no VirtualMachine ${name} in the namespace; make it, or name another in a new ProtectedVM`;
    return { tag: "stalled", reason: "VirtualMachineNotFound", message };
  }
  const earlier = rivals.find((rival) => isEarlier(rival.metadata, protectedVm.metadata));
  if (earlier !== undefined) {
    const message = `${name} is protected by ProtectedVM ${earlier.metadata.name} already; delete one of the two`;
    return { tag: "stalled", reason: "VirtualMachineTaken", message };
  }
  if (readText(virtualMachine.spec, "instancetype", "name") !== undefined) {
    const says = "its processors and memory stand in an instance type; write them into the VirtualMachine itself";
    return { tag: "stalled", reason: "NotProtectable", message: `the guest cannot be protected: ${says}` };
  }
  return found(virtualMachine.spec, virtualMachine);
}

type Age = { readonly uid?: string | undefined; readonly creationTimestamp?: string | undefined };

function isEarlier(one: Age, other: Age): boolean {
  const [first, second] = [one.creationTimestamp ?? "", other.creationTimestamp ?? ""];
  return first === second ? (one.uid ?? "") < (other.uid ?? "") : first < second;
}

/** What cannot be copied, and what would run or write where nobody sees it; undefined for a guest that can be protected. */
export function findObstacle(spec: Json, hookMode: HookMode): string | undefined {
  return (
    findDeviceObstacle(readObject(spec, "domain", "devices")) ??
    findMachineObstacle(spec) ??
    firstOf(readObjects(spec, "domain", "devices", "disks"), findDiskObstacle) ??
    firstOf(readObjects(spec, "domain", "devices", "interfaces"), findInterfaceObstacle) ??
    firstOf(readObjects(spec, "volumes"), findVolumeObstacle) ??
    findBindingObstacle(spec, hookMode)
  );
}

const firstOf = (items: readonly Json[], find: (item: Json) => string | undefined): string | undefined =>
  items.map(find).find((obstacle) => obstacle !== undefined);

function findDeviceObstacle(devices: Json): string | undefined {
  const lists = ["gpus", "hostDevices", "filesystems"].filter((field) => readObjects(devices, field).length > 0);
  if (lists.length > 0) {
    return `it has ${lists.join(" and ")}, whose state cannot be copied; remove them`;
  }
  if (readPath(devices, "networkInterfaceMultiqueue") === true) {
    return "networkInterfaceMultiqueue is true, but what a guest sends is held back on one queue; set it to false";
  }
  return isJson(devices["tpm"]) ? "it has a TPM, whose state is not copied; remove it" : undefined;
}

function findMachineObstacle(spec: Json): string | undefined {
  if (isJson(spec["livenessProbe"])) {
    return "it has a livenessProbe, which KubeVirt refuses for a guest that starts paused; remove it";
  }
  if (isJson(readPath(spec, "domain", "launchSecurity"))) {
    return "its memory is encrypted (launchSecurity); remove that";
  }
  return readPath(spec, "domain", "firmware", "bootloader", "efi", "persistent") === true
    ? "its UEFI variables are persistent, in a volume that is not copied; set efi.persistent to false"
    : undefined;
}

function findDiskObstacle(disk: Json): string | undefined {
  const name = readText(disk, "name") ?? "";
  if (isJson(disk["lun"])) {
    return `disk ${name} is a lun, which is passed through; make it a disk`;
  }
  return disk["shareable"] === true ? `disk ${name} is shareable; a side has disks of its own` : undefined;
}

function findInterfaceObstacle(device: Json): string | undefined {
  const binding = ["sriov", "passtBinding", "passt", "slirp", "macvtap"].find((kind) => isJson(device[kind]));
  return binding === undefined
    ? undefined
    : `interface ${readText(device, "name") ?? ""} uses ${binding}, which what the guest sends does not pass through QEMU with; use bridge or masquerade`;
}

function findVolumeObstacle(volume: Json): string | undefined {
  const kind = ["ephemeral", "memoryDump", "serviceAccount", "downwardMetrics"].find((each) => isJson(volume[each]));
  return kind === undefined ? undefined : `volume ${readText(volume, "name") ?? ""} is of the kind ${kind}; remove it`;
}

function findBindingObstacle(spec: Json, hookMode: HookMode): string | undefined {
  const interfaces = readObjects(spec, "domain", "devices", "interfaces");
  return hookMode === "NetworkBinding" && !interfaces.some((each) => isJson(each["bridge"]) || isJson(each["binding"]))
    ? "it has no interface with bridge binding, by which Twinrun's hook would get at it; add one or install with hook.mode=Sidecar"
    : undefined;
}

const isVolumeOnClaim = (volume: Json): boolean =>
  isJson(volume["persistentVolumeClaim"]) || isJson(volume["dataVolume"]);

/** Volumes with a claim behind them: each side has its own. */
export const listClaimVolumes = ({ spec }: GuestSource): readonly Json[] =>
  readObjects(spec, "volumes").filter(isVolumeOnClaim);

/** What is made of nothing on each side and can be written to; configuration and cloud-init are the same on both sides. */
const WRITABLE_KINDS = ["persistentVolumeClaim", "dataVolume", "containerDisk", "emptyDisk", "hostDisk"];

/** The disks that are copied, by name. */
export function listCopiedDisks({ spec }: GuestSource): readonly string[] {
  const volumes = readObjects(spec, "volumes");
  return readObjects(spec, "domain", "devices", "disks").flatMap((disk) => {
    const name = present(readText(disk, "name"), "a disk has a name");
    const volume = volumes.find((each) => readText(each, "name") === name) ?? {};
    const isWritable = WRITABLE_KINDS.some((kind) => isJson(volume[kind]));
    return isWritable && !isJson(disk["cdrom"]) && readPath(disk, "disk", "readonly") !== true ? [name] : [];
  });
}
