/**
 * Whether a node can have a side of a guest, and for how long it could not.
 *
 * Two questions that are not the same: a node is *eligible* when a side may be placed on it, and *lost* when a side that is on
 * it has to be given up. A cordoned node is neither. A node that went away is lost only after a grace, for most of them come
 * back: an agent that is replaced takes seconds, a host that boots takes a minute or two.
 */
import { REPLICATION_LINKS_ANNOTATION, UPLINKS_ANNOTATION } from "../api/requests.ts";
import { type ClusterNode, findCondition, isGoing, type Pod } from "./cluster-objects.ts";
import { findMaintenance } from "./maintenance.ts";

/** How long a side's node or agent may be away before another node takes its place. */
export const LOSS_GRACE_MS = 60_000;

const SCHEDULABLE_LABEL = "kubevirt.io/schedulable";

export type NodeState = {
  readonly name: string;
  readonly node: ClusterNode | undefined;
  /** What keeps new things from being started here; undefined for an eligible node. */
  readonly obstacle: string | undefined;
  /** Since when nothing that runs here can be expected to answer, in milliseconds of the epoch; undefined while it can. */
  readonly awaySinceMs: number | undefined;
};

export function readNodeState(name: string, nodes: readonly ClusterNode[], agents: readonly Pod[]): NodeState {
  const node = nodes.find(({ metadata }) => metadata.name === name);
  const agent = agents.find((pod) => isOn(pod, name) && isWorking(pod));
  if (node === undefined) {
    return { name, node, obstacle: "there is no such node", awaySinceMs: 0 };
  }
  return { name, node, obstacle: sayObstacle(node, agents), awaySinceMs: findAbsence(node, agent, agents) };
}

const isNodeReady = (node: ClusterNode): boolean => findCondition(node, "Ready")?.status === "True";
const isOn = (pod: Pod, node: string): boolean => pod.spec?.["nodeName"] === node;
const isWorking = (pod: Pod): boolean => !isGoing(pod) && findCondition(pod, "Ready")?.status === "True";

/** What keeps a side from being placed on a node, the first that is found. */
export type NodeObstacle = "notReady" | "maintained" | "cordoned" | "notSchedulable" | "agentMissing" | "agentNotReady";

/** `agents` are pods of agents, on whichever node. */
export function findNodeObstacle(node: ClusterNode, agents: readonly Pod[]): NodeObstacle | undefined {
  if (!isNodeReady(node)) {
    return "notReady";
  }
  if (findMaintenance(node) !== undefined) {
    return "maintained";
  }
  if (node.spec?.["unschedulable"] === true) {
    return "cordoned";
  }
  if (node.metadata.labels?.[SCHEDULABLE_LABEL] !== "true") {
    return "notSchedulable";
  }
  const own = agents.filter((pod) => isOn(pod, node.metadata.name));
  if (own.some(isWorking)) {
    return undefined;
  }
  return own.length === 0 ? "agentMissing" : "agentNotReady";
}

const OBSTACLE_TEXTS: Readonly<Record<NodeObstacle, string>> = {
  notReady: "it is not Ready",
  maintained: "it is in maintenance",
  cordoned: "it is cordoned",
  notSchedulable: `KubeVirt does not run guests on it (label ${SCHEDULABLE_LABEL})`,
  agentMissing: "no agent of Twinrun is ready on it",
  agentNotReady: "no agent of Twinrun is ready on it",
};

function sayObstacle(node: ClusterNode, agents: readonly Pod[]): string | undefined {
  const obstacle = findNodeObstacle(node, agents);
  if (obstacle !== undefined) {
    return OBSTACLE_TEXTS[obstacle];
  }
  return readLinks(node).length === 0 ? "it has no InternalIP" : undefined;
}

/** Of several pods of agents, one that goes and one that comes, the latest news counts; of none nothing is known. */
function findAbsence(node: ClusterNode, agent: Pod | undefined, agents: readonly Pod[]): number | undefined {
  const ready = findCondition(node, "Ready");
  if (ready?.status !== "True") {
    return readTime(ready?.lastTransitionTime);
  }
  if (agent !== undefined) {
    return undefined;
  }
  const times = agents.filter((pod) => isOn(pod, node.metadata.name)).flatMap((pod) => findEnd(pod) ?? []);
  return times.length === 0 ? undefined : Math.max(...times);
}

/** A pod that goes is Ready to its last moment, which is its deletionTimestamp, in the future at first. */
function findEnd(pod: Pod): number | undefined {
  const ready = findCondition(pod, "Ready");
  const since = ready?.status === "True" ? pod.metadata.deletionTimestamp : ready?.lastTransitionTime;
  return since === undefined || since === null ? undefined : readTime(since);
}

function readTime(text: string | null | undefined): number {
  const timeMs = Date.parse(text ?? "");
  return Number.isNaN(timeMs) ? 0 : timeMs;
}

export type Link = { readonly name: string; readonly host: string };

/** The node's replication links, the preferred one first. */
export function readLinks(node: ClusterNode): readonly Link[] {
  const declared = node.metadata.annotations?.[REPLICATION_LINKS_ANNOTATION] ?? "";
  const links = declared.split(",").flatMap((pair) => {
    const [name = "", host = ""] = pair.split("=").map((part) => part.trim());
    return name === "" || host === "" ? [] : [{ name, host }];
  });
  return links.length > 0 ? links : readInternalLink(node);
}

const UPLINKS_MAX = 8;

/** The interfaces over which clients reach guests of the node; none where it does not say. */
export function readUplinks(node: ClusterNode | undefined): readonly string[] {
  const declared = node?.metadata.annotations?.[UPLINKS_ANNOTATION] ?? "";
  const names = declared.split(",").map((name) => name.trim());
  return names.filter((name) => name !== "").slice(0, UPLINKS_MAX);
}

function readInternalLink(node: ClusterNode): readonly Link[] {
  const address = node.status?.addresses?.find(({ type }) => type === "InternalIP")?.address;
  return address === undefined ? [] : [{ name: "node", host: address }];
}

/** Links that both nodes have, in the order of the first; the nodes' own addresses when they share no other. */
export function pairLinks(first: ClusterNode, second: ClusterNode): readonly [readonly Link[], readonly Link[]] {
  const [ofFirst, ofSecond] = [readLinks(first), readLinks(second)];
  const shared = ofFirst.flatMap((link) => {
    const other = ofSecond.find(({ name }) => name === link.name);
    return other === undefined ? [] : [{ link, other }];
  });
  return shared.length > 0
    ? [shared.map(({ link }) => link), shared.map(({ other }) => other)]
    : [readInternalLink(first), readInternalLink(second)];
}
