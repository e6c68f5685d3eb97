/** VirtualMachines: their instances and volumes come and go by the run strategy. */
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../../../src/kube/kube-object.ts";
import { type Caches } from "./controller.ts";
import { planMergePatch } from "./merge-patch.ts";
import { planInstance, planVm, planVmStatus, type Vm } from "./vm-plan.ts";
import { type Vmi } from "./vmi.ts";

export class VmTurn {
  readonly #cluster: Cluster;
  readonly #caches: Caches;

  constructor(cluster: Cluster, caches: Caches) {
    this.#cluster = cluster;
    this.#caches = caches;
  }

  async take(): Promise<void> {
    for (const vm of this.#caches.vms.list()) {
      if (vm.metadata.deletionTimestamp === undefined) {
        await this.#takeOne(vm);
      }
    }
  }

  async #takeOne(vm: Vm): Promise<void> {
    const { namespace, name, uid } = vm.metadata;
    const found = this.#caches.vmis.get(`${namespace}/${name}`);
    const vmi = found?.metadata.ownerReferences?.some((owner) => owner.uid === uid) === true ? found : undefined;
    await this.#createVolumes(vm);
    const { action, requests } = planVm(vm, vmi);
    const patch = planMergePatch({ status: vm.status }, { status: planVmStatus(vm, vmi, requests) });
    if (patch !== undefined) {
      const ref = { kind: kindOf("kubevirt.io/v1", "VirtualMachine"), namespace, name };
      await this.#cluster.patch(ref, patch, { subresource: "status" });
    }
    await this.#act(action, vm, vmi);
  }

  async #act(action: ReturnType<typeof planVm>["action"], vm: Vm, vmi: Vmi | undefined): Promise<void> {
    if (action === "createVmi") {
      await this.#cluster.create(planInstance(vm) as KubeObject);
    } else if (action === "removeVmi" && vmi !== undefined && vmi.metadata.deletionTimestamp === undefined) {
      const { namespace, name, uid } = vmi.metadata;
      await this.#cluster.remove(
        { kind: kindOf("kubevirt.io/v1", "VirtualMachineInstance"), namespace, name },
        { uid },
      );
    }
  }

  async #createVolumes({ apiVersion, kind, metadata, spec }: Vm): Promise<void> {
    for (const template of spec.dataVolumeTemplates ?? []) {
      const key = `${metadata.namespace}/${template.metadata.name ?? ""}`;
      if (this.#caches.dataVolumes.get(key) === undefined) {
        const { name, uid } = metadata;
        const ownerReferences = [{ apiVersion, kind, name, uid, controller: true, blockOwnerDeletion: true }];
        await this.#cluster.create({
          apiVersion: "cdi.kubevirt.io/v1beta1",
          kind: "DataVolume",
          metadata: { ...template.metadata, namespace: metadata.namespace, ownerReferences },
          spec: template.spec,
        } as unknown as KubeObject);
      }
    }
  }
}
