/**
 * Which two nodes a guest gets, or which one replaces a lost one.
 *
 * The choice is made once and kept in the GuestPair; later passes only check it. Of several nodes that would do those win that
 * have the fewest sides already, so that guests spread by themselves; names decide the rest, so that the same cluster always
 * gives the same answer.
 */
import { type StalledReason } from "../api/conditions.ts";
import { type Json, readText } from "../lib/json-merge.ts";
import { type ClusterNode, type Pod } from "./cluster-objects.ts";
import { canBe, chooseMachine, type Machine } from "./common-machine.ts";
import { readMemory } from "./guest-size.ts";
import { type NodeState, readNodeState } from "./node-fitness.ts";
import { canPair, findSite, hasLabels, type Labels, type PlacementRule, type Sites } from "./placement-rule.ts";
import { parseQuantity } from "./quantity.ts";
import { MOVE_REMEDY } from "./volume-places.ts";

export type PlacementInput = {
  readonly rule: PlacementRule;
  readonly instanceSpec: Json;
  readonly nodes: readonly ClusterNode[];
  readonly agents: readonly Pod[];
  /** How many sides each node has. */
  readonly load: ReadonlyMap<string, number>;
  /** Nodes that failed again and again for this guest. */
  readonly isolated: ReadonlySet<string>;
  /** Nodes that did for others: not taken where there is a choice. */
  readonly isolatedForOthers: ReadonlySet<string>;
  /** Where the guest is, if it exists already; it is not moved for nothing. */
  readonly current: string | undefined;
  /** Why the guest cannot be started on a node: what it is started from is not there. */
  readonly unreachable: ReadonlyMap<string, string>;
  /** ProtectedVMs that no node may be shared with, by node. */
  readonly avoided: ReadonlyMap<string, string>;
  /** What is wrong with the links of each node that has no room for one more guest. */
  readonly fullLinks: ReadonlyMap<string, string>;
  /** The group whose nodes are the only ones; the guest is to run on `first` of them. */
  readonly group?: { readonly name: string; readonly nodes: readonly string[]; readonly first: string } | undefined;
};

export type Placement =
  | { readonly tag: "placed"; readonly first: ClusterNode; readonly second: ClusterNode; readonly machine: Machine }
  | { readonly tag: "stalled"; readonly reason: StalledReason; readonly message: string };

export function decidePlacement(input: PlacementInput): Placement {
  const { rule } = input;
  if (rule.tag === "unknown") {
    return { tag: "stalled", ...sayPairUnknown(rule.pair) };
  }
  if (rule.tag === "sites" && rule.tooFar !== undefined) {
    return { tag: "stalled", reason: "SitesTooFar", message: rule.tooFar };
  }
  const candidates = listCandidates(input);
  const fit = candidates.filter(({ obstacle }) => obstacle === undefined);
  const nodes = fit.flatMap(({ node }) => (node === undefined ? [] : [node]));
  if (!nodes.some((one) => nodes.some((other) => one !== other && canPair(rule, one, other)))) {
    return { tag: "stalled", ...sayWhyNot(input, candidates, fit) };
  }
  return decidePair(input, nodes);
}

function sayWhyNot(
  { rule, group, fullLinks }: PlacementInput,
  candidates: readonly Candidate[],
  fit: readonly Candidate[],
): { readonly reason: StalledReason; readonly message: string } {
  const missing = sayMissing(rule, candidates, fit);
  if (candidates.some(({ name, obstacle }) => obstacle !== undefined && obstacle === fullLinks.get(name))) {
    return { reason: "LinkFull", message: missing };
  }
  if (group === undefined) {
    return { reason: "NodesMissing", message: missing };
  }
  const message =
    `group ${group.name} is on ${group.nodes.join(" and ")}, and the guest can only be there: ${missing}; let its ` +
    "placement be that of the group, or take it out of the group";
  return { reason: "GroupElsewhere", message };
}

export const sayPairUnknown = (pair: string): { readonly reason: StalledReason; readonly message: string } => ({
  reason: "SplitSitePairNotFound",
  message: `there is no SplitSitePair ${pair}: make it, or name another in spec.placement.splitSitePairRef`,
});

/** The first pair that can be the same machine; the guest's own node comes first, if it is one of them. */
function decidePair(
  { rule, instanceSpec, current, group, unreachable }: PlacementInput,
  fit: readonly ClusterNode[],
): Placement {
  const starts = fit.filter(({ metadata }) => !unreachable.has(metadata.name));
  if (starts.length === 0) {
    return { tag: "stalled", reason: "StorageUnusable", message: sayOutOfReach(unreachable, fit) };
  }
  const own = starts.find(({ metadata }) => metadata.name === (group?.first ?? current));
  const differences: string[] = [];
  const firsts = own === undefined ? starts : [own];
  for (const [index, first] of firsts.entries()) {
    const tried = firsts.slice(0, index + 1);
    for (const second of fit.filter((other) => !tried.includes(other) && canPair(rule, first, other))) {
      const choice = chooseMachine(instanceSpec, first, second);
      if (choice.tag === "chosen") {
        return { tag: "placed", first, second, machine: choice.machine };
      }
      differences.push(choice.says);
    }
  }
  const says = [...new Set(differences)].slice(0, 3).join("; ");
  const remedy = "choose nodes that are alike, or an older processor model or machine type in the guest's spec";
  return { tag: "stalled", reason: "NodesDiffer", message: `${says}: ${remedy}` };
}

