/**
 * What of a VirtualMachineInstance's spec cannot be protected, or not well, with the field it stands in and the remedy.
 *
 * It is said before anything is made. The hook looks again at the domain KubeVirt makes of it, the engine at the QEMU that runs
 * (hook/domain-obstacles.ts, qemu/machine.ts); they are the judges, this is early.
 */

/** Whatever was read from an API server; only fields that are looked at are checked. */
type Json = Readonly<Record<string, unknown>>;

export type GuestObstacle = {
  readonly code:
    | "DeviceWritesMemoryFromOutside"
    | "DeviceIsOfTheHost"
    | "DeviceStateIsElsewhere"
    | "DiskIsShared"
    | "HugePages"
    | "LivenessProbe"
    | "MemoryEncrypted"
    | "MultipleQueues"
    | "ObjectIsOfTheNamespace"
    | "OutputCannotBeHeld"
    /** It can be protected, but connections to this address end when the guest moves. */
    | "AddressBelongsToPod"
    /** It can be protected, but is gone when both sides have ended. */
    | "DiskLivesInPod"
    | "DiskIsPluggedIn"
    /** It can be protected, but nobody has tried. */
    | "FirmwareVariablesElsewhere";
  /** The guest is refused, or only less well protected than its owner may think. */
  readonly severity: "refused" | "limited";
  /** Below the VirtualMachineInstance, such as `spec.domain.devices.gpus`. */
  readonly field: string;
  readonly message: string;
  readonly remedy: string;
};

/** In the order of the spec's fields; none for a guest that can be protected without a loss. */
export function listGuestObstacles(spec: Json): readonly GuestObstacle[] {
  const domain = objectAt(spec, "domain");
  return [
    ...listMachineObstacles(domain),
    ...listDeviceObstacles(objectAt(domain, "devices")),
    ...listInterfaceObstacles(spec),
    ...listDiskObstacles(spec),
    ...listNamespaceObstacles(spec),
    ...(spec["livenessProbe"] === undefined ? [] : [livenessProbe]),
  ];
}

const isThere = (value: unknown): boolean =>
  value !== undefined && value !== null && value !== false && !(Array.isArray(value) && value.length === 0);

