/** Replaces the members of the chart's etcd one after the other when their StatefulSets changed. For the leading operator alone. */
import { findCondition, isGoing, type Pod } from "../decide/cluster-objects.ts";
import { chooseOutdatedMember, type EtcdMember, type EtcdPod } from "../decide/etcd-roll.ts";
import { type Cluster } from "../kube/cluster.ts";
import { kindOf, type KubeObject } from "../kube/kube-object.ts";
import { type Log } from "../telemetry/log.ts";
import { sleep } from "../telemetry/sleep.ts";
import { kinds } from "./object-caches.ts";

export type EtcdRollerOptions = {
  readonly cluster: Pick<Cluster, "list" | "createSubresource">;
  readonly namespace: string;
  readonly log: Log;
  readonly signal: AbortSignal;
  readonly checkEveryMs?: number;
};

type StatefulSet = KubeObject & {
  readonly status?: { readonly observedGeneration?: number; readonly updateRevision?: string };
};

const labelSelector = "app.kubernetes.io/name=twinrun,app.kubernetes.io/component=etcd";
const memberLabel = "twinrun.dev/etcd-member";
const revisionLabel = "controller-revision-hash";
const checkEveryMsByDefault = 10_000;

/** Runs until the signal is aborted; never rejects. */
export async function keepRollingEtcd(options: EtcdRollerOptions): Promise<void> {
  const { log, signal, checkEveryMs = checkEveryMsByDefault } = options;
  while (!signal.aborted) {
    await rollEtcd(options).catch((error: unknown) => {
      log.warn({ error }, "members of etcd cannot be looked after now");
    });
    await sleep(checkEveryMs, signal);
  }
}

async function rollEtcd({ cluster, namespace, log, signal }: EtcdRollerOptions): Promise<void> {
  const scope = { namespace, labelSelector };
  const sets = await cluster.list<StatefulSet>(kindOf("apps/v1", "StatefulSet"), scope, { signal });
  if (sets.items.length === 0) {
    return;
  }
  const pods = await cluster.list<KubeObject & Pod>(kinds.pod, scope, { signal });
  const name = chooseOutdatedMember(
    sets.items.map((set) => readMember(set, pods.items)),
    Date.now(),
  );
  if (name !== undefined) {
    log.info({ pod: name }, "a member of etcd is replaced by one of the wanted version");
    // Its PodDisruptionBudget has a say, for who drains nodes does not ask us.
    const eviction = { apiVersion: "policy/v1", kind: "Eviction", metadata: { namespace, name } };
    await cluster.createSubresource({ kind: kinds.pod, namespace, name }, "eviction", eviction, { signal });
  }
}

function readMember({ metadata, status }: StatefulSet, pods: readonly Pod[]): EtcdMember {
  const member = metadata.labels?.[memberLabel];
  const pod = pods.find((each) => each.metadata.labels?.[memberLabel] === member && !isGoing(each));
  const revision = status?.updateRevision;
  return {
    name: metadata.name,
    isPending: revision === undefined || (status?.observedGeneration ?? 0) < (metadata.generation ?? 0),
    pod: pod === undefined ? undefined : readPod(pod, revision),
  };
}

function readPod(pod: Pod, revision: string | undefined): EtcdPod {
  const ready = findCondition(pod, "Ready");
  return {
    name: pod.metadata.name,
    isOutdated: pod.metadata.labels?.[revisionLabel] !== revision,
    readySinceMs: ready?.status === "True" ? Date.parse(ready.lastTransitionTime ?? "") : undefined,
  };
}
