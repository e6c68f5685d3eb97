/** A node that exists in the API server only: KubeVirt could start guests on it, and Twinrun's agent there is well. */
import { type Cluster } from "../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { type Json } from "../../src/lib/json-merge.ts";

export type PlayedNode = {
  readonly name: string;
  readonly address: string;
  readonly memory: string;
  /** Where Twinrun is installed. */
  readonly namespace: string;
};

export async function addNode(cluster: Cluster, { name, address, memory, namespace }: PlayedNode): Promise<void> {
  const labels = {
    "kubernetes.io/hostname": name,
    "kubevirt.io/schedulable": "true",
    "cpu-model.node.kubevirt.io/Haswell": "true",
    "machine-type.node.kubevirt.io/pc-q35-rhel9.6.0": "true",
  };
  await cluster.create({ apiVersion: "v1", kind: "Node", metadata: { name, labels } });
  const conditions = [{ type: "Ready", status: "True", lastTransitionTime: new Date().toISOString() }];
  const node = { kind: kindOf("v1", "Node"), name };
  await cluster.patch(node, { spec: { taints: [] } });
  const addresses = [{ type: "InternalIP", address }];
  await cluster.patch(node, { status: { conditions, addresses, allocatable: { memory } } }, { subresource: "status" });
  const pod: KubeObject & { spec: Json } = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `agent-${name}`, namespace, labels: { "app.kubernetes.io/component": "agent" } },
    spec: { nodeName: name, containers: [{ name: "agent", image: "twinrun/agent" }] },
  };
  await cluster.create(pod);
  const agent = { kind: kindOf("v1", "Pod"), namespace, name: pod.metadata.name };
  await cluster.patch(agent, { status: { conditions } }, { subresource: "status" });
}
