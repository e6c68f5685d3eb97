/** ProtectedVMs of the lab's guests, as a user writes them. */
import { ALLOW_RESTART_ANNOTATION } from "../../src/decide/adoption.ts";
import { type KubeObject } from "../../src/kube/kube-object.ts";
import { defaultDiskBytes, defaultOptions, type GuestKind } from "../lab/guests.ts";
import { containerDiskImage, kernelImageOf, kernelPaths } from "../lab/kubernetes/kubevirt/launcher-image.ts";
import { tenantNamespace } from "./platform.ts";

export type GuestWish = {
  readonly name: string;
  readonly kind: GuestKind;
  /** In the guests' network. */
  readonly address: string;
  readonly placement: object;
  /** How long KubeVirt gives the guest to shut down before it ends QEMU. */
  readonly graceSeconds?: number;
  /** `pod`: a containerDisk in place of a volume, with cloud-init and an emptyDisk beside it. */
  readonly disks?: "volume" | "pod";
  /** Of the volume's claim. */
  readonly volumeMode?: "Filesystem" | "Block";
  readonly detectionTimeoutMs?: number;
  readonly mode?: "FaultTolerant" | "HighAvailability";
  /** The serial line tells when the kernel starts; left out it is silent until the guest's services are there. */
  readonly isVerbose?: boolean;
  readonly group?: string;
  readonly order?: number;
};

/** As most KubeVirt guests in examples are. */
const podVolumes = [
  { name: "disk", containerDisk: { image: containerDiskImage } },
  { name: "scratch", emptyDisk: { capacity: "64Mi" } },
  { name: "settings", cloudInitNoCloud: { userData: "#cloud-config\n" } },
];

export function buildProtectedGuest(wish: GuestWish): KubeObject {
  return buildProtectedVm(wish, { virtualMachineTemplate: { spec: buildMachineSpec(wish) } });
}

function buildProtectedVm(
  { name, placement, mode = "FaultTolerant", detectionTimeoutMs, group, order = 0 }: ProtectionWish,
  source: object,
  marks: { readonly annotations?: Readonly<Record<string, string>> } = {},
): KubeObject {
  // They are hurt on purpose, and often.
  const failover = {
    isolateAfterFaults: 16,
    ...(detectionTimeoutMs === undefined ? {} : { detectionTimeoutMs }),
    ...(group === undefined ? {} : { group }),
  };
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "ProtectedVM",
    metadata: { name, namespace: tenantNamespace, ...marks },
    spec: { mode, placement, storage, failover, start: { order }, ...source },
  } as KubeObject;
}

export type ProtectionWish = Pick<GuestWish, "name" | "placement" | "mode" | "detectionTimeoutMs" | "group" | "order">;

/** Of a VirtualMachine that is there, which may be restarted for it. */
export function buildProtection(wish: ProtectionWish): KubeObject {
  const { name } = wish;
  return buildProtectedVm(
    wish,
    { virtualMachineRef: { name } },
    { annotations: { [ALLOW_RESTART_ANNOTATION]: "true" } },
  );
}

/** The same guest without Twinrun. */
export function buildMachine(wish: Omit<GuestWish, "placement">): KubeObject {
  return {
    apiVersion: "kubevirt.io/v1",
    kind: "VirtualMachine",
    metadata: { name: wish.name, namespace: tenantNamespace },
    spec: { runStrategy: "Always", ...buildMachineSpec(wish) },
  } as KubeObject;
}

const storage = { first: { storageClassName: "lab-local" }, second: { storageClassName: "lab-local" } };

function buildMachineSpec(wish: Omit<GuestWish, "placement">): object {
  const { name, kind, address, graceSeconds = 0, disks = "volume", isVerbose = false, volumeMode } = wish;
  const volumes = disks === "pod" ? podVolumes : [{ name: "disk", dataVolume: { name: `${name}-disk` } }];
  const root = kind === "debian" ? "root=/dev/vda rw fsck.mode=skip net.ifnames=1" : "rdinit=/init";
  const source = kind === "debian" ? { http: { url: "lab://debian" } } : { blank: {} };
  const request = { requests: { storage: String(defaultDiskBytes[kind]) } };
  return {
    dataVolumeTemplates: [
      {
        metadata: { name: `${name}-disk` },
        spec: { source, storage: { storageClassName: "lab-local", volumeMode, resources: request } },
      },
    ].slice(disks === "pod" ? 1 : 0),
    template: {
      spec: {
        terminationGracePeriodSeconds: graceSeconds,
        networks: [{ name: "lan", multus: { networkName: "lan" } }],
        volumes,
        domain: {
          memory: { guest: `${defaultOptions[kind].memoryMiB}Mi` },
          firmware: {
            kernelBoot: {
              container: { image: kernelImageOf(kind), ...kernelPaths },
              kernelArgs: `console=ttyS0 ${isVerbose ? "" : "quiet "}panic=1 random.trust_cpu=on ${root} twinrun.ip=${address}/24`,
            },
          },
          devices: {
            disks: volumes.map((volume) => ({ name: volume.name, disk: { bus: "virtio" } })),
            interfaces: [{ name: "lan", bridge: {} }],
            rng: {},
          },
        },
      },
    },
  };
}