function sayOutOfReach(unreachable: ReadonlyMap<string, string>, fit: readonly ClusterNode[]): string {
  const says = new Set(fit.flatMap(({ metadata }) => unreachable.get(metadata.name) ?? []));
  const names = fit.map(({ metadata }) => metadata.name).join(" or ");
  return `${[...says].join("; ")}, and the guest cannot be started on ${names}: ${MOVE_REMEDY}`;
}

/** A node for a lost side, beside the node that stays. */
export function decideReplacement(
  input: PlacementInput,
  { lost, stays }: { readonly lost: string; readonly stays: string },
  machine: Machine,
): ClusterNode | undefined {
  const { rule, nodes } = input;
  const peer = nodes.find(({ metadata }) => metadata.name === stays);
  return listCandidates(input)
    .filter(({ obstacle, name }) => obstacle === undefined && name !== lost && name !== stays)
    .flatMap(({ node }) => (node === undefined ? [] : [node]))
    .find((node) => canBe(node, machine) && (peer === undefined ? rule.tag !== "sites" : canPair(rule, peer, node)));
}

type Candidate = NodeState;

function listCandidates(input: PlacementInput): readonly Candidate[] {
  const { nodes, agents, instanceSpec } = input;
  return listNames(input).map((name) => {
    const state = readNodeState(name, nodes, agents);
    return {
      ...state,
      obstacle:
        state.obstacle ??
        sayIsolation(input, name) ??
        sayCompany(input, name) ??
        input.fullLinks.get(name) ??
        findLackOfRoom(state.node, instanceSpec),
    };
  });
}

function sayCompany({ avoided, group }: PlacementInput, name: string): string | undefined {
  const other = avoided.get(name);
  if (other !== undefined) {
    return `${other} is there, from which it is to be apart (placement.apartFrom)`;
  }
  return group?.nodes.includes(name) === false ? `group ${group.name} is not there` : undefined;
}

/** Who names two nodes has chosen them, whatever they did to others. */
function sayIsolation({ rule, isolated, isolatedForOthers }: PlacementInput, name: string): string | undefined {
  const isOut = isolated.has(name) || (rule.tag !== "nodes" && isolatedForOthers.has(name));
  return isOut ? "it is isolated, for it failed again and again (kubectl twinrun faults -A)" : undefined;
}

function listNames({ rule, nodes, load }: PlacementInput): readonly string[] {
  const list = (isWanted: (node: ClusterNode) => boolean): readonly string[] =>
    nodes
      .filter(isWanted)
      .map(({ metadata }) => metadata.name)
      .sort((one, other) => (load.get(one) ?? 0) - (load.get(other) ?? 0) || one.localeCompare(other));
  switch (rule.tag) {
    case "nodes":
      return rule.names;
    case "labels":
      return list((node) => hasLabels(node, rule.nodeSelector));
    case "sites":
      // In their order: the guest is started in the first.
      return rule.sites.flatMap((site) => list((node) => findSite(node, rule.sites) === site));
    case "unknown":
      return [];
  }
}

/** Only what could never fit: what is free at the moment is for the scheduler to judge. */
function findLackOfRoom(node: ClusterNode | undefined, instanceSpec: Json): string | undefined {
  const needed = readMemory(instanceSpec) ?? "";
  const has = readText(node?.status, "allocatable", "memory") ?? "";
  const isTooLittle = (parseQuantity(needed) ?? 0) > (parseQuantity(has) ?? Infinity);
  return isTooLittle ? `its ${has} of memory are less than the guest's ${needed}` : undefined;
}

function sayMissing(rule: PlacementRule, candidates: readonly Candidate[], fit: readonly Candidate[]): string {
  const obstacles = candidates.flatMap(({ name, obstacle }) =>
    obstacle === undefined ? [] : [`${name}: ${obstacle}`],
  );
  const shown = obstacles.length > 4 ? [...obstacles.slice(0, 4), `and ${obstacles.length - 4} more`] : obstacles;
  const why = shown.length === 0 ? "label more nodes" : shown.join("; ");
  switch (rule.tag) {
    case "nodes":
      return `the guest needs both of its nodes: ${why}`;
    case "labels":
      return `of the nodes with ${sayLabels(rule.nodeSelector)} ${fit.length} can have a side of the guest, two are needed: ${why}`;
    case "sites":
      return `no node of ${sayEmptySites(rule.sites, fit)} can have a side of the guest: ${why}`;
    case "unknown":
      return sayPairUnknown(rule.pair).message;
  }
}

const sayLabels = (labels: Labels): string =>
  Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ");

const sayEmptySites = (sites: Sites, fit: readonly Candidate[]): string =>
  sites
    .filter((site) => !fit.some(({ node }) => node !== undefined && findSite(node, sites) === site))
    .map(({ name, nodeSelector }) => `site ${name} (${sayLabels(nodeSelector)})`)
    .join(" and of ");
