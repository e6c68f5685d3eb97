/** The virt-launcher pod of a VMI, as virt-controller of KubeVirt (1.6 and later, not root) makes it; pure. */
import {
  type HookSidecar,
  type OwnerReference,
  type Resources,
  type Vmi,
  type VmiVolume,
  containerDiskPathOf,
  countVcpus,
  devicePathOf,
  hookSidecarsAnnotation,
  parseQuantity,
  podPaths,
  readMemoryBytes,
} from "./vmi.ts";

export const schedulableLabel = "kubevirt.io/schedulable";
export const unpausedGate = "kubevirt.io/virtual-machine-unpaused";

type Mount = { readonly name: string; readonly mountPath: string; readonly subPath?: string; readonly readOnly?: true };

export type PodOptions = {
  readonly launcherImage: string;
  /** Ends the pod's name. */
  readonly suffix: string;
  /** Sidecars of network bindings, by the binding's name; they come after those of the annotation. */
  readonly bindingSidecars: ReadonlyMap<string, string>;
  /** Behind the VMI's volumes. */
  readonly claims: ReadonlyMap<string, { readonly volumeMode: string }>;
};

const user = 107;
const mib = 1024 * 1024;
/** More than KubeVirt adds: an emulating QEMU keeps what it translated, and the lab's launcher is a Node.js. */
const overheadMib = 400;

export function planLauncherPod(vmi: Vmi, options: PodOptions): object {
  const { metadata, spec } = vmi;
  const sidecars = listSidecars(vmi, options.bindingSidecars);
  const resources = planResources(vmi);
  const owner: OwnerReference = {
    ...{ apiVersion: vmi.apiVersion, kind: vmi.kind, name: metadata.name, uid: metadata.uid },
    ...{ controller: true, blockOwnerDeletion: true },
  };
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: `virt-launcher-${metadata.name}-${options.suffix}`,
      namespace: metadata.namespace,
      labels: {
        ...metadata.labels,
        "kubevirt.io": "virt-launcher",
        "kubevirt.io/created-by": metadata.uid,
        "vmi.kubevirt.io/id": metadata.name,
        "vm.kubevirt.io/name": spec.hostname ?? metadata.name,
      },
      annotations: { ...metadata.annotations, "kubevirt.io/domain": metadata.name },
      ownerReferences: [owner],
    },
    spec: {
      restartPolicy: "Never",
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      hostname: spec.hostname ?? metadata.name,
      terminationGracePeriodSeconds: (spec.terminationGracePeriodSeconds ?? 30) + 15,
      nodeSelector: { ...spec.nodeSelector, [schedulableLabel]: "true" },
      affinity: spec.affinity,
      tolerations: spec.tolerations,
      priorityClassName: spec.priorityClassName,
      readinessGates: [{ conditionType: unpausedGate }],
      securityContext: { runAsUser: user, runAsGroup: user, runAsNonRoot: true, fsGroup: user },
      initContainers: [
        ...planKernelBoot(vmi, isGuaranteed(resources)),
        ...planContainerDisks(vmi, isGuaranteed(resources)),
      ],
      containers: [
        planCompute(vmi, options, { sidecarCount: sidecars.length, resources }),
        ...sidecars.map((sidecar, index) => planSidecar(sidecar, index, isGuaranteed(resources))),
      ],
      volumes: planVolumes(vmi),
    },
  };
}

function listSidecars({ metadata, spec }: Vmi, bindings: PodOptions["bindingSidecars"]): HookSidecar[] {
  const annotated = metadata.annotations?.[hookSidecarsAnnotation];
  const names = (spec.domain.devices.interfaces ?? []).flatMap(({ binding }) =>
    binding === undefined ? [] : [binding.name],
  );
  return [
    ...(annotated === undefined ? [] : (JSON.parse(annotated) as HookSidecar[])),
    ...[...new Set(names)].flatMap((name) => {
      const image = bindings.get(name);
      return image === undefined ? [] : [{ image }];
    }),
  ];
}

/** A tenth of a processor for each of the guest's, unless told; limits where the VMI has them. */
function planResources({ spec }: Vmi): Resources {
  const given = spec.domain.resources;
  const memory = `${Math.ceil(readMemoryBytes(spec) / mib) + overheadMib}Mi`;
  const limit = given?.limits?.["memory"];
  const limits = {
    ...(given?.limits?.["cpu"] === undefined ? {} : { cpu: given.limits["cpu"] }),
    ...(limit === undefined ? {} : { memory: `${Math.ceil(parseQuantity(limit) / mib) + overheadMib}Mi` }),
  };
  return {
    requests: { cpu: given?.requests?.["cpu"] ?? limits.cpu ?? `${countVcpus(spec) * 100}m`, memory },
    ...(Object.keys(limits).length === 0 ? {} : { limits }),
  };
}

const isGuaranteed = ({ requests = {}, limits = {} }: Resources): boolean =>
  ["cpu", "memory"].every((name) => requests[name] !== undefined && requests[name] === limits[name]);

const dropAll = { runAsUser: user, runAsGroup: user, runAsNonRoot: true, allowPrivilegeEscalation: false };

type Compute = { readonly sidecarCount: number; readonly resources: Resources };

