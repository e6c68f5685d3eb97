/** DataVolumes: a claim for each, and how far it is. */
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../../../src/kube/kube-object.ts";
import { type Caches } from "./controller.ts";
import { decideVolumePhase, planClaim, type DataVolume } from "./data-volumes.ts";

export class DataVolumeTurn {
  readonly #cluster: Cluster;
  readonly #caches: Caches;

  constructor(cluster: Cluster, caches: Caches) {
    this.#cluster = cluster;
    this.#caches = caches;
  }

  async take(): Promise<void> {
    for (const dataVolume of this.#caches.dataVolumes.list()) {
      if (dataVolume.metadata.deletionTimestamp === undefined) {
        await this.#takeOne(dataVolume);
      }
    }
  }

  async #takeOne(dataVolume: DataVolume): Promise<void> {
    const { namespace, name } = dataVolume.metadata;
    const claim = this.#caches.claims.get(`${namespace}/${name}`);
    const phase = decideVolumePhase(dataVolume, claim);
    if (phase !== dataVolume.status?.phase) {
      const status = { phase, claimName: name, progress: phase === "Succeeded" ? "100.0%" : "N/A" };
      const ref = { kind: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"), namespace, name };
      await this.#cluster.patch(ref, { status }, { subresource: "status" });
    }
    if (claim === undefined) {
      await this.#cluster.create(planClaim(dataVolume) as KubeObject);
    }
  }
}
