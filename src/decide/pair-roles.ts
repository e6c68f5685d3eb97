/**
 * Who is to run the guest: what people ask for by annotations, what an eviction and the end of an adoption need. It is only
 * ever asked for; the owner's engine hands over when it can, and the quorum's record says what became of it.
 *
 *   requested --asked--> waiting --the record says so--> done
 *       |                   |
 *       +----- refused -----+-- the owner reports trouble, or two minutes are over
 *
 * A role that was asked for in vain stays in the pair's spec, for roles only go forward: its term may yet be reached by a
 * failover, and then it means nothing.
 */
import {
  LAST_OVERRIDE_ANNOTATION,
  type OverrideRequest,
  parseOverrideRequest,
  requestAnnotations,
} from "../api/requests.ts";
import { type GuestPair } from "../api/guest-pair.ts";
import { isCold, type PairView, peerOf } from "./pair-view.ts";
import { type Action, type Observed, type PlannedEvent } from "./protected-vm-plan.ts";

export type Roles = GuestPair["spec"]["roles"];

export type RolePlan = {
  readonly roles: Roles;
  /** When they were asked for; undefined when nobody waits for them. */
  readonly rolesAt: string | undefined;
  /** The node that is to lose the guest. */
  readonly failoverFrom: string | undefined;
  /** Sides that rest because the guest shut itself down are to start it again. */
  readonly isStartAsked: boolean;
  /** The override that the agent of its node is to carry out. */
  readonly override?: OverrideRequest | undefined;
  readonly actions: readonly Action[];
  readonly events: readonly PlannedEvent[];
  /** What is going on, for people; undefined when nothing is. */
  readonly says: string | undefined;
};

export const REQUEST_LIMIT_MS = 120_000;

export type RoleNeeds = {
  /** The node that has to run the guest before the pair can be released. */
  readonly handBackTo?: string | undefined;
  /** Why the guest is to leave the side that runs it, now that it can. */
  readonly leaves?: Leaving | undefined;
};

export type Leaving = { readonly why: string; readonly reason: "Evacuating" | "Following" };

export function planRoles(observed: Observed, view: PairView, { handBackTo, leaves }: RoleNeeds = {}): RolePlan {
  const annotations = observed.protectedVm.metadata.annotations ?? {};
  const [target, lost] = [annotations[requestAnnotations.switchoverTo], annotations[requestAnnotations.failoverFrom]];
  if (annotations[requestAnnotations.forceOwner] !== undefined) {
    return planOverride(observed, view, parseOverrideRequest(annotations[requestAnnotations.forceOwner]));
  }
  if (annotations[requestAnnotations.start] !== undefined) {
    return planStart(view);
  }
  if (handBackTo !== undefined) {
    return planHandBack(observed, view, handBackTo);
  }
  if (target !== undefined) {
    return planSwitchover(observed, view, target);
  }
  return lost === undefined ? planEvacuation(observed, view, leaves) : planFailover(observed, view, lost);
}

function keepRoles({ pair: { spec } }: PairView): RolePlan {
  const nothing = { rolesAt: undefined, failoverFrom: undefined, isStartAsked: false, says: undefined };
  return { roles: spec.roles, ...nothing, actions: [], events: [] };
}

/** Until the guest runs and no side rests any more: one that is away now would go on resting when it is back. */
function planStart(view: PairView): RolePlan {
  const { primary, sides } = view;
  const isResting = sides.some(({ report }) => report?.role === "ended");
  return primary === undefined || isCold(primary) || isResting
    ? { ...keepRoles(view), isStartAsked: true, says: "the guest is started again" }
    : closeRequest(view, "start", { type: "Normal", reason: "Started", message: `the guest runs on ${primary.node}` });
}

function planHandBack(observed: Observed, view: PairView, node: string): RolePlan {
  const isPossible = view.primary !== undefined && view.primary.node !== node && view.isInSync;
  return isPossible ? askFor(observed, view, node) : keepRoles(view);
}

