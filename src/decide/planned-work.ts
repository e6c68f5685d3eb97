/**
 * Work on a guest that can wait: it leaves a node that is in maintenance, and its instances move to KubeVirt's new launchers.
 *
 * Each of it takes the guest's protection away until a copy is whole again, so guests take turns. A guest that wants something
 * writes down since when (turnAt, in its pair's notes), and goes when nobody has waited for longer; it has the turn until it is
 * whole again, or cannot become so here, or for ten minutes at most, so that one that is stuck holds up nobody for ever.
 *
 *   nothing to do --wants something, nothing holds it--> waiting --its turn--> moved --whole again--> nothing to do
 */
import { type ClusterNode, type Vmi } from "./cluster-objects.ts";
import { findMaintenance, nameMaintenance } from "./maintenance.ts";
import { type PairBrief } from "./pair-brief.ts";
import { type Misplacement } from "./misplacement.ts";
import { isMaintained, type PairView, peerOf, type SideView } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";

/** Other pairs see what is written a moment later. */
const SETTLE_MS = 2_000;
const TURN_LIMIT_MS = 600_000;

type Wish =
  /** The guest is to be handed over to its standby. */
  | { readonly tag: "leave"; readonly why: string }
  /** The standby is to be on another node, though it is in sync. */
  | { readonly tag: "giveUp"; readonly why: string }
  /** The standby is to have another instance. */
  | { readonly tag: "renew"; readonly why: string; readonly vmi: Vmi };

export type Work = {
  readonly wish: Wish | undefined;
  /** It is this guest's turn, or has been since then. */
  readonly turnAt: string | undefined;
  readonly says: string | undefined;
  /** The maintenance for which there is nothing to do any more. */
  readonly settledFor: string | undefined;
};

export const noWork: Work = { wish: undefined, turnAt: undefined, says: undefined, settledFor: undefined };

export type Need = {
  /** The node that could take the place of the standby's, which is in maintenance, or not where it is wanted. */
  readonly substitute: ClusterNode | undefined;
  /** What other guests have against where this one is; see misplacement.ts. */
  readonly misplaced: Misplacement | undefined;
};

/** The wish is one whose turn it is. */
export function planWork(observed: Observed, view: PairView, { substitute, misplaced }: Need): Work {
  const wish = findWish(observed, view, { substitute, misplaced });
  const settledFor = findSettled(view, wish !== undefined || substitute !== undefined);
  if (wish === undefined) {
    return { ...noWork, turnAt: keepsTurn(observed, view, substitute) ? view.notes.turnAt : undefined, settledFor };
  }
  const hold = findHold(observed, view, wish);
  if (hold !== undefined) {
    return { ...noWork, says: `${wish.why}; it waits ${hold}`, settledFor };
  }
  const turnAt = isFresh(view.notes.turnAt, observed.nowMs)
    ? view.notes.turnAt
    : new Date(observed.nowMs).toISOString();
  const before = findEarlier(observed, view, turnAt);
  const isTurn = before === undefined && observed.nowMs - Date.parse(turnAt) >= SETTLE_MS;
  const after = before === undefined ? "" : `; it waits for ${before.guest}`;
  return { wish: isTurn ? wish : undefined, turnAt, says: `${wish.why}${after}`, settledFor };
}

function findWish(observed: Observed, view: PairView, { substitute, misplaced }: Need): Wish | undefined {
  const { primary } = view;
  if (primary === undefined || !view.isInSync) {
    return undefined;
  }
  const standby = peerOf(view, primary);
  if (!isMaintained(primary) && !isMaintained(standby)) {
    const renewal = observed.settings.renewsLaunchers ? findRenewal(primary, standby) : undefined;
    return findBetterPlace({ substitute, misplaced }) ?? renewal;
  }
  if (isMaintained(primary)) {
    return isMaintained(standby) ? undefined : { tag: "leave", why: `${primary.node} is in maintenance` };
  }
  return substitute === undefined ? undefined : { tag: "giveUp", why: `${standby.node} is in maintenance` };
}

function findBetterPlace({ substitute, misplaced }: Need): Wish | undefined {
  if (misplaced === undefined || substitute === undefined) {
    return undefined;
  }
  return { tag: misplaced.side === "primary" ? "leave" : "giveUp", why: misplaced.why };
}

/** The standby first: when the guest moves there, it is to new things. */
function findRenewal(primary: SideView, standby: SideView): Wish | undefined {
  if (primary.state.obstacle !== undefined || standby.state.obstacle !== undefined) {
    return undefined;
  }
  if (standby.vmi !== undefined && standby.isOutdated) {
    return { tag: "renew", why: `the launcher of its standby on ${standby.node} is outdated`, vmi: standby.vmi };
  }
  return primary.isOutdated ? { tag: "leave", why: `its launcher on ${primary.node} is outdated` } : undefined;
}

/** What has to be over before a guest even asks for its turn. */
function findHold({ others, nodes }: Observed, { primary, sides }: PairView, wish: Wish): string | undefined {
  const emptied = sides.find(isMaintained)?.node;
  if (emptied !== undefined) {
    const isFirst = wish.tag !== "giveUp" || !others.some((other) => other.primary === emptied && other.isWhole);
    return isFirst || primary === undefined ? undefined : `until no guest runs on ${emptied} any more`;
  }
  const marked = nodes.find((node) => findMaintenance(node) !== undefined);
  if (marked !== undefined) {
    return `for the end of the maintenance of ${marked.metadata.name}`;
  }
  const broken = others.find(({ isWhole }) => !isWhole);
  return broken === undefined ? undefined : `until ${broken.guest} is whole`;
}

const isFresh = (turnAt: string | undefined, nowMs: number): turnAt is string =>
  turnAt !== undefined && nowMs - Date.parse(turnAt) < TURN_LIMIT_MS;

function findEarlier({ others, nowMs }: Observed, { pair }: PairView, turnAt: string): PairBrief | undefined {
  const own = pair.metadata.name;
  return others.find(
    (other) =>
      isFresh(other.turnAt, nowMs) && (other.turnAt < turnAt || (other.turnAt === turnAt && other.guest < own)),
  );
}

/** What was begun in its turn is not over yet. */
function keepsTurn({ nowMs }: Observed, view: PairView, substitute: ClusterNode | undefined): boolean {
  const { primary, notes, isInSync, hasEnded } = view;
  if (!isFresh(notes.turnAt, nowMs) || isInSync || hasEnded) {
    return false;
  }
  return primary === undefined || substitute !== undefined || peerOf(view, primary).state.obstacle === undefined;
}

/** One that rests on the node, or whose standby has no other place, is not moved. */
function findSettled({ sides, primary, hasEnded }: PairView, hasMoves: boolean): string | undefined {
  const [side, ...more] = sides.filter(isMaintained);
  const maintenance = findMaintenance(side?.state.node);
  if (side === undefined || maintenance === undefined || more.length > 0 || hasMoves) {
    return undefined;
  }
  const isElsewhere = hasEnded || (primary !== undefined && primary !== side);
  return isElsewhere ? nameMaintenance(side.node, maintenance) : undefined;
}
