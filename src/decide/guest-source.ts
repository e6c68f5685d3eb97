/** Where a guest's VirtualMachineInstances are made from: the template of the ProtectedVM, or that of a VirtualMachine. */
import { type StalledReason } from "../api/conditions.ts";
import { listGuestObstacles } from "../api/guest-obstacles.ts";
import { present } from "../lib/assert.ts";
import { isJson, type Json, readObject, readObjects, readPath, readText } from "../lib/json-merge.ts";
import { type VirtualMachine } from "./cluster-objects.ts";
import { listHookSidecars } from "./hook-sidecars.ts";
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
  const { spec, annotations } = choice.source;
  const obstacle = findObstacle(spec, observed.settings.hookMode) ?? findSidecarObstacle(annotations);
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

/** Undefined for a guest that can be protected; the hook and the engine look again at what KubeVirt makes of it. */
export function findObstacle(spec: Json, hookMode: HookMode): string | undefined {
  const refused = listGuestObstacles(spec).filter(({ severity }) => severity === "refused");
  const says = refused.map(({ message, remedy }) => `${message}; ${remedy}`).join("; ");
  return says === "" ? findBindingObstacle(spec, hookMode) : says;
}

function findBindingObstacle(spec: Json, hookMode: HookMode): string | undefined {
  const interfaces = readObjects(spec, "domain", "devices", "interfaces");
  return hookMode === "NetworkBinding" && !interfaces.some((each) => isJson(each["bridge"]) || isJson(each["binding"]))
    ? "it has no interface with bridge binding, by which Twinrun's hook would get at it; add one or install with hook.mode=Sidecar"
    : undefined;
}

/** Beside the second side such a name would be that of somebody else's. */
function findSidecarObstacle(annotations: GuestSource["annotations"]): string | undefined {
  const names = listHookSidecars(annotations).some(
    (each) => isJson(each) && (isJson(each["pvc"]) || isJson(each["configMap"])),
  );
  return names
    ? "a hook sidecar of its own names a ConfigMap or PersistentVolumeClaim, which is not where its second side is; " +
        "put what it needs into the sidecar's image"
    : undefined;
}

const isVolumeOnClaim = (volume: Json): boolean =>
  isJson(volume["persistentVolumeClaim"]) || isJson(volume["dataVolume"]);

/** Volumes with a claim behind them: each side has its own. */
export const listClaimVolumes = ({ spec }: GuestSource): readonly Json[] =>
  readObjects(spec, "volumes").filter(isVolumeOnClaim);

/** Writable images that KubeVirt makes in the pod, on each side. */
const POD_IMAGES = ["containerDisk", "emptyDisk"];
/**
 * What KubeVirt makes an ISO image of in the pod, on each side one of its own: names of the VirtualMachineInstance and tokens of
 * its pod are in it. The guest is to find what it had, however it is attached. (Metrics are each side's own; it only reads them.)
 */
const POD_SETTINGS = [
  ...["cloudInitNoCloud", "cloudInitConfigDrive", "sysprep"],
  ...["configMap", "secret", "downwardAPI", "serviceAccount"],
];

/** Undefined for a volume without a claim behind it. */
export const claimNameOf = (volume: Json): string | undefined =>
  readText(volume, "persistentVolumeClaim", "claimName") ?? readText(volume, "dataVolume", "name");

type CopiedDisk = { readonly name: string; readonly isOfPod: boolean };

/** The disks that are copied. */
export function listCopiedDisks({ spec }: GuestSource): readonly CopiedDisk[] {
  const volumes = readObjects(spec, "volumes");
  return readObjects(spec, "domain", "devices", "disks").flatMap((disk) => {
    const name = present(readText(disk, "name"), "a disk has a name");
    const volume = volumes.find((each) => readText(each, "name") === name) ?? {};
    const isWritten = !isJson(disk["cdrom"]) && readPath(disk, "disk", "readonly") !== true;
    const isOf = (kinds: readonly string[]): boolean => kinds.some((kind) => isJson(volume[kind]));
    const isOfPod = isOf(POD_SETTINGS) || (isWritten && isOf(POD_IMAGES));
    return isOfPod || (isWritten && isVolumeOnClaim(volume)) ? [{ name, isOfPod }] : [];
  });
}
