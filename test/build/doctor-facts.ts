/** What doctor looks at, for tests: a cluster in which nothing is wrong; each test spreads one difference. */
import { customResources } from "../../src/api/custom-resources.ts";
import { type ClusterFacts, type GuestFacts } from "../../src/cli/facts.ts";
import {
  known,
  type KubeObject,
  type KubeVirt,
  type Node,
  type Pod,
  type Workload,
} from "../../src/cli/kube-objects.ts";
import { buildShownVm, nowMs } from "./shown-vms.ts";

const day = 86_400_000;
type Labels = Readonly<Record<string, string>>;

export function buildNode(
  name: string,
  difference: {
    readonly labels?: Labels;
    readonly annotations?: Labels;
    readonly kernel?: string;
    readonly ready?: string;
  } = {},
): Node {
  return {
    ...{ apiVersion: "v1", kind: "Node" },
    metadata: {
      name,
      labels: {
        "kubevirt.io/schedulable": "true",
        "machine-type.node.kubevirt.io/q35": "true",
        "machine-type.node.kubevirt.io/pc-q35-rhel9.6.0": "true",
        "cpu-model.node.kubevirt.io/Skylake-Client": "true",
        ...difference.labels,
      },
      annotations: { "twinrun.dev/replication-links": "ring=192.0.2.1,lan=198.51.100.1", ...difference.annotations },
    },
    status: {
      conditions: [{ type: "Ready", status: difference.ready ?? "True" }],
      nodeInfo: { kernelVersion: difference.kernel ?? "6.12.0-arch" },
      addresses: [{ type: "InternalIP", address: "10.0.0.1" }],
    },
  };
}

export function buildPod(component: string, node: string, ready = "True"): Pod {
  return {
    ...{ apiVersion: "v1", kind: "Pod" },
    metadata: {
      name: `twinrun-${component}-${node}`,
      namespace: "twinrun",
      labels: { "app.kubernetes.io/component": component },
    },
    spec: { nodeName: node },
    status: { conditions: [{ type: "Ready", status: ready }] },
  };
}

export function buildWorkload(
  component: string,
  difference: Partial<Workload> & { readonly args?: readonly string[] } = {},
): Workload {
  const { args = [], ...rest } = difference;
  return {
    ...{ apiVersion: "apps/v1", kind: "Deployment" },
    metadata: {
      ...{ name: `twinrun-${component}`, namespace: "twinrun" },
      labels: { "app.kubernetes.io/component": component, "app.kubernetes.io/version": "0.1.0" },
    },
    spec: { replicas: 3, template: { spec: { containers: [{ name: component, args }] } } },
    status: { readyReplicas: 3, numberReady: 3, desiredNumberScheduled: 3 },
    ...rest,
  };
}

export const calmWorkloads: readonly Workload[] = [
  buildWorkload("operator", { args: ["operator", "--hook-mode=Sidecar"] }),
  buildWorkload("quorum", { args: ["quorum", "--store=etcd:https://etcd-0:2379"] }),
  buildWorkload("etcd", { kind: "StatefulSet" }),
  buildWorkload("agent", { kind: "DaemonSet" }),
];

export const calmKubeVirt: KubeVirt = {
  ...{ apiVersion: "kubevirt.io/v1", kind: "KubeVirt", metadata: { name: "kubevirt", namespace: "kubevirt" } },
  spec: { configuration: { developerConfiguration: { featureGates: ["Sidecar"] } } },
  status: { observedKubeVirtVersion: "v1.9.0", phase: "Deployed" },
};

export const buildObject = (kind: string, name: string, annotations: Labels = {}): KubeObject => ({
  ...{ apiVersion: "v1", kind, metadata: { name, annotations } },
});

export function buildClusterFacts(difference: Partial<ClusterFacts> = {}): ClusterFacts {
  const nodes = ["node-a", "node-b", "node-c"];
  return {
    ...{ nowMs, ownVersion: "0.1.0", systemNamespace: "twinrun" },
    kubernetesVersion: known("v1.34.4"),
    resources: known(new Set(customResources.map(({ plural }) => `${plural}.twinrun.dev`))),
    kubevirts: known([calmKubeVirt]),
    workloads: known(calmWorkloads),
    pods: known(nodes.flatMap((node) => [buildPod("agent", node), buildPod("quorum", node)])),
    nodes: known(nodes.map((node) => buildNode(node))),
    storageClasses: known([
      buildObject("StorageClass", "local", { "storageclass.kubernetes.io/is-default-class": "true" }),
    ]),
    certificates: known([
      { name: "twinrun-ca/ca.crt", validFromMs: nowMs - 100 * day, validUntilMs: nowMs + 265 * day },
    ]),
    guestsNamespace: known(buildObject("Namespace", "twinrun-guests")),
    hasMacPool: known(false),
    ...difference,
  };
}

export function buildGuestFacts(difference: Partial<GuestFacts> = {}): GuestFacts {
  return {
    vm: buildShownVm(),
    virtualMachine: known({
      ...{ apiVersion: "kubevirt.io/v1", kind: "VirtualMachine", metadata: { name: "web", namespace: "shop" } },
      spec: {
        runStrategy: "Manual",
        template: {
          spec: {
            domain: { devices: { interfaces: [{ name: "lan", bridge: {} }] } },
            networks: [{ name: "lan", multus: { networkName: "lan" } }],
            volumes: [{ name: "system", persistentVolumeClaim: { claimName: "web-system" } }],
          },
        },
      },
    }),
    vmis: known([]),
    launchers: known([]),
    pair: { tag: "absent" },
    volumes: known(new Set(["web-system"])),
    networks: known(new Set(["shop/lan"])),
    ...difference,
  };
}
