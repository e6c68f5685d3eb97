/** What of KubeVirt's objects the lab's launcher and controller read and write; everything else in them is left as it is. */

export type ObjectMeta = {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly generation?: number;
  readonly resourceVersion?: string;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
  readonly ownerReferences?: readonly OwnerReference[];
};

export type OwnerReference = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
};

export type Resources = {
  readonly requests?: Readonly<Record<string, string>>;
  readonly limits?: Readonly<Record<string, string>>;
};

export type VmiDisk = {
  readonly name: string;
  readonly disk?: { readonly bus?: string; readonly readonly?: boolean };
  readonly cdrom?: { readonly bus?: string };
  readonly serial?: string;
  readonly cache?: string;
  readonly errorPolicy?: string;
};

export type VmiInterface = {
  readonly name: string;
  readonly model?: string;
  readonly macAddress?: string;
  readonly bridge?: object;
  readonly masquerade?: object;
  readonly binding?: { readonly name: string };
  readonly state?: "up" | "down" | "absent";
};

export type VmiNetwork = {
  readonly name: string;
  readonly pod?: object;
  readonly multus?: { readonly networkName: string };
};

/** The same members as in KubeVirt, of which the lab knows these. */
export type VmiVolume = {
  readonly name: string;
  readonly persistentVolumeClaim?: { readonly claimName: string };
  readonly dataVolume?: { readonly name: string };
  readonly emptyDisk?: { readonly capacity: string };
  readonly containerDisk?: { readonly image: string; readonly imagePullPolicy?: string };
  readonly cloudInitNoCloud?: CloudInit;
};

export type CloudInit = {
  readonly userData?: string;
  readonly networkData?: string;
  readonly secretRef?: { readonly name: string };
  readonly networkDataSecretRef?: { readonly name: string };
};

export type KernelBoot = {
  readonly container?: {
    readonly image: string;
    readonly imagePullPolicy?: string;
    readonly kernelPath?: string;
    readonly initrdPath?: string;
  };
  readonly kernelArgs?: string;
};

export type VmiSpec = {
  readonly nodeSelector?: Readonly<Record<string, string>>;
  readonly affinity?: object;
  readonly tolerations?: readonly object[];
  readonly priorityClassName?: string;
  readonly evictionStrategy?: string;
  readonly startStrategy?: "Paused";
  readonly terminationGracePeriodSeconds?: number;
  readonly hostname?: string;
  readonly networks?: readonly VmiNetwork[];
  readonly volumes?: readonly VmiVolume[];
  readonly domain: {
    readonly cpu?: {
      readonly model?: string;
      readonly sockets?: number;
      readonly cores?: number;
      readonly threads?: number;
      readonly maxSockets?: number;
    };
    readonly memory?: { readonly guest?: string; readonly maxGuest?: string };
    readonly resources?: Resources;
    readonly machine?: { readonly type?: string };
    readonly firmware?: { readonly uuid?: string; readonly serial?: string; readonly kernelBoot?: KernelBoot };
    readonly devices: {
      readonly disks?: readonly VmiDisk[];
      readonly interfaces?: readonly VmiInterface[];
      readonly rng?: object;
      readonly autoattachGraphicsDevice?: boolean;
      readonly autoattachMemBalloon?: boolean;
      readonly autoattachSerialConsole?: boolean;
    };
  };
};

export type Condition = {
  readonly type: string;
  readonly status: "True" | "False" | "Unknown";
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime?: string | null;
};

export type VmiPhase = "Pending" | "Scheduling" | "Scheduled" | "Running" | "Succeeded" | "Failed";

export type VmiStatus = {
  readonly phase?: VmiPhase;
  readonly nodeName?: string;
  readonly activePods?: Readonly<Record<string, string>>;
  readonly conditions?: readonly Condition[];
  readonly interfaces?: readonly object[];
  readonly evacuationNodeName?: string;
  readonly [other: string]: unknown;
};

export type Vmi = {
  readonly apiVersion: "kubevirt.io/v1";
  readonly kind: "VirtualMachineInstance";
  readonly metadata: ObjectMeta;
  readonly spec: VmiSpec;
  readonly status?: VmiStatus;
};

/** KubeVirt's name of the libvirt domain. */
export const domainNameOf = ({ metadata }: Vmi): string => `${metadata.namespace}_${metadata.name}`;

export const hookSidecarsAnnotation = "hooks.kubevirt.io/hookSidecars";

export type HookSidecar = {
  readonly image: string;
  readonly imagePullPolicy?: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
};

/** Where things are inside the compute container, as in KubeVirt. */
export const podPaths = {
  private: "/var/run/kubevirt-private",
  libvirt: "/var/run/libvirt",
  share: "/var/run/kubevirt",
  hooks: "/var/run/kubevirt-hooks",
  ephemeral: "/var/run/kubevirt-ephemeral-disks",
  containerDisks: "/var/run/kubevirt/container-disks",
  launcherSocket: "/var/run/kubevirt/sockets/launcher-sock",
  disks: "/var/run/kubevirt-private/vmi-disks",
  kernelBoot: "/var/run/kubevirt/kernel-boot",
} as const;

export const diskPathOf = (volume: string): string => `${podPaths.disks}/${volume}/disk.img`;
/** Of a claim of mode Block. */
export const devicePathOf = (volume: string): string => `/dev/${volume}`;
export const emptyDiskPathOf = (volume: string): string => `${podPaths.libvirt}/empty-disks/${volume}.qcow2`;
/** What the guest writes to a containerDisk. */
export const overlayPathOf = (volume: string): string => `${podPaths.ephemeral}/disk-data/${volume}/disk.qcow2`;
/** The image underneath; it has the number of its volume. */
export const containerDiskPathOf = ({ volumes = [] }: VmiSpec, volume: string): string =>
  `${podPaths.containerDisks}/disk_${volumes.findIndex(({ name }) => name === volume)}.img`;
export const cloudInitPathOf = ({ metadata: { namespace, name } }: Vmi): string =>
  `${podPaths.ephemeral}/cloud-init-data/${namespace}/${name}/noCloud.iso`;

/** As the VMI's status says of the claim behind the volume. */
export function isBlockVolume({ status }: Vmi, volume: string): boolean {
  type Status = { readonly name: string; readonly persistentVolumeClaimInfo?: { readonly volumeMode?: string } };
  const statuses = (status?.["volumeStatus"] ?? []) as readonly Status[];
  return statuses.find(({ name }) => name === volume)?.persistentVolumeClaimInfo?.volumeMode === "Block";
}

const scale: Readonly<Record<string, number>> = {
  "": 1,
  ...{ k: 1e3, M: 1e6, G: 1e9, T: 1e12 },
  ...{ Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 },
};

/** Bytes of a Kubernetes quantity. */
export function parseQuantity(text: string): number {
  const match = /^([0-9]+(?:[.][0-9]+)?)([kMGT]|[KMGT]i)?$/.exec(text);
  if (match === null) {
    throw new RangeError(`${text} is no quantity of bytes`);
  }
  return Math.ceil(Number(match[1]) * (scale[match[2] ?? ""] ?? 1));
}

/** The guest's memory: its own field, else what it requests. */
export function readMemoryBytes({ domain }: VmiSpec): number {
  const given = domain.memory?.guest ?? domain.resources?.requests?.["memory"];
  return parseQuantity(given ?? "128Mi");
}

export function countVcpus({ domain: { cpu } }: VmiSpec): number {
  return (cpu?.sockets ?? 1) * (cpu?.cores ?? 1) * (cpu?.threads ?? 1);
}
