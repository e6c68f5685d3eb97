/**
 * The ports on which the engines of guests listen: a guest has one, the same on both of its nodes, and shares it with no other
 * guest that has a side on one of them. Guests on other nodes may have the same one, so the range limits what a node has, not
 * what a cluster has.
 */
import { type GuestPair } from "../api/guest-pair.ts";

export type PortRange = { readonly low: number; readonly high: number };
/** Those that are taken on each node. */
export type UsedPorts = ReadonlyMap<string, ReadonlySet<number>>;

type Spec = Pick<GuestPair["spec"], "port" | "sides">;

export function listUsedPorts(pairs: readonly { readonly spec: Spec }[]): UsedPorts {
  const used = new Map<string, Set<number>>();
  for (const { port, sides } of pairs.map(({ spec }) => spec)) {
    for (const { node } of sides) {
      used.set(node, (used.get(node) ?? new Set()).add(port));
    }
  }
  return used;
}

/** The lowest that is free on all of the nodes; undefined when there is none. */
export function findFreePort({ low, high }: PortRange, used: UsedPorts, nodes: readonly string[]): number | undefined {
  for (let port = low; port <= high; port += 1) {
    if (isFree(port, used, nodes)) {
      return port;
    }
  }
  return undefined;
}

export const isFree = (port: number, used: UsedPorts, nodes: readonly string[]): boolean =>
  nodes.every((node) => used.get(node)?.has(port) !== true);