function objectAt(parent: Json, field: string): Json {
  const value = parent[field];
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function listAt(parent: Json, field: string): readonly Json[] {
  const value = parent[field];
  return Array.isArray(value)
    ? value.filter((item): item is Json => typeof item === "object" && item !== null && !Array.isArray(item))
    : [];
}

const nameOf = (item: Json): string => (typeof item["name"] === "string" ? item["name"] : "without a name");

const livenessProbe: GuestObstacle = {
  ...{ code: "LivenessProbe", severity: "refused", field: "spec.livenessProbe" },
  message: "both sides start paused, and KubeVirt refuses that together with a liveness probe",
  remedy: "remove livenessProbe; a readinessProbe may stay",
};

function listMachineObstacles(domain: Json): readonly GuestObstacle[] {
  const obstacles: GuestObstacle[] = [];
  if (isThere(domain["launchSecurity"])) {
    obstacles.push({
      ...{ code: "MemoryEncrypted", severity: "refused", field: "spec.domain.launchSecurity" },
      message: "the memory is encrypted (SEV, SNP or TDX) and cannot be copied",
      remedy: "remove launchSecurity",
    });
  }
  if (isThere(objectAt(domain, "memory")["hugepages"])) {
    obstacles.push({
      ...{ code: "HugePages", severity: "refused", field: "spec.domain.memory.hugepages" },
      message: "the memory is in huge pages, which would be sent whole at every checkpoint",
      remedy: "remove memory.hugepages",
    });
  }
  const efi = objectAt(objectAt(objectAt(domain, "firmware"), "bootloader"), "efi");
  if (efi["persistent"] === true) {
    obstacles.push({
      ...{ code: "FirmwareVariablesElsewhere", severity: "limited" },
      field: "spec.domain.firmware.bootloader.efi.persistent",
      message: "the firmware's variables are on a volume of their own, which the other side does not have",
      remedy: "leave out persistent; the variables then live as long as the guest runs, on whichever side",
    });
  }
  return obstacles;
}

type DeviceRule = Pick<GuestObstacle, "code" | "message" | "remedy"> & { readonly field: string };
const passedThrough = {
  code: "DeviceIsOfTheHost",
  message: "the state of a passed-through device cannot be copied, and it cannot follow to another host",
} as const;

const DEVICE_RULES: readonly DeviceRule[] = [
  {
    ...{ field: "filesystems", code: "DeviceWritesMemoryFromOutside" },
    message: "virtiofs writes into the guest's memory from outside of QEMU, where nobody sees it",
    remedy: "remove filesystems; use a disk, or a file server over the network",
  },
  { field: "gpus", ...passedThrough, remedy: "remove gpus" },
  { field: "hostDevices", ...passedThrough, remedy: "remove hostDevices" },
  {
    ...{ field: "clientPassthrough", code: "DeviceIsOfTheHost" },
    message: "a USB device of somebody's computer cannot follow to another host",
    remedy: "remove clientPassthrough",
  },
  {
    ...{ field: "tpm", code: "DeviceStateIsElsewhere" },
    message: "the state of a TPM is kept by a process outside of QEMU and is not copied",
    remedy: "remove tpm",
  },
  {
    ...{ field: "autoattachVSOCK", code: "DeviceWritesMemoryFromOutside" },
    message: "the kernel serves vsock and writes into the guest's memory, where nobody sees it",
    remedy: "remove autoattachVSOCK",
  },
  {
    ...{ field: "networkInterfaceMultiqueue", code: "MultipleQueues" },
    message: "what the guest sends is held back on one queue",
    remedy: "remove networkInterfaceMultiqueue, or set it to false",
  },
];

function listDeviceObstacles(devices: Json): readonly GuestObstacle[] {
  return DEVICE_RULES.filter(({ field }) => isThere(devices[field])).map(({ field, ...rule }) => ({
    ...rule,
    severity: "refused",
    field: `spec.domain.devices.${field}`,
  }));
}

function listInterfaceObstacles(spec: Json): readonly GuestObstacle[] {
  const networks = new Map(listAt(spec, "networks").map((network) => [nameOf(network), network]));
  const interfaces = listAt(objectAt(objectAt(spec, "domain"), "devices"), "interfaces");
  return interfaces.flatMap((each, index) => {
    const field = `spec.domain.devices.interfaces[${index}]`;
    const refusal = findBindingRefusal(each);
    if (refusal !== undefined) {
      return [
        { ...refusal, severity: "refused" as const, field, message: `interface ${nameOf(each)}: ${refusal.message}` },
      ];
    }
    return isOnPodNetwork(networks.get(nameOf(each))) ? [onPodNetwork(nameOf(each), field)] : [];
  });
}

/** A network that is not multus is the pod's. */
const isOnPodNetwork = (network: Json | undefined): boolean => network !== undefined && network["multus"] === undefined;

const onPodNetwork = (name: string, field: string): GuestObstacle => ({
  ...{ code: "AddressBelongsToPod", severity: "limited", field },
  message: `interface ${name} is on the pod network: its address is the pod's, so connections to it end when the guest moves`,
  remedy: "give it a bridge binding on a layer-2 network (multus) that both nodes reach",
});

const useBridge = "use a bridge binding on a multus network";

/** Only what leaves by a tap can be held. */
function findBindingRefusal(each: Json): Pick<GuestObstacle, "code" | "message" | "remedy"> | undefined {
  const plugin = objectAt(each, "binding")["name"];
  if (isThere(each["sriov"])) {
    return { code: "DeviceIsOfTheHost", message: "an SR-IOV device cannot follow to another host", remedy: useBridge };
  }
  const passt = ["passt", "passtBinding", "slirp", "macvtap"].find((field) => isThere(each[field]));
  if (passt !== undefined) {
    return {
      ...{ code: "OutputCannotBeHeld", remedy: useBridge },
      message: `${passt} is no tap, and only what leaves by a tap can be held back`,
    };
  }
  if (typeof plugin === "string" && plugin !== "twinrun") {
    return {
      ...{ code: "OutputCannotBeHeld", remedy: useBridge },
      message: `nothing is known of the binding ${plugin}; only what leaves by a tap can be held back`,
    };
  }
  return undefined;
}

/** Images that KubeVirt makes in the pod when it starts. */
const POD_IMAGES = ["containerDisk", "emptyDisk"];

const livesInPod = (kind: string): Pick<GuestObstacle, "code" | "severity" | "message" | "remedy"> => ({
  ...{ code: "DiskLivesInPod", severity: "limited" },
  message: `is a ${kind}: what the guest writes to it lives in the pods of the two sides, and is gone when both have ended`,
  remedy: "put what must outlive the guest on a volume (persistentVolumeClaim or dataVolume)",
});

function listDiskObstacles(spec: Json): readonly GuestObstacle[] {
  const volumes = new Map(listAt(spec, "volumes").map((volume) => [nameOf(volume), volume]));
  const disks = listAt(objectAt(objectAt(spec, "domain"), "devices"), "disks");
  return disks.flatMap((disk, index) => {
    const field = `spec.domain.devices.disks[${index}]`;
    const name = nameOf(disk);
    const refuse = (code: GuestObstacle["code"], message: string, remedy: string): GuestObstacle[] => [
      { code, severity: "refused", field, message: `disk ${name} ${message}`, remedy },
    ];
    if (disk["lun"] !== undefined) {
      return refuse("DeviceIsOfTheHost", "is a SCSI device of the host (lun)", "attach the volume as disk");
    }
    if (disk["shareable"] === true) {
      return refuse("DiskIsShared", "is shared with other guests", "give this guest a disk of its own");
    }
    const isWritten = disk["cdrom"] === undefined && objectAt(disk, "disk")["readonly"] !== true;
    const found = findVolumeObstacle(volumes.get(name) ?? {}, isWritten);
    return found === undefined ? [] : [{ ...found, field, message: `disk ${name} ${found.message}` }];
  });
}

/** What is wrong with a disk because of the volume behind it. */
function findVolumeObstacle(volume: Json, isWritten: boolean): Omit<GuestObstacle, "field"> | undefined {
  const onVolume = "put it on a volume (PVC) of each side";
  if (volume["hostDisk"] !== undefined) {
    return {
      ...{ code: "DeviceIsOfTheHost", severity: "refused", remedy: onVolume },
      message: "is a file of one node (hostDisk)",
    };
  }
  const claim = { ...objectAt(volume, "persistentVolumeClaim"), ...objectAt(volume, "dataVolume") };
  if (claim["hotpluggable"] === true) {
    return {
      ...{ code: "DiskIsPluggedIn", severity: "refused" },
      message: "is plugged into the guest while it runs (hotpluggable), and the other side's QEMU would not have it",
      remedy: "leave out hotpluggable, so that the guest starts with it",
    };
  }
  const pod = isWritten ? POD_IMAGES.find((kind) => volume[kind] !== undefined) : undefined;
  return pod === undefined ? undefined : livesInPod(pod);
}

/** Volumes and fields that name objects of the guest's namespace which the operator does not bring along to the second side's. */
const OF_THE_NAMESPACE: readonly { readonly list: string; readonly kind?: string; readonly what: string }[] = [
  { list: "volumes", kind: "ephemeral", what: "a PersistentVolumeClaim (ephemeral)" },
  { list: "volumes", kind: "memoryDump", what: "a PersistentVolumeClaim (memoryDump)" },
  { list: "volumes", kind: "serviceAccount", what: "a ServiceAccount" },
  { list: "utilityVolumes", what: "a PersistentVolumeClaim" },
  { list: "resourceClaims", what: "a ResourceClaim" },
];

function listNamespaceObstacles(spec: Json): readonly GuestObstacle[] {
  return OF_THE_NAMESPACE.flatMap(({ list, kind, what }) =>
    listAt(spec, list).flatMap((item, index): GuestObstacle[] =>
      kind !== undefined && item[kind] === undefined
        ? []
        : [
            {
              ...{ code: "ObjectIsOfTheNamespace", severity: "refused", field: `spec.${list}[${index}]` },
              message: `${nameOf(item)} names ${what} of this namespace, and the guest's second side is in another`,
              remedy: `remove it from ${list}`,
            },
          ],
    ),
  );
}
