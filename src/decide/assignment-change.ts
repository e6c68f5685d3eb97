/**
 * What a new set of assignments means for the guests this node runs already.
 *
 * A guest that is gone from the set is removed, QEMU and all where QEMU is ours. A changed mode, latency contract or detection
 * time is told to the running engine, and so is the wish to release the guest, or to copy it whole once more. Anything else that
 * engines read at their start (links, port, peer, tracker) needs a new engine; a new engine costs a moment of protection, never the
 * guest. What QEMU itself was started with (qemu, disks) waits until that QEMU has gone by itself: nobody asked for a reboot of the
 * guest, and an engine must not believe in disks its QEMU does not have. Under Kubernetes the first primary follows the roles that
 * the operator wishes for; it only counts while there is no record, so an engine that runs is left alone.
 */
import { type GuestAssignment } from "../protocol/assignment.ts";

export type AssignmentAction =
  | { readonly tag: "startGuest"; readonly assignment: GuestAssignment }
  | { readonly tag: "retuneGuest"; readonly assignment: GuestAssignment }
  | { readonly tag: "restartEngine"; readonly assignment: GuestAssignment }
  | { readonly tag: "awaitNextStart"; readonly assignment: GuestAssignment }
  | { readonly tag: "setRelease"; readonly guest: string; readonly isReleasing: boolean }
  | { readonly tag: "removeGuest"; readonly guest: string };

export function planAssignmentChange(
  running: readonly GuestAssignment[],
  wanted: readonly GuestAssignment[],
): readonly AssignmentAction[] {
  const byName = new Map(running.map((assignment) => [assignment.guest, assignment]));
  const wantedNames = new Set(wanted.map(({ guest }) => guest));
  const removals = running
    .filter(({ guest }) => !wantedNames.has(guest))
    .map(({ guest }): AssignmentAction => ({ tag: "removeGuest", guest }));
  // Removals first: a port or a disk may pass from a guest that goes to one that comes.
  return [...removals, ...wanted.flatMap((assignment) => planOne(byName.get(assignment.guest), assignment))];
}

function planOne(before: GuestAssignment | undefined, assignment: GuestAssignment): AssignmentAction[] {
  if (before === undefined) {
    return [{ tag: "startGuest", assignment }];
  }
  return [...planEngineChange(before, assignment), ...planRelease(before, assignment)];
}

function planEngineChange(before: GuestAssignment, assignment: GuestAssignment): AssignmentAction[] {
  if (differs(engineStartOf(before), engineStartOf(assignment))) {
    return [{ tag: "restartEngine", assignment }];
  }
  if (differs(qemuStartOf(before), qemuStartOf(assignment))) {
    return [{ tag: "awaitNextStart", assignment }];
  }
  return differs(otherwiseOf(before), otherwiseOf(assignment)) ? [{ tag: "retuneGuest", assignment }] : [];
}

function planRelease(before: GuestAssignment, { guest, isReleasing = false }: GuestAssignment): AssignmentAction[] {
  return isReleasing === (before.isReleasing ?? false) ? [] : [{ tag: "setRelease", guest, isReleasing }];
}

function otherwiseOf(assignment: GuestAssignment): unknown {
  const { mode, checkpoint, failover, firstPrimary, isReleasing = false, fullResync, uplinks } = assignment;
  return [mode, checkpoint, failover, firstPrimary, isReleasing, fullResync, uplinks, assignment.linkCapacity];
}

function qemuStartOf({ qemu, disks }: GuestAssignment): unknown {
  return [qemu, disks];
}

/** What an engine that runs is told, or need not know. */
const TOLD_LATER = new Set([
  ...["qemu", "disks", "mode", "checkpoint", "failover", "isReleasing", "fullResync", "uplinks", "linkCapacity"],
]);

function engineStartOf(assignment: GuestAssignment): unknown {
  const { firstPrimary, qemu } = assignment;
  const rest = Object.entries(assignment).filter(([field]) => !TOLD_LATER.has(field));
  return { ...Object.fromEntries(rest), firstPrimary: qemu.tag === "pod" ? null : firstPrimary };
}

/** By value. Key order counts, and is the same on both sides: both come out of one schema. */
function differs(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) !== JSON.stringify(right);
}

/** Mistakes that only the node itself can see. Each is a sentence for the owner of the file. */
export function listAssignmentProblems(
  assignments: readonly Pick<GuestAssignment, "guest" | "peerNode" | "firstPrimary">[],
  node: string,
): readonly string[] {
  return assignments.flatMap(({ guest, peerNode, firstPrimary }) => [
    ...(peerNode === node ? [`guest ${guest}: peerNode is this node, ${node}; name the other one`] : []),
    ...(firstPrimary === node || firstPrimary === peerNode
      ? []
      : [`guest ${guest}: firstPrimary is ${firstPrimary}; it must be this node, ${node}, or its peer, ${peerNode}`]),
  ]);
}
