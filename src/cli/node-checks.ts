/** Doctor's checks of nodes. */
import { LINK_CAPACITY_ANNOTATION, REPLICATION_LINKS_ANNOTATION } from "../api/requests.ts";
import { readLinkCapacity } from "../decide/link-room.ts";
import { findNodeObstacle } from "../decide/node-fitness.ts";
import { present } from "../lib/assert.ts";
import { type ClusterFacts, componentOf, isVersioned, listOffers } from "./facts.ts";
import { failure, type Finding, type FindingGroup, note, ok, warning } from "./findings.ts";
import { type Node, type Pod, valueOr } from "./kube-objects.ts";

export type Unfitness = { readonly why: string; readonly remedy: string };

/** Why a node cannot be one of the two now, with the remedy; undefined when it can. The operator judges by the same. */
export function findUnfitness(node: Node, pods: readonly Pod[]): Unfitness | undefined {
  const { name } = node.metadata;
  const agents = pods.filter((pod) => componentOf(pod) === "agent");
  const obstacle = findNodeObstacle(node, agents);
  switch (obstacle) {
    case undefined:
      return undefined;
    case "notReady":
      return { why: `${name} is not Ready`, remedy: `find out why: kubectl describe node ${name}` };
    case "maintained":
      return { why: `${name} is in maintenance`, remedy: `kubectl twinrun maintenance ${name} end` };
    case "cordoned":
      return { why: `${name} is cordoned`, remedy: `kubectl uncordon ${name}` };
    case "notSchedulable": {
      const remedy = `look at its virt-handler: kubectl get pods -A -l kubevirt.io=virt-handler --field-selector spec.nodeName=${name}`;
      return { why: `KubeVirt starts no guest on ${name} (kubevirt.io/schedulable is not true)`, remedy };
    }
    case "agentMissing": {
      const remedy = "see that the agents' DaemonSet tolerates its taints and selects it";
      return { why: `no agent is on ${name}`, remedy };
    }
    case "agentNotReady":
      return { why: `the agent on ${name} is not Ready`, remedy: `kubectl logs ${locateAgent(name, agents)}` };
  }
}

function locateAgent(node: string, agents: readonly Pod[]): string {
  const { metadata } = present(
    agents.find((pod) => isAgentOn(pod, node)),
    "the agent that is not ready",
  );
  return `-n ${metadata.namespace ?? ""} ${metadata.name}`;
}

const isAgentOn = (pod: Pod, node: string): boolean => componentOf(pod) === "agent" && pod.spec?.nodeName === node;

export function listFitNodes({ nodes, pods }: ClusterFacts): readonly Node[] {
  return valueOr(nodes, []).filter((node) => findUnfitness(node, valueOr(pods, [])) === undefined);
}

/** A group for each node on which KubeVirt or an agent is; others are not looked at. */
export function checkNodes(facts: ClusterFacts): readonly FindingGroup[] {
  const pods = valueOr(facts.pods, []);
  const concerned = valueOr(facts.nodes, []).filter(
    ({ metadata }) =>
      metadata.labels?.["kubevirt.io/schedulable"] !== undefined || pods.some((pod) => isAgentOn(pod, metadata.name)),
  );
  return concerned.map((node) => ({ subject: `Node ${node.metadata.name}`, findings: checkNode(node, pods) }));
}

function checkNode(node: Node, pods: readonly Pod[]): readonly Finding[] {
  const unfitness = findUnfitness(node, pods);
  const fitness =
    unfitness === undefined
      ? ok("NodeFit", "Ready, schedulable, and its agent is Ready")
      : warning("NodeFit", `cannot be one of the two nodes of a guest: ${unfitness.why}`, unfitness.remedy);
  return [fitness, checkKernel(node), checkLinks(node), ...checkLinkCapacity(node), checkOffers(node)];
}

/** PAGEMAP_SCAN, with which changed pages are found without looking at all of them. */
const KERNEL_MIN = [6, 7] as const;

function checkKernel({ status }: Node): Finding {
  const version = status?.nodeInfo?.kernelVersion ?? "of unknown version";
  const [, major, minor] = /^([0-9]+)\.([0-9]+)/.exec(version) ?? [];
  const isNew = Number(major) > KERNEL_MIN[0] || (Number(major) === KERNEL_MIN[0] && Number(minor) >= KERNEL_MIN[1]);
  return isNew
    ? ok("Kernel", `Linux ${version} finds changed pages by itself (PAGEMAP_SCAN)`)
    : warning(
        "Kernel",
        `Linux ${version} has no PAGEMAP_SCAN: changed pages are found by comparing all of memory, which costs processor and latency`,
        "install Linux 6.7 or later on this node",
      );
}

function checkLinks({ metadata, status }: Node): Finding {
  const annotation = metadata.annotations?.[REPLICATION_LINKS_ANNOTATION];
  const address = status?.addresses?.find(({ type }) => type === "InternalIP")?.address;
  const example = `${REPLICATION_LINKS_ANNOTATION}=ring=192.0.2.1,lan=198.51.100.1`;
  const advise = (message: string): Finding =>
    failure("ReplicationLinks", message, `kubectl annotate node ${metadata.name} --overwrite ${example}`);
  if (annotation !== undefined) {
    const isWellFormed = annotation
      .split(",")
      .every((link) => /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?=\S+$/.test(link.trim()));
    return isWellFormed
      ? ok("ReplicationLinks", annotation)
      : advise(`the annotation ${REPLICATION_LINKS_ANNOTATION} is "${annotation}", which is not NAME=ADDRESS,...`);
  }
  return address === undefined
    ? advise("it has neither an InternalIP nor the annotation that names its links")
    : note(
        "ReplicationLinks",
        `one link, over the node's own address ${address}; a second one would survive a cut cable`,
      );
}

/** One that is no number counts as none. */
function checkLinkCapacity(node: Node): readonly Finding[] {
  const declared = node.metadata.annotations?.[LINK_CAPACITY_ANNOTATION];
  if (declared === undefined) {
    return [];
  }
  return readLinkCapacity(node) !== undefined
    ? [ok("LinkCapacity", `its replication links carry ${declared} MiB/s, of which every guest has its share`)]
    : [
        warning(
          "LinkCapacity",
          `the annotation ${LINK_CAPACITY_ANNOTATION} is "${declared}", which is no number of MiB a second: nobody is held to a share`,
          `kubectl annotate node ${node.metadata.name} --overwrite ${LINK_CAPACITY_ANNOTATION}=1000`,
        ),
      ];
}

function checkOffers(node: Node): Finding {
  const machines = listOffers(node, "machine").filter(isVersioned);
  const models = listOffers(node, "model");
  return machines.length > 0 && models.length > 0
    ? ok("NodeLabels", `${machines.length} machine types, ${models.length} processor models`)
    : warning(
        "NodeLabels",
        `KubeVirt names ${machines.length} versioned machine types and ${models.length} processor models of it; a guest needs one of each in common with the other node`,
        "wait for virt-handler's node labeller, and see whether its log says why (without KVM: developerConfiguration.useEmulation)",
      );
}
