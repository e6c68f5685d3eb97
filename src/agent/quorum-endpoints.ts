/**
 * Follows the quorum's replicas by the EndpointSlices of their Service, and remembers the last list on the disk: an agent that
 * starts while the API server is away asks where the quorum was last. A list without anybody replaces nothing, for somebody
 * who might answer is better than nobody.
 */
import { listQuorumEndpoints, type EndpointSlice } from "../decide/quorum-endpoints.ts";
import { kindOf, type KubeObject } from "../kube/kube-object.ts";
import { Reflector, type ReflectorTiming, type Watchable } from "../kube/reflector.ts";
import { type Endpoint } from "../protocol/assignment.ts";
import { type Log } from "../telemetry/log.ts";
import { readStateFile, writeStateFile } from "./state-file.ts";

export type QuorumEndpointsOptions = {
  readonly namespace: string;
  readonly service: string;
  /** Kept over the agent's life. */
  readonly statePath: string;
  /** Called with the list from the disk at once, if there is one, and with every other one. */
  readonly onChanged: (endpoints: readonly Endpoint[]) => void;
  readonly log: Log;
  readonly timing?: Partial<ReflectorTiming> | undefined;
};

type SliceObject = KubeObject & EndpointSlice;

/** Changes come in several events; one list is made of what comes within this. */
const settleMs = 100;

export class QuorumEndpoints {
  readonly #options: QuorumEndpointsOptions;
  readonly #reflector: Reflector<SliceObject, EndpointSlice>;
  #endpoints: readonly Endpoint[] = [];
  #settling: NodeJS.Timeout | undefined;

  constructor(cluster: Watchable, options: QuorumEndpointsOptions) {
    const { namespace, service, log, timing } = options;
    this.#options = options;
    this.#reflector = new Reflector<SliceObject, EndpointSlice>({
      cluster,
      kind: kindOf("discovery.k8s.io/v1", "EndpointSlice"),
      scope: { namespace, labelSelector: `kubernetes.io/service-name=${service}` },
      keep: ({ addressType, endpoints, ports }) => ({
        ...(addressType === undefined ? {} : { addressType }),
        endpoints: endpoints ?? [],
        ports: ports ?? [],
      }),
      log,
      timing,
    });
    this.#reflector.onChange(() => {
      this.#settling ??= setTimeout(() => {
        this.#settling = undefined;
        this.#take(listQuorumEndpoints(this.#reflector.list()));
      }, settleMs);
    });
  }

  /** The last list that had somebody in it. */
  get endpoints(): readonly Endpoint[] {
    return this.#endpoints;
  }

  start(): void {
    const remembered = parseEndpoints(readStateFile(this.#options.statePath));
    if (remembered.length > 0) {
      this.#endpoints = remembered;
      this.#options.onChanged(remembered);
    }
    this.#reflector.start();
  }

  async stop(): Promise<void> {
    clearTimeout(this.#settling);
    await this.#reflector.stop();
  }

  #take(endpoints: readonly Endpoint[]): void {
    const { statePath, onChanged, log, service } = this.#options;
    if (endpoints.length === 0) {
      log.warn({ service }, "the quorum's Service has no replica; those of the last list are asked");
      return;
    }
    if (JSON.stringify(endpoints) === JSON.stringify(this.#endpoints)) {
      return;
    }
    this.#endpoints = endpoints;
    log.info({ endpoints }, "the quorum's replicas");
    try {
      writeStateFile(statePath, endpoints);
    } catch (error) {
      log.warn({ error }, "the list of the quorum's replicas cannot be kept on the disk");
    }
    onChanged(endpoints);
  }
}

/** Only what we wrote ourselves; anything else counts as nothing. */
function parseEndpoints(value: unknown): readonly Endpoint[] {
  const isEndpoint = (item: unknown): item is Endpoint => {
    const { host, port } = (item ?? {}) as Partial<Record<keyof Endpoint, unknown>>;
    return typeof host === "string" && host !== "" && typeof port === "number" && Number.isInteger(port);
  };
  return Array.isArray(value) ? value.filter(isEndpoint) : [];
}
