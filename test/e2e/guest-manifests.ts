/** ProtectedVMs of the lab's guests, as a user writes them. */
import { type KubeObject } from "../../src/kube/kube-object.ts";
import { defaultDiskBytes, defaultOptions, type GuestKind } from "../lab/guests.ts";
import { kernelImageOf, kernelPaths } from "../lab/kubernetes/kubevirt/launcher-image.ts";
import { tenantNamespace } from "./platform.ts";

export type GuestWish = {
  readonly name: string;
  readonly kind: GuestKind;
  /** In the guests' network. */
  readonly address: string;
  readonly placement: object;
  /** How long KubeVirt gives the guest to shut down before it ends QEMU. */
  readonly graceSeconds?: number;
};

export function buildProtectedGuest(wish: GuestWish): KubeObject {
  const { name, placement } = wish;
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "ProtectedVM",
    metadata: { name, namespace: tenantNamespace },
    spec: { mode: "FaultTolerant", placement, virtualMachineTemplate: { spec: buildMachineSpec(wish) }, storage },
  } as KubeObject;
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

function buildMachineSpec({ name, kind, address, graceSeconds = 0 }: Omit<GuestWish, "placement">): object {
  const root = kind === "debian" ? "root=/dev/vda rw fsck.mode=skip net.ifnames=1" : "rdinit=/init";
  const source = kind === "debian" ? { http: { url: "lab://debian" } } : { blank: {} };
  const request = { requests: { storage: String(defaultDiskBytes[kind]) } };
  return {
    dataVolumeTemplates: [
      {
        metadata: { name: `${name}-disk` },
        spec: { source, storage: { storageClassName: "lab-local", resources: request } },
      },
    ],
    template: {
      spec: {
        terminationGracePeriodSeconds: graceSeconds,
        networks: [{ name: "lan", multus: { networkName: "lan" } }],
        volumes: [{ name: "disk", dataVolume: { name: `${name}-disk` } }],
        domain: {
          memory: { guest: `${defaultOptions[kind].memoryMiB}Mi` },
          firmware: {
            kernelBoot: {
              container: { image: kernelImageOf(kind), ...kernelPaths },
              kernelArgs: `console=ttyS0 quiet panic=1 random.trust_cpu=on ${root} twinrun.ip=${address}/24`,
            },
          },
          devices: {
            disks: [{ name: "disk", disk: { bus: "virtio" } }],
            interfaces: [{ name: "lan", bridge: {} }],
            rng: {},
          },
        },
      },
    },
  };
}
