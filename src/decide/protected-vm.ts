/**
 * What to do for a ProtectedVM: what is seen in, actions, status and events out. The same plan for a new guest, one that lost a
 * node and one that is about to end; an operator that starts anew in the middle of anything makes the same plan again.
 *
 *   no pair --a placement--> pair --agents ask for instances--> Creating --> Synchronising --> Protected
 *                             |                                                 ^      |
 *                             |                                                 +------+ a side is lost, or moves
 *                             +--deletion--> (handed back, released) --> nothing left
 *
 * A failover needs none of this: agents and quorum see to it, and here it is only reported. What the operator does is give
 * them the places to work in: two nodes, two sets of volumes, two instances, and new ones when they are gone.
 */
import { guestNameOf } from "./guest-names.ts";
import { type ClusterNode, type Vmi } from "./cluster-objects.ts";
import { findFreePort, isFree } from "./engine-ports.ts";
import { findStranger, mayRestart, planAdoption } from "./adoption.ts";
import { type PartialPlan, planCreation } from "./creation.ts";
import { findAnySource, findSource, type GuestSource } from "./guest-source.ts";
import { findWhyToFollow, type Group, listNodesBeside, viewGroup } from "./guest-group.ts";
import { planMarks } from "./marks.ts";
import { findMisplacement, type Misplacement } from "./misplacement.ts";
import { LOSS_GRACE_MS } from "./node-fitness.ts";
import { noWork, planWork, type Work } from "./planned-work.ts";
import { type Leaving, planRoles } from "./pair-roles.ts";
import { encodePair, findReplaceable, isApplied, ownPort, type Replacement, type Subject } from "./pair-spec.ts";
import { isLost, isMaintained, listFaults, type PairView, peerOf, type SideView, viewPair } from "./pair-view.ts";
import { findIsolation } from "./component-faults.ts";
import { planClear, sayIsolated } from "./fault-report.ts";
import { planGivingUp } from "./placed-anew.ts";
import { decideReplacement, sayPairUnknown } from "./placement.ts";
import { encodePlacementInput, ruleOf } from "./placement-input.ts";
import { isMeant } from "./placement-rule.ts";
import { planDeletion } from "./protected-vm-deletion.ts";
import {
  type Action,
  deleteInstance,
  type DesiredPair,
  limitActions,
  type Observed,
  type Plan,
  type PlannedEvent,
} from "./protected-vm-plan.ts";
import { type Findings, planStatus, planStatusEvents } from "./protected-vm-status.ts";
import { planSideInstance } from "./side-instance.ts";
import { type SidePlan } from "./side-recipe.ts";
import { planThaw } from "./thaw.ts";
import { type GuestIdentity } from "./twin-recipe.ts";
import { listSideVolumes, planVolumeGarbage } from "./volumes.ts";

export const FINALIZER = "twinrun.dev/protection";

/** A condition that only time changes is looked at again after this. */
const RECHECK_MS = 5_000;
const TURN_RECHECK_MS = 1_000;
const STALLED_RECHECK_MS = 30_000;

export function planProtectedVm(observed: Observed): Plan {
  const { metadata } = observed.protectedVm;
  const identity = identify(observed);
  const view = observed.pair === undefined ? undefined : viewPair(observed, observed.pair);
  const faults = view?.faults ?? listFaults(observed, []);
  if (metadata.deletionTimestamp !== undefined) {
    const known = findAnySource(observed);
    return planEnd(observed, view, known.tag === "found" ? { observed, source: known.source, identity } : undefined);
  }
  const choice = findSource(observed);
  const base = { guest: identity.guest, view, faults };
  if (choice.tag === "stalled") {
    return conclude(observed, [], { ...base, stalled: choice });
  }
  const subject = { observed, source: choice.source, identity };
  const plan = view === undefined ? planCreation(subject) : planPaired(subject, view);
  const finalizer: readonly Action[] =
    metadata.finalizers?.includes(FINALIZER) === true ? [] : [{ tag: "applyFinalizer" }];
  return conclude(observed, [...finalizer, ...plan.actions], { ...base, ...plan.findings }, plan.events);
}

/** A ProtectedVM that an API server gave out has a name, a namespace and a uid. */
function identify({ protectedVm: { metadata } }: Observed): GuestIdentity {
  const { name, namespace = "", uid = "" } = metadata;
  return { name, namespace, uid, guest: guestNameOf(name, uid) };
}

