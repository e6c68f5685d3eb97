/**
 * The certificates of an installation: Twinrun's authority and what it issues, the authority of the chart's etcd where there is
 * one, and the nodes' certificates by request. For the leading operator alone; may end and begin at any moment.
 *
 *   Secret twinrun-ca             the authority with its key: only the operator may read it
 *   ConfigMap twinrun-ca          what everybody trusts (ca.crt), the signing authority first
 *   Secret twinrun-quorum-tls     for the quorum's replicas
 *   Secret twinrun-operator-tls   for the operator and what else of the installation asks agents
 *   Secret twinrun-metrics-tls    for whoever reads figures, such as a Prometheus
 *
 *   Secret twinrun-etcd-ca, twinrun-etcd-tls, twinrun-etcd-client-tls      the same for etcd, whose authority signs nothing else,
 *                                 so that a node's certificate opens no etcd. It is not rotated: etcd reads it only at its start.
 */
import { type Cluster } from "../../kube/cluster.ts";
import { kindOf, type KubeObject } from "../../kube/kube-object.ts";
import { type Log } from "../../telemetry/log.ts";
import { AuthorityKeeper, type CertificateTiming, type LeafSecret } from "./authority-keeper.ts";
import { NodeRequests } from "./node-requests.ts";

export type CertificatesOptions = {
  /** The namespace of the installation. */
  readonly namespace: string;
  /** The name of the agents' service account in that namespace. */
  readonly agentAccount?: string | undefined;
  /** Whether the authorities are made and renewed by cert-manager, and not here. */
  readonly isOfCertManager?: boolean | undefined;
  readonly log: Log;
  readonly timing?: Partial<CertificateTiming & { readonly checkEveryMs: number }> | undefined;
  readonly nowMs?: (() => number) | undefined;
};

export type CertificatesCluster = Pick<
  Cluster,
  "read" | "create" | "replace" | "apply" | "list" | "listPages" | "watch" | "putSubresource"
>;

export type Certificates = {
  /** Looks after them now; runs by itself every minute. Rejects when something could not be done. */
  keep(): Promise<void>;
  stop(): Promise<void>;
};

export const CA_NAME = "twinrun-ca";
export const AGENT_ACCOUNT = "twinrun-agent";

const dayMs = 86_400_000;
const defaultTiming = {
  authorityMs: 3_650 * dayMs,
  /** A month may pass without an operator before the first certificate ends. */
  leafMs: 90 * dayMs,
  /** Agents look for the bundle every few minutes; a node may be down for most of a day. */
  announceMs: dayMs,
  checkEveryMs: 60_000,
} as const;
const etcdAuthorityMs = 20 * 365 * dayMs;
const retryAfterMs = 5_000;

const leaves: readonly LeafSecret[] = [
  { secret: "twinrun-quorum-tls", identity: { service: "quorum", name: "twinrun" } },
  { secret: "twinrun-operator-tls", identity: { service: "operator", name: "twinrun" } },
  { secret: "twinrun-metrics-tls", identity: { service: "monitor", name: "twinrun" } },
];

export function startCertificates(cluster: CertificatesCluster, options: CertificatesOptions): Certificates {
  const { namespace, log, nowMs = Date.now, agentAccount = AGENT_ACCOUNT, isOfCertManager } = options;
  const timing = { ...defaultTiming, ...options.timing };
  const shared = { namespace, nowMs, log, isOfCertManager };
  const own = new AuthorityKeeper(cluster, { ...shared, secret: CA_NAME, configMap: CA_NAME, timing });
  // Published nowhere, so no successor ever begins to sign.
  const etcdTiming = { ...timing, authorityMs: etcdAuthorityMs };
  const ofEtcd = new AuthorityKeeper(cluster, { ...shared, secret: "twinrun-etcd-ca", timing: etcdTiming });
  const requests = new NodeRequests(cluster, {
    rules: {
      agentUser: `system:serviceaccount:${namespace}:${agentAccount}`,
      secondsMax: Math.round(timing.leafMs / 1_000),
    },
    readAuthority: async () => (await own.read())?.current,
    log,
  });
  const keep = async (): Promise<void> => {
    await own.keep(leaves);
    const etcdHosts = await listEtcdHosts(cluster, namespace);
    if (etcdHosts.length > 0) {
      await ofEtcd.keep(listEtcdLeaves(etcdHosts));
    }
  };
  const loop = new KeepLoop(keep, timing.checkEveryMs, log);
  requests.start();
  return {
    keep: () => loop.keep(),
    stop: async () => {
      await Promise.all([loop.stop(), requests.stop()]);
    },
  };
}

type ServiceObject = KubeObject & { readonly spec?: { readonly clusterIP?: string } };

/** Members are called by their Services' addresses. */
async function listEtcdHosts(cluster: CertificatesCluster, namespace: string): Promise<string[]> {
  const labelSelector = "app.kubernetes.io/name=twinrun,app.kubernetes.io/component=etcd";
  const { items } = await cluster.list<ServiceObject>(kindOf("v1", "Service"), { namespace, labelSelector });
  const hosts = items.flatMap(({ metadata: { name }, spec }) => {
    const address = spec?.clusterIP;
    const hasAddress = address !== undefined && address !== "" && address !== "None";
    return [`${name}.${namespace}.svc`, ...(hasAddress ? [address] : [])];
  });
  return hosts.sort();
}

const listEtcdLeaves = (hosts: readonly string[]): readonly LeafSecret[] => [
  { secret: "twinrun-etcd-tls", identity: { service: "quorum", name: "etcd" }, hosts },
  { secret: "twinrun-etcd-client-tls", identity: { service: "quorum", name: "etcd-client" } },
];

/** Now, every minute, and soon after a failure; never twice at once. */
class KeepLoop {
  readonly #act: () => Promise<void>;
  readonly #everyMs: number;
  readonly #log: Log;
  #running: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(act: () => Promise<void>, everyMs: number, log: Log) {
    this.#act = act;
    this.#everyMs = everyMs;
    this.#log = log;
    void this.#turn();
  }

  keep(): Promise<void> {
    const next = this.#running.catch(() => undefined).then(() => (this.#isStopped ? undefined : this.#act()));
    this.#running = next;
    return next;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearTimeout(this.#timer);
    await this.#running.catch(() => undefined);
  }

  async #turn(): Promise<void> {
    let pauseMs = this.#everyMs;
    try {
      await this.keep();
    } catch (error) {
      this.#log.error({ error }, "certificates cannot be looked after");
      pauseMs = Math.min(retryAfterMs, pauseMs);
    }
    if (!this.#isStopped) {
      this.#timer = setTimeout(() => void this.#turn(), pauseMs);
    }
  }
}
