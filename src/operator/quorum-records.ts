/**
 * Takes the records of guests that are gone out of the quorum, where its store is not the API server. A connection is made for
 * each: guests do not end often, and an operator is not needed for anything else of the quorum's.
 */
import { type EndpointSlice, listQuorumEndpoints, type QuorumAddress } from "../decide/quorum-endpoints.ts";
import { type Cluster } from "../kube/cluster.ts";
import { kindOf, type KubeObject } from "../kube/kube-object.ts";
import { QuorumConnection } from "../net/quorum-connection.ts";
import { type TlsCredentials } from "../net/tls.ts";

export type QuorumRecordsOptions = {
  readonly cluster: Pick<Cluster, "list">;
  /** Of the installation's quorum; neither Service nor endpoints where its records are Leases. */
  readonly namespace: string;
  readonly service: string | undefined;
  /** Replicas outside the cluster. */
  readonly endpoints: readonly QuorumAddress[];
  /** The operator's own; may take a while to come. */
  readonly openCredentials: () => Promise<TlsCredentials>;
};

export class QuorumRecords {
  readonly #options: QuorumRecordsOptions;

  constructor(options: QuorumRecordsOptions) {
    this.#options = options;
  }

  /** Then the API server is to be asked. */
  get isInLeases(): boolean {
    const { service, endpoints } = this.#options;
    return service === undefined && endpoints.length === 0;
  }

  /** Throws a QuorumFailure while no quorum answers. */
  async remove(guest: string, replicas?: readonly QuorumAddress[]): Promise<void> {
    const endpoints = replicas ?? (await this.#listReplicas());
    const connection = new QuorumConnection({ endpoints, credentials: await this.#options.openCredentials() });
    try {
      await connection.remove(guest);
    } finally {
      connection.close();
    }
  }

  /** By address: a cluster may have no DNS. */
  async #listReplicas(): Promise<readonly QuorumAddress[]> {
    const { cluster, namespace, service, endpoints } = this.#options;
    if (service === undefined) {
      return endpoints;
    }
    const scope = { namespace, labelSelector: `kubernetes.io/service-name=${service}` };
    const slices = kindOf("discovery.k8s.io/v1", "EndpointSlice");
    const { items } = await cluster.list<KubeObject & EndpointSlice>(slices, scope);
    return [...listQuorumEndpoints(items), ...endpoints];
  }
}