function conclude(
  observed: Observed,
  actions: readonly Action[],
  findings: Findings,
  events: readonly PlannedEvent[] = [],
): Plan {
  const status = planStatus(observed, findings);
  const clear = planClear(observed, findings.faults);
  return {
    actions: limitActions([...clear.actions, ...actions]),
    status,
    events: [...clear.events, ...events],
    changes: planStatusEvents(observed, status),
    recheckAfterMs: decideRecheck(findings),
  };
}

function decideRecheck({ settlesInMs, ...findings }: Findings): number | undefined {
  return settlesInMs ?? decideUsualRecheck(findings);
}

function decideUsualRecheck(findings: Omit<Findings, "settlesInMs">): number | undefined {
  const { stalled, waitsFor, moving, work, deleting, view, faults } = findings;
  if (stalled !== undefined) {
    return STALLED_RECHECK_MS;
  }
  if (work !== undefined) {
    return TURN_RECHECK_MS;
  }
  const isWaiting = [waitsFor, moving, deleting].some((each) => each !== undefined);
  const isAway = view?.sides.some(({ state }) => state.awaySinceMs !== undefined) === true;
  if (isWaiting || isAway || view?.isBetween === true) {
    return RECHECK_MS;
  }
  // Of a node that has no side any more nothing else tells that it is back.
  return faults.some(({ repairedAt }) => repairedAt === undefined) ? STALLED_RECHECK_MS : undefined;
}

function planPaired(subject: Subject, view: PairView): PartialPlan {
  const givingUp = planGivingUp(subject, view);
  return givingUp === undefined
    ? planUpkeep(subject, view)
    : { actions: givingUp.actions, findings: { waitsFor: givingUp.waitsFor }, events: [] };
}

/** `handBackTo`: the pair goes on only until the guest is there. */
function planUpkeep(subject: Subject, view: PairView, handBackTo?: string): PartialPlan {
  const { observed } = subject;
  const { work, replacement, leaves } = handBackTo === undefined ? planMoves(subject, view) : noMoves;
  const rolePlan = planRoles(observed, view, { handBackTo, leaves });
  const renewal = planRenewal(work);
  const thaw = planThaw(view, observed.nowMs);
  const desired = encodePair(subject, view, { rolePlan, intent: "Protect", replacement, work });
  const kept = view.sides.filter(({ node }) => node !== replacement?.lost.node);
  const sides = kept.map((side) => planSide(subject, view, side));
  const trouble = sides.find((side) => side.trouble !== undefined)?.trouble;
  const missing = (): Findings["stalled"] =>
    findIsolatedSide(subject, view, replacement) ?? findMissingNode(subject, view, replacement);
  const stalled = trouble === undefined ? missing() : storageUnusable(trouble);
  return {
    actions: [
      ...rolePlan.actions, // First: a request that was answered must not be taken for a new one.
      ...(isApplied(view.pair, desired) ? [] : [{ tag: "applyPair", pair: desired } as const]),
      ...sides.flatMap(({ actions }) => actions),
      ...kept.flatMap((side) => planMarks(subject, side)),
      ...renewal.actions,
      ...planLeftovers(subject, view, desired),
      ...thaw.actions,
    ],
    findings: {
      stalled,
      waitsFor: sides.find(({ waitsFor }) => waitsFor !== undefined)?.waitsFor,
      moving: rolePlan.says,
      work: work.says,
    },
    events: [
      ...rolePlan.events,
      ...(replacement === undefined ? [] : [sayReplacement(replacement)]),
      ...renewal.events,
      ...thaw.events,
    ],
  };
}

const storageUnusable = (message: string): NonNullable<Findings["stalled"]> => ({ reason: "StorageUnusable", message });

/** A VirtualMachine that still runs as it did before it was adopted is prepared, then ended; KubeVirt starts it again for us. */
function planSide(subject: Subject, view: PairView, side: SideView): SidePlan {
  const { observed, source, identity } = subject;
  const stranger = side.isVirtualMachine ? findStranger(observed, source, identity.guest) : undefined;
  if (stranger === undefined) {
    return planSideInstance(subject, view, side);
  }
  const preparation = planAdoption(subject, view);
  const isPrepared = preparation.length === 0;
  const restart = isPrepared && mayRestart(observed) && stranger.metadata.deletionTimestamp === undefined;
  return {
    actions: restart ? [deleteInstance(stranger, "it is restarted once, with Twinrun's hook")] : preparation,
    waitsFor: `the end of ${stranger.metadata.name}, which is restarted once`,
  };
}

