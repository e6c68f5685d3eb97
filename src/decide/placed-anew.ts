/**
 * A volume that was bound to another node after its guest was placed: no scheduler will bring the two together. KubeVirt can start
 * a VirtualMachine in the moment in which it is adopted, by what it read of it before, and there is nothing to wait for that says
 * that it will not any more.
 *
 * Where that happens to a guest that has not run yet the pair is given up, and made anew where the volume is:
 *
 *   pair --held again--> its own instance goes --> the pair goes --> what was made for the other side goes --> creation.ts
 */
import { isHeld, planHoldAgain } from "./adoption.ts";
import { isGoing } from "./cluster-objects.ts";
import { type Subject } from "./pair-spec.ts";
import { type PairView, type SideView } from "./pair-view.ts";
import { deletePair, isUnstarted, planClearance } from "./protected-vm-deletion.ts";
import { type Action, deleteInstance } from "./protected-vm-plan.ts";
import { findUnreachable, listOriginalClaims } from "./volume-places.ts";

type Step = { readonly actions: readonly Action[]; readonly waitsFor: string };

function findMisplacedVolume({ observed, source }: Subject, { isOrigin, state, vmi }: SideView): string | undefined {
  const isPlaced = vmi?.status?.nodeName !== undefined;
  const claims = isOrigin && !isPlaced ? listOriginalClaims(observed, source) : [];
  return state.node === undefined ? undefined : findUnreachable(observed, claims, state.node);
}

/** For a guest that cannot be placed anew: it has run already. */
export function sayMisplacedVolume(subject: Subject, side: SideView): string | undefined {
  const why = findMisplacedVolume(subject, side);
  return why === undefined
    ? undefined
    : `${why}, and the guest is to start on ${side.node}: bring it there, or delete the ProtectedVM and apply it again`;
}

/** Undefined where nothing is to be given up. */
export function planGivingUp(subject: Subject, view: PairView): Step | undefined {
  const own = view.sides.find(({ isVirtualMachine }) => isVirtualMachine);
  const why = own === undefined ? undefined : findMisplacedVolume(subject, own);
  if (own === undefined || why === undefined || !hasNeverRun(view, own)) {
    return undefined;
  }
  const { vmi } = own;
  const waitsFor = `another place for the guest: ${why}`;
  const hold = planHoldAgain(subject.observed, subject.source);
  if (hold !== undefined) {
    return { actions: [hold], waitsFor };
  }
  if (vmi === undefined) {
    return { actions: [deletePair(view, why)], waitsFor };
  }
  return { actions: isGoing(vmi) ? [] : [deleteInstance(vmi, why)], waitsFor };
}

const hasNeverRun = (view: PairView, own: SideView): boolean =>
  (view.isNew || isUnstarted(view, own)) && view.term <= 1 && view.notes.inSyncTerm === undefined;

/** What is left of a pair that was given up; only while the VirtualMachine is held is that nobody's. */
export function planRemains({ observed, source }: Subject): Step | undefined {
  const clearance = isHeld(source) ? planClearance(observed, "it was placed elsewhere") : undefined;
  return clearance && { actions: clearance.actions, waitsFor: clearance.says };
}
