/**
 * What the chart asks of the cluster, in a pod of its own:
 *
 *   node src/main/preflight.ts uninstall [--keep-by COMMAND]
 *                                                 before it is removed (hook pre-delete): fails while there is a ProtectedVM, and
 *                                                 says by which command Helm takes the chart for installed again
 *   node src/main/preflight.ts cleanup --namespace NAMESPACE --remove KIND/NAME...
 *                                                 after it was removed (hook post-delete): what its processes made there goes
 *   node src/main/preflight.ts installation --namespace NAMESPACE [--quorum-service NAME] [--quorum HOST:PORT]... [--patience-ms MS]
 *       --cert FILE --key FILE --ca FILE          `helm test`: operator and agents are ready, every replica of the quorum
 *                                                 answers this certificate and reaches its store
 *
 * Says what it found, a line each. Exit status 1: something is not as it should be, with the remedy; 2: the flags are wrong.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type EndpointSlice, listQuorumEndpoints } from "../decide/quorum-endpoints.ts";
import { Cluster } from "../kube/cluster.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { kindOf, type KubeObject, type ResourceKind } from "../kube/kube-object.ts";
import { Failure } from "../lib/failure.ts";
import { QUORUM_TIMING } from "../net/quorum-connection.ts";
import { QuorumLink } from "../net/quorum-link.ts";
import { TlsCredentials } from "../net/tls.ts";
import type { Endpoint } from "../protocol/assignment.ts";

const text = { type: "string" } as const;
const FLAGS = {
  namespace: text,
  "keep-by": text,
  remove: { type: "string", multiple: true },
  "quorum-service": text,
  quorum: { type: "string", multiple: true },
  cert: text,
  key: text,
  ca: text,
  kubeconfig: text,
  "patience-ms": text,
} as const;
type Flags = ReturnType<typeof readArguments>["values"];
type Finding = { readonly isGood: boolean; readonly says: string };
type Workload = KubeObject & {
  readonly status?: {
    readonly replicas?: number;
    readonly readyReplicas?: number;
    readonly desiredNumberScheduled?: number;
    readonly numberReady?: number;
  };
};

/** A rollout or an election may be on its way. */
const podsPatienceMs = 60_000;
const quorumPatienceMs = 15_000;

function readArguments() {
  return parseArgs({ options: FLAGS, allowPositionals: true, strict: true });
}

const openCluster = ({ kubeconfig }: Flags): Cluster =>
  kubeconfig === undefined ? Cluster.fromDefault() : Cluster.fromKubeconfig(kubeconfig);

async function checkUninstall(flags: Flags): Promise<Finding[]> {
  const cluster = openCluster(flags);
  const kind = kindOf("twinrun.dev/v1alpha1", "ProtectedVM");
  const items = await cluster.list<KubeObject>(kind).then(
    (list) => list.items,
    (error: unknown) => {
      if (hasKubeCode(error, "NotFound")) {
        return []; // The definition has gone, and every object with it.
      }
      throw error;
    },
  );
  if (items.length === 0) {
    return [{ isGood: true, says: "there is no ProtectedVM" }];
  }
  const names = items.map(({ metadata: { namespace = "", name } }) => `${namespace}/${name}`);
  const keepBy = flags["keep-by"];
  const remedy =
    "delete them first (kubectl delete protectedvms --all --namespace ...): adopted VirtualMachines run on, guests from a " +
    `template end${keepBy === undefined ? "" : `; to keep the chart instead: ${keepBy}`}`;
  return [
    {
      isGood: false,
      says: `ProtectedVMs are still there: ${names.slice(0, 5).join(", ")}${names.length > 5 ? ", ..." : ""}; ${remedy}`,
    },
  ];
}

const removableKinds: Readonly<Record<string, ResourceKind>> = {
  Secret: kindOf("v1", "Secret"),
  ConfigMap: kindOf("v1", "ConfigMap"),
  PersistentVolumeClaim: kindOf("v1", "PersistentVolumeClaim"),
  Lease: kindOf("coordination.k8s.io/v1", "Lease"),
};

/** What is not there is as good as removed. */
async function cleanUp(flags: Flags): Promise<Finding[]> {
  const { namespace, remove = [] } = flags;
  if (namespace === undefined) {
    throw new UsageFailure({ code: "BadFlag" }, "cleanup needs --namespace");
  }
  const cluster = openCluster(flags);
  const refs = remove.map((given) => {
    const [of = "", name = ""] = given.split("/");
    const kind = removableKinds[of];
    if (kind === undefined || name === "") {
      throw new UsageFailure(
        { code: "BadFlag" },
        `--remove ${given} is no KIND/NAME of ${Object.keys(removableKinds).join(", ")}`,
      );
    }
    return { kind, namespace, name };
  });
  for (const ref of refs) {
    await cluster.remove(ref);
  }
  return [{ isGood: true, says: `removed ${remove.join(", ")}` }];
}