type Moves = {
  readonly work: Work;
  readonly replacement: Replacement | undefined;
  readonly leaves: Leaving | undefined;
};
const noMoves: Moves = { work: noWork, replacement: undefined, leaves: undefined };

function planMoves(subject: Subject, view: PairView): Moves {
  const { observed } = subject;
  const group = viewGroup(observed);
  const misplaced = findMisplacement(observed, view, group);
  const work = planWork(observed, view, { substitute: findSubstitute(subject, view, misplaced), misplaced });
  return { work, replacement: findReplacement(subject, view, work), leaves: findWhyToLeave(work, group, view) };
}

/** A group changes sides at once; planned work waits for its turn. */
function findWhyToLeave({ wish }: Work, group: Group | undefined, view: PairView): Leaving | undefined {
  const follows = findWhyToFollow(group, view);
  if (follows !== undefined) {
    return { why: follows, reason: "Following" };
  }
  return wish?.tag === "leave" ? { why: wish.why, reason: "Evacuating" } : undefined;
}

function planRenewal({ wish }: Work): {
  readonly actions: readonly Action[];
  readonly events: readonly PlannedEvent[];
} {
  if (wish?.tag !== "renew") {
    return { actions: [], events: [] };
  }
  const message = `${wish.why}: it is made anew, and copied to`;
  return { actions: [deleteInstance(wish.vmi, wish.why)], events: [{ type: "Normal", reason: "Renewing", message }] };
}

/** The node that could have the side that is on a node in maintenance, or not where it is wanted. */
function findSubstitute(
  subject: Subject,
  view: PairView,
  misplaced: Misplacement | undefined,
): ClusterNode | undefined {
  const isWanted = misplaced !== undefined && !view.sides.some(isMaintained);
  if (isWanted && misplaced.side === "primary" && view.primary?.isVirtualMachine === false) {
    return findPlaceFor(subject, view, view.primary)?.node; // Once it is the standby's.
  }
  return findOtherPlace(subject, view, isWanted ? (): boolean => misplaced.side === "standby" : isMaintained)?.node;
}

const findReplacement = (subject: Subject, view: PairView, { wish }: Work): Replacement | undefined =>
  findOtherPlace(subject, view, (side) => wish?.tag === "giveUp" || isGivenUp(subject.observed, view, side));

function findOtherPlace(
  subject: Subject,
  view: PairView,
  isToGo: (side: SideView) => boolean,
): Replacement | undefined {
  const lost = findReplaceable(view, isToGo);
  return lost === undefined ? undefined : findPlaceFor(subject, view, lost);
}

function findPlaceFor(subject: Subject, view: PairView, lost: SideView): Replacement | undefined {
  const { observed } = subject;
  if (observed.protectedVm.spec.failover.reprotect === "Manual") {
    return undefined;
  }
  const places = { lost: lost.node, stays: peerOf(view, lost).node };
  const group = viewGroup(observed);
  const beside = listNodesBeside(group, subject.identity.guest, places);
  const input = encodePlacementInput(subject, {
    faults: view.faults,
    current: undefined,
    unreachable: new Map(),
    group: group && beside && { name: group.name, nodes: beside, first: "" },
    fullLinks: new Map(),
  });
  const node = decideReplacement(input, places, view.notes.machine);
  const port = node === undefined ? undefined : findPort(observed, ownPort(view), [places.stays, node.metadata.name]);
  return node === undefined || port === undefined ? undefined : { lost, node, port };
}

/** The guest's own where that is free: the peer is new to its engines in any case, so another port costs nothing. */
function findPort({ settings, usedPorts }: Observed, own: number, nodes: readonly string[]): number | undefined {
  return isFree(own, usedPorts, nodes) ? own : findFreePort(settings.ports, usedPorts, nodes);
}

/** A side that is in sync is there, whatever its node's conditions say. */
function isGivenUp(observed: Observed, view: PairView, side: SideView): boolean {
  const find = (name: string): ClusterNode | undefined => observed.nodes.find(({ metadata }) => metadata.name === name);
  const place = { name: side.node, node: find(side.node) };
  const isElsewhere = !isMeant(ruleOf(observed), place, find(peerOf(view, side).node));
  const isFaulty = findIsolation(view.faults, side.node) !== undefined;
  const isUnfit = isLost(side, observed.nowMs) || isFaulty || isMaintained(side);
  return isElsewhere || (!view.isInSync && isUnfit);
}

