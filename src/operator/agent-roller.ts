/** Replaces the agents one after the other when their DaemonSet changed, as guests allow. For the leading operator alone. */
import { type AgentPod, type AgentRoll, planAgentRoll } from "../decide/agent-roll.ts";
import { type ClusterNode, findCondition, isGoing, type Pod } from "../decide/cluster-objects.ts";
import { findMaintenance } from "../decide/maintenance.ts";
import { type PairBrief, summarizePair } from "../decide/pair-brief.ts";
import { type Cluster } from "../kube/cluster.ts";
import { kindOf, type KubeObject } from "../kube/kube-object.ts";
import { type Log } from "../telemetry/log.ts";
import { sleep } from "../telemetry/sleep.ts";
import { kinds, type ObjectCaches } from "./object-caches.ts";

export type AgentRollerOptions = {
  readonly cluster: Pick<Cluster, "list" | "createSubresource">;
  readonly caches: Pick<ObjectCaches, "pairs" | "nodes">;
  readonly namespace: string;
  readonly log: Log;
  readonly signal: AbortSignal;
};

type DaemonSet = KubeObject & { readonly status?: { readonly observedGeneration?: number } };
type Revision = KubeObject & { readonly revision?: number };

const labelSelector = "app.kubernetes.io/name=twinrun,app.kubernetes.io/component=agent";
const revisionLabel = "controller-revision-hash";
const checkEveryMs = 5_000;

/** Runs until the signal is aborted; never rejects. */
export async function keepRollingAgents(options: AgentRollerOptions): Promise<void> {
  const { log, signal } = options;
  let lastStepMs: number | undefined;
  let said = "";
  while (!signal.aborted) {
    const roll = await rollAgents(options, lastStepMs ?? Date.now()).catch((error: unknown) => {
      log.warn({ error }, "agents cannot be looked after now");
      return undefined;
    });
    if (roll !== undefined) {
      lastStepMs = roll.tag === "wait" ? (lastStepMs ?? Date.now()) : roll.tag === "done" ? undefined : Date.now();
      const says = roll.tag === "wait" ? `outdated agents wait until ${roll.until}` : "";
      if (says !== said && says !== "") {
        log.info({}, says);
      }
      said = says;
    }
    await sleep(checkEveryMs, signal);
  }
}

/** Undefined when nothing can be said yet. */
async function rollAgents(options: AgentRollerOptions, lastStepMs: number): Promise<AgentRoll | undefined> {
  const { cluster, caches, namespace, log, signal } = options;
  const scope = { namespace, labelSelector };
  const sets = await cluster.list<DaemonSet>(kindOf("apps/v1", "DaemonSet"), scope, { signal });
  const [set] = sets.items;
  if (set === undefined || (set.status?.observedGeneration ?? 0) < (set.metadata.generation ?? 0)) {
    return undefined;
  }
  const revisions = await cluster.list<Revision>(kindOf("apps/v1", "ControllerRevision"), scope, { signal });
  const wanted = revisions.items.toSorted((one, other) => (other.revision ?? 0) - (one.revision ?? 0))[0];
  const pods = await cluster.list<KubeObject & Pod>(kinds.pod, scope, { signal });
  const nodes = caches.nodes.list();
  const roll = planAgentRoll({
    agents: pods.items
      .map((pod) => readAgent(pod, wanted?.metadata.labels?.[revisionLabel]))
      .filter(({ node }) => nodes.some((each) => each.metadata.name === node && isThere(each))),
    pairs: summarizePairs(caches),
    restingNodes: new Set(nodes.filter(isResting).map(({ metadata }) => metadata.name)),
    nowMs: Date.now(),
    lastStepMs,
  });
  if (roll.tag === "replace") {
    log.info({ pod: roll.pod, node: roll.node }, "an agent is replaced by one of the wanted version");
    const eviction = { apiVersion: "policy/v1", kind: "Eviction", metadata: { namespace, name: roll.pod } };
    await cluster.createSubresource({ kind: kinds.pod, namespace, name: roll.pod }, "eviction", eviction, { signal });
  }
  return roll;
}

const summarizePairs = ({ pairs }: Pick<ObjectCaches, "pairs">): readonly PairBrief[] =>
  pairs.list().map(summarizePair);

const isThere = (node: ClusterNode): boolean => findCondition(node, "Ready")?.status === "True";

const isResting = (node: ClusterNode): boolean =>
  !isThere(node) || node.spec?.["unschedulable"] === true || findMaintenance(node) !== undefined;

function readAgent(pod: Pod, wanted: string | undefined): AgentPod {
  const ready = findCondition(pod, "Ready");
  const sinceMs = Date.parse(ready?.lastTransitionTime ?? "");
  const node = pod.spec?.["nodeName"];
  return {
    name: pod.metadata.name,
    node: typeof node === "string" ? node : "",
    isOutdated: wanted !== undefined && pod.metadata.labels?.[revisionLabel] !== wanted,
    isGoing: isGoing(pod),
    isReady: ready?.status === "True",
    sinceMs: Number.isNaN(sinceMs) ? undefined : sinceMs,
  };
}
