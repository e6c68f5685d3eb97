/**
 * Guests that share no node (spec.placement.apartFrom). It holds between two guests when either of them wants it, so that the
 * order in which they are made does not matter. Of two that share a node nevertheless, because a label or a spec was changed, the
 * younger one moves as soon as it has where to.
 */
import { isGoing } from "./cluster-objects.ts";
import { compareAge, listNodesOf, type Neighbour, type NeighbourVm } from "./neighbours.ts";
import { type Labels } from "./placement-rule.ts";
import { type Observed } from "./protected-vm-plan.ts";

/** What is to be kept away from: the ProtectedVM on each node. */
export type Avoided = ReadonlyMap<string, string>;

export const listAvoided = (observed: Observed): Avoided => encode(listOthers(observed));

/** Those that were there first. */
export const listAvoidedElders = (observed: Observed): Avoided =>
  encode(listOthers(observed).filter((other) => compareAge(other.protectedVm, observed.protectedVm) < 0));

function listOthers({ protectedVm, neighbours }: Observed): readonly Neighbour[] {
  return neighbours.filter(
    (other) =>
      !isGoing(other.protectedVm) && (avoids(protectedVm, other.protectedVm) || avoids(other.protectedVm, protectedVm)),
  );
}

function avoids({ spec }: NeighbourVm, { metadata }: NeighbourVm): boolean {
  const labels = Object.entries<string>(spec?.placement?.apartFrom ?? ({} satisfies Labels));
  return labels.length > 0 && labels.every(([name, value]) => metadata.labels?.[name] === value);
}

const encode = (others: readonly Neighbour[]): Avoided =>
  new Map(
    others.flatMap(({ protectedVm, pair }) =>
      listNodesOf(pair).map((node) => [node, protectedVm.metadata.name] as const),
    ),
  );