async function checkInstallation(flags: Flags): Promise<Finding[]> {
  const { namespace, cert: certPath, key: keyPath, ca: caPath } = flags;
  if (namespace === undefined || certPath === undefined || keyPath === undefined || caPath === undefined) {
    throw new UsageFailure({ code: "BadFlag" }, "installation needs --namespace, --cert, --key and --ca");
  }
  const cluster = openCluster(flags);
  const patienceMs = Number(flags["patience-ms"] ?? podsPatienceMs);
  const [operator, agents] = await Promise.all([
    waitForPods(cluster, { namespace, kind: "Deployment", name: "twinrun-operator", patienceMs }),
    waitForPods(cluster, { namespace, kind: "DaemonSet", name: "twinrun-agent", patienceMs }),
  ]);
  const credentials = await TlsCredentials.open({ certPath, keyPath, caPath });
  const endpoints = await listEndpoints(cluster, namespace, flags);
  const quorum = await Promise.all(endpoints.map((endpoint) => askQuorum(endpoint, credentials)));
  credentials.close();
  const none = { isGood: false, says: "there is no replica of the quorum: look at the pods of twinrun-quorum" };
  return [operator, agents, ...(quorum.length > 0 ? quorum : [none])];
}

type WorkloadRef = {
  readonly patienceMs: number;
  readonly namespace: string;
  readonly kind: "Deployment" | "DaemonSet";
  readonly name: string;
};

async function waitForPods(cluster: Cluster, { namespace, kind, name, patienceMs }: WorkloadRef): Promise<Finding> {
  const startedAtMs = performance.now();
  for (;;) {
    const workload = await cluster.read<Workload>({ kind: kindOf("apps/v1", kind), namespace, name });
    const { wanted, ready } = countPods(workload?.status ?? {});
    const isGood = wanted > 0 && ready >= wanted;
    if (isGood || performance.now() - startedAtMs > patienceMs) {
      const remedy = isGood ? "" : `: kubectl describe pods --namespace ${namespace}`;
      return { isGood, says: `${kind} ${name}: ${ready} of ${wanted} pods are ready${remedy}` };
    }
    await sleep(1_000);
  }
}

/** What a Deployment and a DaemonSet call by different names. */
function countPods(status: NonNullable<Workload["status"]>): { readonly wanted: number; readonly ready: number } {
  const { replicas = 0, readyReplicas = 0, desiredNumberScheduled = replicas, numberReady = readyReplicas } = status;
  return { wanted: desiredNumberScheduled, ready: numberReady };
}

async function listEndpoints(cluster: Cluster, namespace: string, flags: Flags): Promise<Endpoint[]> {
  const given = (flags.quorum ?? []).map(parseEndpoint);
  const service = flags["quorum-service"];
  if (service === undefined) {
    return given;
  }
  const labelSelector = `kubernetes.io/service-name=${service}`;
  const scope = { namespace, labelSelector };
  const { items } = await cluster.list<KubeObject & EndpointSlice>(
    kindOf("discovery.k8s.io/v1", "EndpointSlice"),
    scope,
  );
  return [...listQuorumEndpoints(items), ...given];
}

function parseEndpoint(given: string): Endpoint {
  const match = /^\[?(.+?)\]?:([0-9]{1,5})$/.exec(given);
  if (match === null) {
    throw new UsageFailure({ code: "BadFlag" }, `--quorum ${given} is no HOST:PORT`);
  }
  return { host: match[1] ?? "", port: Number(match[2]) };
}

async function askQuorum(endpoint: Endpoint, credentials: TlsCredentials): Promise<Finding> {
  const link = new QuorumLink({ endpoint, credentials, timing: QUORUM_TIMING, onChanged: () => undefined });
  const startedAtMs = performance.now();
  while (!(link.isUp && link.isHealthy) && performance.now() - startedAtMs < quorumPatienceMs) {
    await sleep(100);
  }
  const { isUp, isHealthy, failure } = link;
  link.close();
  const where = `quorum ${endpoint.host}:${endpoint.port}`;
  if (!isUp) {
    return { isGood: false, says: `${where} does not answer: ${failure?.message ?? "no connection"}` };
  }
  const says = isHealthy ? `${where} answers, and so does its store` : `${where} answers, but does not reach its store`;
  return { isGood: isHealthy, says };
}

class UsageFailure extends Failure<{ readonly code: "BadFlag" }> {}

async function check(): Promise<Finding[]> {
  const { values, positionals } = readArguments();
  switch (positionals.join(" ")) {
    case "uninstall":
      return await checkUninstall(values);
    case "cleanup":
      return await cleanUp(values);
    case "installation":
      return await checkInstallation(values);
    default:
      throw new UsageFailure(
        { code: "BadFlag" },
        "usage: node src/main/preflight.ts uninstall | cleanup FLAG... | installation FLAG...",
      );
  }
}

function isUsage(error: unknown): boolean {
  const code = (error as { readonly code?: unknown } | null)?.code;
  return error instanceof UsageFailure || (typeof code === "string" && code.startsWith("ERR_PARSE_ARGS"));
}

try {
  const findings = await check();
  for (const { isGood, says } of findings) {
    process.stdout.write(`${isGood ? "good" : "WRONG"}: ${says}\n`);
  }
  process.exit(findings.every(({ isGood }) => isGood) ? 0 : 1);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(isUsage(error) ? 2 : 1);
}
