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
};

export function buildProtectedGuest({ name, kind, address, placement }: GuestWish): KubeObject {
  const root = kind === "debian" ? "root=/dev/vda rw fsck.mode=skip net.ifnames=1" : "rdinit=/init";
  const source = kind === "debian" ? { http: { url: "lab://debian" } } : { blank: {} };
  const request = { requests: { storage: String(defaultDiskBytes[kind]) } };
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "ProtectedVM",
    metadata: { name, namespace: tenantNamespace },
    spec: {
      mode: "FaultTolerant",
      placement,
      virtualMachineTemplate: {
        spec: {
          dataVolumeTemplates: [
            { metadata: { name: `${name}-disk` }, spec: { source, storage: { resources: request } } },
          ],
          template: {
            spec: {
              terminationGracePeriodSeconds: 0,
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
        },
      },
      storage: { first: { storageClassName: "lab-local" }, second: { storageClassName: "lab-local" } },
    },
  } as KubeObject;
}