function sayReplacement({ lost, node }: Replacement): PlannedEvent {
  const message = `${node.metadata.name} takes the place of ${lost.node}`;
  return { type: "Normal", reason: "Reprotecting", message };
}

/** The other side may not be used, and nothing can take its place. */
function findIsolatedSide(
  { observed }: Subject,
  view: PairView,
  replacement: Replacement | undefined,
): Findings["stalled"] {
  const { primary, isInSync, faults } = view;
  if (primary === undefined || isInSync || replacement !== undefined) {
    return undefined;
  }
  const isolation = findIsolation(faults, peerOf(view, primary).node);
  return isolation && { reason: "Isolated", message: sayIsolated(isolation, observed.protectedVm) };
}

/** Its side is lost and nothing can take its place: a person has to bring back the node, or another one. */
function findMissingNode(
  { observed }: Subject,
  view: PairView,
  replacement: Replacement | undefined,
): Findings["stalled"] {
  const { primary, isInSync, hasEnded } = view;
  const rule = ruleOf(observed);
  if (rule.tag === "unknown") {
    return sayPairUnknown(rule.pair);
  }
  if (replacement !== undefined || isInSync || hasEnded) {
    return undefined;
  }
  const waiting = primary === undefined ? view.sides : [peerOf(view, primary)];
  // Who took a node out of service knows when it comes back.
  const lost = waiting.filter((side) => isLost(side, observed.nowMs) && !isMaintained(side));
  if (lost.length === 0 || lost.length < waiting.length) {
    return undefined;
  }
  const says = lost.map(({ node, state }) => `${node}: ${state.obstacle ?? "away"}`).join("; ");
  const remedy = rule.tag === "nodes" ? "bring it back" : "bring it back, or let another node have the labels";
  const message = `away for more than ${LOSS_GRACE_MS / 1000} s: ${says}; ${remedy}`;
  return { reason: "NodesMissing", message };
}

/** What belongs to sides that the pair no longer has. Their volumes are the last to go: not before both sides are whole. */
function planLeftovers(
  { observed, source, identity }: Subject,
  view: PairView,
  desired: DesiredPair,
): readonly Action[] {
  const nodes = desired.spec.sides.map(({ node }) => node);
  const names = desired.spec.sides.map(({ vmi }) => `${vmi.namespace}/${vmi.name}`);
  const instances = observed.vmis.filter(
    (vmi) => !names.includes(`${vmi.metadata.namespace ?? ""}/${vmi.metadata.name}`) && isOurs(vmi, source, identity),
  );
  const reports = (view.pair.status?.sides ?? []).map(({ node }) => node).filter((node) => !nodes.includes(node));
  const isWhole = view.isInSync && view.sides.every(({ node }) => nodes.includes(node));
  const kept = view.sides.flatMap((side) => listSideVolumes(source, side, identity.namespace));
  return [
    ...(reports.length === 0 ? [] : [{ tag: "forgetReports", nodes: reports } as const]),
    ...instances
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
      .map((vmi) => deleteInstance(vmi, "its node has no side of the guest any more")),
    ...(isWhole ? planVolumeGarbage(observed, kept) : []),
  ];
}

const isOurs = ({ metadata }: Vmi, { virtualMachine }: GuestSource, { namespace, guest }: GuestIdentity): boolean =>
  metadata.labels?.["twinrun.dev/guest"] === guest &&
  !(metadata.name === virtualMachine?.metadata.name && metadata.namespace === namespace);

/** `subject` is undefined when there is nothing any more that the guest could be made from. */
function planEnd(observed: Observed, view: PairView | undefined, subject: Subject | undefined): Plan {
  const { guest } = identify(observed);
  const step = planDeletion(observed, guest, view);
  const findings = { guest, view, faults: view?.faults ?? listFaults(observed, []), deleting: step.says };
  if (step.tag === "remove") {
    return conclude(observed, step.actions, findings);
  }
  if (view === undefined || subject === undefined) {
    return conclude(observed, [], findings);
  }
  if (step.tag === "handBack") {
    const { actions, events } = planUpkeep(subject, view, step.node);
    return conclude(observed, actions, findings, events);
  }
  const desired = encodePair(subject, view, {
    rolePlan: planRoles(observed, view, { handBackTo: view.primary?.node ?? "" }),
    intent: "Release",
    replacement: undefined,
    work: noWork,
  });
  const actions: readonly Action[] = isApplied(view.pair, desired) ? [] : [{ tag: "applyPair", pair: desired }];
  return conclude(observed, actions, findings);
}
