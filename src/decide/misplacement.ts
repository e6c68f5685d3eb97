/** What other guests have against where this one is: its group is elsewhere, or it shares a node with one it is to be apart from. */
import { type ProtectedVmReason } from "../api/conditions.ts";
import { type Avoided, listAvoided, listAvoidedElders } from "./apart.ts";
import { findWhyToJoin, type Group, sayScattered, viewGroup } from "./guest-group.ts";
import { listNodesOf } from "./neighbours.ts";
import { type PairView, peerOf } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";
import { type Verdict } from "./verdicts.ts";

export type Misplacement = { readonly side: "primary" | "standby"; readonly why: string };

/** What the guest itself can do something about; of two that are to be apart that is the younger one. */
export function findMisplacement(
  observed: Observed,
  view: PairView,
  group: Group | undefined,
): Misplacement | undefined {
  const { primary } = view;
  if (primary === undefined) {
    return undefined;
  }
  const why = findWhyToJoin(group, view);
  if (why !== undefined) {
    return { side: "standby", why };
  }
  const elders = listAvoidedElders(observed);
  const [ofStandby, ofPrimary] = [sayShared(elders, peerOf(view, primary).node), sayShared(elders, primary.node)];
  if (ofStandby !== undefined) {
    return { side: "standby", why: ofStandby };
  }
  return ofPrimary === undefined ? undefined : { side: "primary", why: ofPrimary };
}

function sayShared(avoided: Avoided, node: string): string | undefined {
  const other = avoided.get(node);
  return other === undefined ? undefined : `it is to be apart from ${other}, which is on ${node} as well`;
}

export function judgePlacement(
  observed: Observed,
  view: PairView | undefined,
  group: Group | undefined,
): Verdict<ProtectedVmReason["PlacementMet"]> {
  if (view === undefined) {
    return { status: "Unknown", reason: "NotPlaced", message: "it has no place yet" };
  }
  const scattered = sayScattered(group, view);
  if (scattered !== undefined) {
    return { status: "False", reason: "GroupScattered", message: scattered };
  }
  const avoided = listAvoided(observed);
  const shared = view.sides.map(({ node }) => sayShared(avoided, node)).find((says) => says !== undefined);
  if (shared !== undefined) {
    const message = `${shared}: the younger of the two moves when there is a node for it; if it stays like this, make one more fit`;
    return { status: "False", reason: "NotApart", message };
  }
  const message = group === undefined ? "no other guest is in its way" : `it is with its group ${group.name}`;
  return { status: "True", reason: "Met", message };
}

/**
 * Whether another guest was given, since the plan was made, a place that forbids `nodes` to this one. Asked at the last moment, of
 * neighbours as they are then; undefined also for nodes that the guest has already.
 */
export function findPlaceTaken(observed: Observed, nodes: readonly string[]): string | undefined {
  const before = listNodesOf(observed.pair);
  const fresh = nodes.filter((node) => !before.includes(node));
  if (fresh.length === 0) {
    return undefined;
  }
  const other = fresh.flatMap((node) => listAvoided(observed).get(node) ?? [])[0];
  if (other !== undefined) {
    return `${other} was placed there in the same moment`;
  }
  const group = observed.pair === undefined ? viewGroup(observed) : undefined;
  const isElsewhere = nodes.some((node) => group?.nodes?.includes(node) === false);
  return isElsewhere ? "its group was placed elsewhere in the same moment" : undefined;
}
