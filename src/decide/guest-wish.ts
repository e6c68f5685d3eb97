/**
 * When an agent does what a GuestPair wishes for.
 *
 * A change of sides waits until the owner is in sync with its peer; then its engine is asked once for the term that was wished
 * for (once more by each engine that comes after). A failover is carried out once for each time that it is asked for: who asks
 * takes the annotation away, and only then it may be asked for again. A guest that rests is started for as long as that is asked.
 */
import { type EngineReport } from "../protocol/assignment.ts";
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
};

export type WishAction =
  /** `key` tells this request from others. */
  | { readonly tag: "requestSwitchover"; readonly key: string }
  | { readonly tag: "failGuest" }
  | { readonly tag: "startGuest" }
  /** What was carried out, or refused, is not wished for any more. */
  | { readonly tag: "forgetSwitchover" }
  | { readonly tag: "forgetFailover" };

export function planWish(view: WishView): readonly WishAction[] {
  const start: readonly WishAction[] = view.isResting && view.wish.isStartAsked ? [{ tag: "startGuest" }] : [];
  return [...planSwitchover(view), ...planFailover(view), ...start];
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