/** Asks for the other side, once; again when nothing came of it. */
function askFor({ nowMs }: Observed, view: PairView, primary: string): RolePlan {
  const kept = keepRoles(view);
  const says = `the guest moves to ${primary}`;
  if (isPending(view, primary) && !isExpired(view, nowMs)) {
    return { ...kept, rolesAt: view.notes.rolesAt, says };
  }
  const term = Math.max(view.term, kept.roles.term) + 1;
  return { ...kept, roles: { term, primary }, rolesAt: new Date(nowMs).toISOString(), says };
}

/** Also while the old side has said already that it is not primary any more, and the new one not yet that it is. */
const isPending = ({ pair: { spec }, notes, term, primary: present }: PairView, primary: string): boolean =>
  notes.rolesAt !== undefined && spec.roles.primary === primary && (spec.roles.term > term || present === undefined);

const isExpired = ({ notes }: PairView, nowMs: number): boolean =>
  notes.rolesAt !== undefined && nowMs - Date.parse(notes.rolesAt) >= REQUEST_LIMIT_MS;

type RequestName = keyof typeof requestAnnotations;

/** Done or refused: the annotation goes, and an event says which. */
function closeRequest(
  view: PairView,
  request: RequestName,
  event: PlannedEvent,
  leaves?: Readonly<Record<string, string>>,
): RolePlan {
  const clear: Action = { tag: "clearRequest", annotation: requestAnnotations[request], leaves };
  return { ...keepRoles(view), actions: [clear], events: [event] };
}

/**
 * The quorum's rule is not asked, so whatever can be seen of the other side is: as long as its node, its agent or its report is
 * there, it may run the guest, or go on with it in a moment.
 */
function planOverride(observed: Observed, view: PairView, override: OverrideRequest | undefined): RolePlan {
  if (override === undefined) {
    const message = "it says not who asks, why, when and for which node; use kubectl twinrun failover --force-owner";
    return closeRequest(view, "forceOwner", refused("OverrideRefused", message));
  }
  const { node, who, why } = override;
  if (view.sides.some(({ report }) => report?.override?.at === override.at)) {
    const message = `${who} made ${node} the owner of the guest: ${why}`;
    const leaves = { [LAST_OVERRIDE_ANNOTATION]: JSON.stringify(override) };
    return closeRequest(view, "forceOwner", { type: "Warning", reason: "OwnerForced", message }, leaves);
  }
  const obstacle = findOverrideObstacle(view, override, observed.nowMs);
  return obstacle === undefined
    ? { ...keepRoles(view), override, says: `${node} is made the owner of the guest, as ${who} said` }
    : closeRequest(view, "forceOwner", refused("OverrideRefused", obstacle));
}

function findOverrideObstacle({ sides }: PairView, override: OverrideRequest, nowMs: number): string | undefined {
  const side = sides.find(({ node }) => node === override.node);
  const other = sides.find(({ node }) => node !== override.node);
  if (side === undefined || other === undefined) {
    return `${override.node} has no side of the guest; its sides are on ${sides.map(({ node }) => node).join(" and ")}`;
  }
  if (nowMs - Date.parse(override.at) > REQUEST_LIMIT_MS) {
    return `${override.node} did not carry it out within ${REQUEST_LIMIT_MS / 1000} s; its agent says why, ask again`;
  }
  const isThere = other.state.awaySinceMs === undefined || !other.isSilent;
  return isThere && !override.isCertain
    ? `${other.node} may run the guest, for its node or its agent is there: power it off first, or say that you know better`
    : undefined;
}

const refused = (
  reason: "SwitchoverRefused" | "FailoverRefused" | "OverrideRefused",
  message: string,
): PlannedEvent => ({
  type: "Warning",
  reason,
  message,
});

