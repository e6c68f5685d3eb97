/** Nodes: virt-handler's labels and heartbeat on those that are Ready, and that it is missed on the others. */
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { kindOf } from "../../../../src/kube/kube-object.ts";
import { type Caches } from "./controller.ts";
import { type LauncherImage } from "./launcher-image.ts";
import { schedulableLabel } from "./launcher-pod.ts";
import { planMergePatch } from "./merge-patch.ts";
import { type Condition, type ObjectMeta } from "./vmi.ts";

export type LabNodeObject = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly status?: { readonly conditions?: readonly Condition[] };
};

const heartbeatAnnotation = "kubevirt.io/heartbeat";
const heartbeatMs = 60_000;
/** As long as virt-controller waits for a virt-handler. */
const silentMsMax = 300_000;

export class NodeTurn {
  readonly #cluster: Cluster;
  readonly #caches: Caches;
  readonly #labels: Readonly<Record<string, string>>;

  constructor(cluster: Cluster, caches: Caches, { machineTypes, cpuModels }: LauncherImage) {
    this.#cluster = cluster;
    this.#caches = caches;
    this.#labels = Object.fromEntries([
      ...machineTypes.map((name) => [`machine-type.node.kubevirt.io/${name}`, "true"] as const),
      ...cpuModels.map((name) => [`cpu-model.node.kubevirt.io/${name}`, "true"] as const),
    ]);
  }

  async take(): Promise<void> {
    for (const node of this.#caches.nodes.list()) {
      const patch = planMergePatch(node, { ...node, metadata: this.#planMetadata(node) });
      if (patch !== undefined) {
        await this.#cluster.patch({ kind: kindOf("v1", "Node"), name: node.metadata.name }, patch);
      }
    }
  }

  #planMetadata({ metadata, status }: LabNodeObject): ObjectMeta {
    const ready = status?.conditions?.find(({ type }) => type === "Ready");
    const heartbeat = metadata.annotations?.[heartbeatAnnotation];
    const ageMs = heartbeat === undefined ? Infinity : Date.now() - new Date(heartbeat).getTime();
    if (ready?.status !== "True") {
      const labels =
        ageMs > silentMsMax ? { ...metadata.labels, [schedulableLabel]: "false" } : (metadata.labels ?? {});
      return { ...metadata, labels };
    }
    const now = new Date().toISOString();
    const annotations =
      ageMs > heartbeatMs ? { ...metadata.annotations, [heartbeatAnnotation]: now } : (metadata.annotations ?? {});
    return { ...metadata, annotations, labels: { ...metadata.labels, ...this.#labels, [schedulableLabel]: "true" } };
  }
}
