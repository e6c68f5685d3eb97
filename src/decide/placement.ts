/**
 * Which two nodes a guest gets, or which one replaces a lost one.
 *
 * The choice is made once and kept in the GuestPair; later passes only check it. Of several nodes that would do those win that
 * have the fewest sides already, so that guests spread by themselves; names decide the rest, so that the same cluster always
 * gives the same answer.
 */
import { type StalledReason } from "../api/conditions.ts";
import { type ProtectedVmSpec } from "../api/protected-vm.ts";
import { type Json, readText } from "../lib/json-merge.ts";
import { type ClusterNode, type Pod } from "./cluster-objects.ts";
import { canBe, chooseMachine, type Machine } from "./common-machine.ts";
import { type NodeState, readNodeState } from "./node-fitness.ts";
import { parseQuantity } from "./quantity.ts";

export type PlacementInput = {
  readonly placement: ProtectedVmSpec["placement"];
  readonly instanceSpec: Json;
  readonly nodes: readonly ClusterNode[];
  readonly agents: readonly Pod[];
  /** How many sides each node has. */
  readonly load: ReadonlyMap<string, number>;
  /** Where the guest is, if it exists already; it is not moved for nothing. */
  readonly current: string | undefined;
};

export type Placement =
  | { readonly tag: "placed"; readonly first: ClusterNode; readonly second: ClusterNode; readonly machine: Machine }
  | { readonly tag: "stalled"; readonly reason: StalledReason; readonly message: string };

export function decidePlacement(input: PlacementInput): Placement {
  const candidates = listCandidates(input);
  const fit = candidates.filter(({ obstacle }) => obstacle === undefined);
  const fixed = input.placement.nodes;
  if (fit.length < 2 || (fixed !== undefined && fit.length < fixed.length)) {
    return { tag: "stalled", reason: "NodesMissing", message: sayMissing(input, candidates, fit) };
  }
  return decidePair(
    input,
    fit.flatMap(({ node }) => (node === undefined ? [] : [node])),
  );
}

/** The first pair that can be the same machine; the guest's own node comes first, if it is one of them. */
function decidePair({ instanceSpec, current }: PlacementInput, fit: readonly ClusterNode[]): Placement {
  const own = fit.find(({ metadata }) => metadata.name === current);
  const firsts = own === undefined ? fit : [own];
  const differences: string[] = [];
  for (const first of firsts) {
    const others = own === undefined ? fit.slice(fit.indexOf(first) + 1) : fit.filter((node) => node !== first);
    for (const second of others) {
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

/** A node for a lost side, beside the node that stays. */
export function decideReplacement(
  input: PlacementInput,
  taken: readonly string[],
  machine: Machine,
): ClusterNode | undefined {
  return listCandidates(input)
    .filter(({ obstacle, name }) => obstacle === undefined && !taken.includes(name))
    .flatMap(({ node }) => (node === undefined ? [] : [node]))
    .find((node) => canBe(node, machine));
}

type Candidate = NodeState;

function listCandidates({ placement, nodes, agents, load, instanceSpec }: PlacementInput): readonly Candidate[] {
  const names = placement.nodes ?? listSelected(nodes, placement.nodeSelector ?? {}, load);
  return names.map((name) => {
    const state = readNodeState(name, nodes, agents);
    return { ...state, obstacle: state.obstacle ?? findLackOfRoom(state.node, instanceSpec) };
  });
}

function listSelected(
  nodes: readonly ClusterNode[],
  selector: Readonly<Record<string, string>>,
  load: ReadonlyMap<string, number>,
): readonly string[] {
  return nodes
    .filter(({ metadata }) => Object.entries(selector).every(([label, value]) => metadata.labels?.[label] === value))
    .map(({ metadata }) => metadata.name)
    .sort((one, other) => (load.get(one) ?? 0) - (load.get(other) ?? 0) || one.localeCompare(other));
}

/** Only what could never fit: what is free at the moment is for the scheduler to judge. */
function findLackOfRoom(node: ClusterNode | undefined, instanceSpec: Json): string | undefined {
  const needed = readMemory(instanceSpec) ?? "";
  const has = readText(node?.status, "allocatable", "memory") ?? "";
  const isTooLittle = (parseQuantity(needed) ?? 0) > (parseQuantity(has) ?? Infinity);
  return isTooLittle ? `its ${has} of memory are less than the guest's ${needed}` : undefined;
}

/** What the guest is to have. */
export const readMemory = (instanceSpec: Json): string | undefined =>
  readText(instanceSpec, "domain", "memory", "guest") ??
  readText(instanceSpec, "domain", "resources", "requests", "memory");

function sayMissing(
  { placement }: PlacementInput,
  candidates: readonly Candidate[],
  fit: readonly Candidate[],
): string {
  const obstacles = candidates.flatMap(({ name, obstacle }) =>
    obstacle === undefined ? [] : [`${name}: ${obstacle}`],
  );
  const shown = obstacles.length > 4 ? [...obstacles.slice(0, 4), `and ${obstacles.length - 4} more`] : obstacles;
  if (placement.nodes !== undefined) {
    return `the guest needs both of its nodes: ${shown.join("; ")}`;
  }
  const labels = Object.entries(placement.nodeSelector ?? {}).map(([name, value]) => `${name}=${value}`);
  const why = shown.length === 0 ? "label more nodes" : shown.join("; ");
  return `of the nodes with ${labels.join(", ")} ${fit.length} can have a side of the guest, two are needed: ${why}`;
}