function planSwitchover(observed: Observed, view: PairView, target: string): RolePlan {
  const close = (event: PlannedEvent): RolePlan => closeRequest(view, "switchoverTo", event);
  if (view.primary?.node === target) {
    return close({ type: "Normal", reason: "SwitchedOver", message: `the guest runs on ${target}` });
  }
  if (isPending(view, target)) {
    const trouble = findTrouble(view, observed.nowMs);
    return trouble === undefined ? askFor(observed, view, target) : close(refused("SwitchoverRefused", trouble));
  }
  const obstacle = findSwitchObstacle(view, target);
  return obstacle === undefined ? askFor(observed, view, target) : close(refused("SwitchoverRefused", obstacle));
}

function findSwitchObstacle({ sides, primary, isInSync }: PairView, target: string): string | undefined {
  if (!sides.some(({ node }) => node === target)) {
    return `${target} has no side of the guest; its sides are on ${sides.map(({ node }) => node).join(" and ")}`;
  }
  if (primary === undefined) {
    return "no side runs the guest at the moment";
  }
  return isInSync ? undefined : "the standby is not in sync; wait until condition InSync is True";
}

function findTrouble({ pair, primary, notes }: PairView, nowMs: number): string | undefined {
  const report = primary?.report;
  const hasSeenIt = report !== undefined && report.observedGeneration >= (pair.metadata.generation ?? 0);
  if (hasSeenIt && report.trouble !== undefined) {
    return report.trouble;
  }
  const isLate = notes.rolesAt !== undefined && nowMs - Date.parse(notes.rolesAt) >= REQUEST_LIMIT_MS;
  return isLate
    ? `the guest did not move within ${REQUEST_LIMIT_MS / 1000} s; see the conditions for what is wrong`
    : undefined;
}

function planFailover(observed: Observed, view: PairView, node: string): RolePlan {
  const close = (event: PlannedEvent): RolePlan => closeRequest(view, "failoverFrom", event);
  const isAsked = view.pair.metadata.annotations?.[requestAnnotations.failoverFrom] === node;
  if (isAsked && view.primary !== undefined && view.primary.node !== node) {
    return close({ type: "Normal", reason: "FailedOver", message: `the guest was taken over by ${view.primary.node}` });
  }
  if (isAsked) {
    return isExpired(view, observed.nowMs)
      ? close(refused("FailoverRefused", `nothing came of it within ${REQUEST_LIMIT_MS / 1000} s`))
      : { ...keepRoles(view), rolesAt: view.notes.rolesAt, failoverFrom: node, says: `${node} is to lose the guest` };
  }
  const obstacle = findFailoverObstacle(view, node);
  if (obstacle !== undefined) {
    return close(refused("FailoverRefused", obstacle));
  }
  const rolesAt = new Date(observed.nowMs).toISOString();
  return { ...keepRoles(view), rolesAt, failoverFrom: node, says: `${node} is to lose the guest` };
}

function findFailoverObstacle({ primary, isInSync }: PairView, node: string): string | undefined {
  if (primary?.node !== node) {
    return `${node} does not run the guest; ${primary === undefined ? "no side does" : `${primary.node} does`}`;
  }
  return isInSync ? undefined : "the standby is not in sync, so the guest would be lost";
}

/** A drain asks KubeVirt to move the guest, and KubeVirt leaves it to us; and planned work does. */
function planEvacuation(observed: Observed, view: PairView, leaves: Leaving | undefined): RolePlan {
  const { primary } = view;
  const drained: Leaving = { why: `${primary?.node ?? ""} is drained`, reason: "Evacuating" };
  const leaving = primary?.isEvacuated === true ? drained : leaves;
  if (primary === undefined || leaving === undefined || !view.isInSync || peerOf(view, primary).isEvacuated) {
    return keepRoles(view);
  }
  const { why, reason } = leaving;
  const peer = peerOf(view, primary);
  const plan = askFor(observed, view, peer.node);
  const message = `${why}: the guest moves to ${peer.node}`;
  const isFirst = plan.roles !== view.pair.spec.roles;
  return { ...plan, events: isFirst ? [{ type: "Normal", reason, message }] : [] };
}
