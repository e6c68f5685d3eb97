/**
 * When an agent does what a GuestPair wishes for.
 *
 * A change of sides waits until the owner is in sync with its peer; then its engine is asked once for the term that was wished
 * for (once more by each engine that comes after). A failover is carried out once for each time that it is asked for: who asks
 * takes the annotation away, and only then it may be asked for again. A guest that rests is started for as long as that is asked.
 */
import { type OverrideRequest } from "../api/requests.ts";
import { type EngineReport } from "../protocol/assignment.ts";
import { type QuorumSeat } from "../protocol/quorum-record.ts";
import { type GuestWish } from "./pair-assignment.ts";

export type WishView = {
  readonly node: string;
  readonly peerNode: string;
  readonly wish: GuestWish;
  /** Null while no engine speaks. */
  readonly report: EngineReport | null;
  readonly enginePid: number | null;
  /** Of the switchover that was asked for last; see {@link WishAction}. */
  readonly askedKey: string | undefined;
  readonly hasFailedOver: boolean;
  /** It shut itself down. */
  readonly isResting: boolean;
  /** Since the engine was last asked to put another quorum in force. */
  readonly movedBeforeMs: number;
  /** The same for an override. */
  readonly forcedBeforeMs: number;
};

export type WishAction =
  /** `key` tells this request from others. */
  | { readonly tag: "requestSwitchover"; readonly key: string }
  | { readonly tag: "failGuest" }
  | { readonly tag: "startGuest" }
  | { readonly tag: "moveQuorum"; readonly to: QuorumSeat }
  | { readonly tag: "force"; readonly override: OverrideRequest }
  /** What was carried out, or refused, is not wished for any more. */
  | { readonly tag: "forgetSwitchover" }
  | { readonly tag: "forgetFailover" };

export function planWish(view: WishView): readonly WishAction[] {
  const start: readonly WishAction[] = view.isResting && view.wish.isStartAsked ? [{ tag: "startGuest" }] : [];
  return [...planSwitchover(view), ...planFailover(view), ...start, ...planQuorumMove(view), ...planOverride(view)];
}

/** Asked for until the record says so: an engine may be away, and the quorum's answer get lost. */
function planOverride({ wish: { override }, report, forcedBeforeMs }: WishView): readonly WishAction[] {
  const isDue = report !== null && forcedBeforeMs >= FORCE_AGAIN_MS;
  return override !== undefined && isDue && report.override?.at !== override.at ? [{ tag: "force", override }] : [];
}

const FORCE_AGAIN_MS = 10_000;

const MOVE_AGAIN_MS = 5_000;

/** Both sides are told: the first moves the record, the other one finds it moved. Again and again, for either may have to wait. */
function planQuorumMove({ wish: { quorumSeat }, report, movedBeforeMs }: WishView): readonly WishAction[] {
  const wanted = report?.quorums?.find(({ seat }) => seat === quorumSeat);
  const isDue = wanted?.reachable === true && !wanted.inForce && movedBeforeMs >= MOVE_AGAIN_MS;
  return isDue && report !== null && report.term > 0 ? [{ tag: "moveQuorum", to: wanted.seat }] : [];
}

function planSwitchover({ wish, report, peerNode, enginePid, askedKey, node }: WishView): readonly WishAction[] {
  const { roles } = wish;
  if (report === null || report.term === 0) {
    return [];
  }
  if (roles.term <= report.term || roles.primary !== peerNode || report.primaryNode !== node) {
    return askedKey === undefined ? [] : [{ tag: "forgetSwitchover" }];
  }
  const key = `${roles.term}.${enginePid ?? 0}`;
  return isProtectedPrimary(report) && askedKey !== key ? [{ tag: "requestSwitchover", key }] : [];
}

function planFailover({ wish, node, report, hasFailedOver }: WishView): readonly WishAction[] {
  if (wish.failoverFrom !== node) {
    return hasFailedOver ? [{ tag: "forgetFailover" }] : [];
  }
  return !hasFailedOver && report !== null && isProtectedPrimary(report) ? [{ tag: "failGuest" }] : [];
}

const isProtectedPrimary = ({ role, state }: EngineReport): boolean => role === "primary" && state === "protected";