function planCompute(vmi: Vmi, { launcherImage, claims }: PodOptions, { sidecarCount, resources }: Compute): object {
  const { name, namespace, uid } = vmi.metadata;
  const volumes = vmi.spec.volumes ?? [];
  const isBlock = (volume: VmiVolume): boolean => claims.get(volume.name)?.volumeMode === "Block";
  return {
    name: "compute",
    image: launcherImage,
    imagePullPolicy: "IfNotPresent",
    command: ["/usr/bin/virt-launcher-monitor"],
    args: [
      ...["--qemu-timeout", "240", "--name", name, "--uid", uid, "--namespace", namespace],
      ...["--hook-sidecars", String(sidecarCount)],
    ],
    resources,
    securityContext: { ...dropAll, privileged: false, capabilities: { add: ["NET_BIND_SERVICE"], drop: ["ALL"] } },
    volumeMounts: [
      ...planBaseMounts(),
      ...(sidecarCount === 0 ? [] : [{ name: "hook-sidecar-sockets", mountPath: podPaths.hooks }]),
      ...(hasKernelBoot(vmi) ? [{ name: "kernel-boot", mountPath: podPaths.kernelBoot }] : []),
      ...volumes.filter((volume) => !isBlock(volume)).flatMap(planDiskMounts),
    ],
    volumeDevices: volumes.filter(isBlock).map((volume) => ({
      ...{ name: volume.name, devicePath: devicePathOf(volume.name) },
    })),
  };
}

const planBaseMounts = (): Mount[] => [
  { name: "private", mountPath: podPaths.private },
  { name: "public", mountPath: podPaths.share },
  { name: "ephemeral-disks", mountPath: podPaths.ephemeral },
  { name: "container-disks", mountPath: podPaths.containerDisks },
  { name: "libvirt-runtime", mountPath: podPaths.libvirt },
  { name: "sockets", mountPath: `${podPaths.share}/sockets` },
];

function planDiskMounts({ name, persistentVolumeClaim, dataVolume, cloudInitNoCloud }: VmiVolume): Mount[] {
  if (persistentVolumeClaim !== undefined || dataVolume !== undefined) {
    return [{ name, mountPath: `${podPaths.disks}/${name}` }];
  }
  return cloudInitNoCloud?.secretRef === undefined
    ? []
    : [{ name, mountPath: `${podPaths.private}/secret/${name}`, readOnly: true }];
}

function planSidecar(sidecar: HookSidecar, index: number, isLimited: boolean): object {
  const name = `hook-sidecar-${index}`;
  const limits = { cpu: "200m", memory: "64M" };
  return {
    name,
    image: sidecar.image,
    imagePullPolicy: sidecar.imagePullPolicy ?? "IfNotPresent",
    command: sidecar.command,
    args: sidecar.args,
    env: [{ name: "CONTAINER_NAME", value: name }],
    resources: isLimited ? { limits, requests: limits } : {},
    securityContext: { ...dropAll, privileged: false, capabilities: { drop: ["ALL"] } },
    volumeMounts: [{ name: "hook-sidecar-sockets", mountPath: podPaths.hooks, subPath: name }],
  };
}

const hasKernelBoot = ({ spec }: Vmi): boolean => spec.domain.firmware?.kernelBoot?.container !== undefined;

/** KubeVirt has a program of its own in there; the lab's images have busybox. */
function planKernelBoot({ spec }: Vmi, isLimited: boolean): object[] {
  const limits = { cpu: "100m", memory: "64M" };
  const container = spec.domain.firmware?.kernelBoot?.container;
  if (container === undefined) {
    return [];
  }
  const copies = Object.entries({ kernel: container.kernelPath, initrd: container.initrdPath }).flatMap(
    ([name, path]) => (path === undefined ? [] : [`/bin/busybox cp ${path} ${podPaths.kernelBoot}/${name}`]),
  );
  return [
    {
      name: "volumecontainerkernelboot",
      image: container.image,
      imagePullPolicy: container.imagePullPolicy ?? "IfNotPresent",
      command: ["/bin/busybox", "sh", "-ec", copies.join("; ")],
      resources: isLimited ? { limits, requests: limits } : {},
      securityContext: { ...dropAll, capabilities: { drop: ["ALL"] } },
      volumeMounts: [{ name: "kernel-boot", mountPath: podPaths.kernelBoot }],
    },
  ];
}

/** KubeVirt mounts the image's file where the launcher looks for it; the lab copies it. There is one in /disk. */
function planContainerDisks({ spec }: Vmi, isLimited: boolean): object[] {
  const limits = { cpu: "100m", memory: "64M" };
  return (spec.volumes ?? []).flatMap(({ name, containerDisk }) =>
    containerDisk === undefined
      ? []
      : [
          {
            name: `volume${name}`,
            image: containerDisk.image,
            imagePullPolicy: containerDisk.imagePullPolicy ?? "IfNotPresent",
            command: ["/bin/busybox", "sh", "-ec", `/bin/busybox cp /disk/* ${containerDiskPathOf(spec, name)}`],
            resources: isLimited ? { limits, requests: limits } : {},
            securityContext: { ...dropAll, capabilities: { drop: ["ALL"] } },
            volumeMounts: [{ name: "container-disks", mountPath: podPaths.containerDisks }],
          },
        ],
  );
}

function planVolumes(vmi: Vmi): object[] {
  const empty = [
    "private",
    "public",
    "sockets",
    "ephemeral-disks",
    "container-disks",
    "libvirt-runtime",
    "hook-sidecar-sockets",
  ];
  return [
    ...[...empty, ...(hasKernelBoot(vmi) ? ["kernel-boot"] : [])].map((name) => ({ name, emptyDir: {} })),
    ...(vmi.spec.volumes ?? []).flatMap(planVolume),
  ];
}

function planVolume({ name, persistentVolumeClaim, dataVolume, cloudInitNoCloud }: VmiVolume): object[] {
  const claimName = persistentVolumeClaim?.claimName ?? dataVolume?.name;
  const secretName = cloudInitNoCloud?.secretRef?.name;
  if (claimName !== undefined) {
    return [{ name, persistentVolumeClaim: { claimName } }];
  }
  return secretName === undefined ? [] : [{ name, secret: { secretName } }];
}
