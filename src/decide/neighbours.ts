/**
 * Other ProtectedVMs of a guest's namespace, read as somebody's newer or older version wrote them. What they mean for the guest:
 * its group (guest-group.ts), those it shares no node with (apart.ts) and those that start before it (start-turn.ts).
 */
import { type ObjectMeta } from "../api/object-meta.ts";
import { type ProtectedVmStatus } from "../api/protected-vm.ts";
import { type Labels } from "./placement-rule.ts";
import { type PairLike } from "./pair-brief.ts";

export type NeighbourVm = {
  readonly metadata: ObjectMeta;
  readonly spec?:
    | {
        readonly placement?: { readonly apartFrom?: Labels | undefined } | undefined;
        readonly failover?: { readonly group?: string | undefined } | undefined;
        readonly start?: { readonly order?: number | undefined } | undefined;
      }
    | undefined;
  readonly status?: Partial<ProtectedVmStatus> | undefined;
};

export type Neighbour = {
  readonly protectedVm: NeighbourVm;
  /** Undefined while it has no place. */
  readonly pair: PairLike | undefined;
};

/** The older of two is the one that the other has to mind. */
export function compareAge({ metadata: one }: NeighbourVm, { metadata: other }: NeighbourVm): number {
  const [first, second] = [one, other].map(({ creationTimestamp = "", uid = "" }) => `${creationTimestamp} ${uid}`);
  return (first ?? "").localeCompare(second ?? "");
}

export const listNodesOf = (pair: PairLike | undefined): readonly string[] =>
  pair?.spec?.sides?.map(({ node }) => node) ?? [];
