/**
 * What each guest may put on the links of a node, so that one that changes much memory cannot make its neighbours wait: max-min
 * fair. Every guest may use what it needs up to an equal share; what is left is divided among those that want more.
 *
 * A guest's own needs do not count for its own limit, which is what it could have if it wanted all it can get. So the limit of a
 * quiet guest leaves it room to become loud, down to the equal share and no further, and does not move while it does.
 *
 * A guest uses the links of its node and those of its peer's node; the narrower one counts.
 */
import { type GuestAssignment } from "../protocol/assignment.ts";

export type LinkDemand = {
  readonly guest: string;
  /** What it puts on the links now; Infinity for one that is held back. */
  readonly bytesPerSecond: number;
  /** Whose links it uses: keys of the capacities. Others have no limit. */
  readonly nodes: readonly string[];
};

/** Heartbeats, headers and the other direction's acknowledgements need some as well. */
const SHARE_OF_CAPACITY = 0.9;

/** Bytes a second by guest, for those that use a link whose capacity is known. */
export function shareLinks(
  demands: readonly LinkDemand[],
  capacities: ReadonlyMap<string, number>,
): ReadonlyMap<string, number> {
  const usable = new Map([...capacities].map(([node, bytesPerSecond]) => [node, bytesPerSecond * SHARE_OF_CAPACITY]));
  const limited = demands.filter(({ nodes }) => nodes.some((node) => usable.has(node)));
  return new Map(
    limited.map(({ guest }) => {
      const greedy = limited.map((each) => (each.guest === guest ? { ...each, bytesPerSecond: Infinity } : each));
      return [guest, fillLinks(greedy, usable).get(guest) ?? 0] as const;
    }),
  );
}

/** All rise together; a guest stops at what it wants, or where one of its links is full. */
function fillLinks(demands: readonly LinkDemand[], capacities: ReadonlyMap<string, number>): Map<string, number> {
  const left = new Map(capacities);
  const given = new Map<string, number>();
  let rising = demands;
  while (rising.length > 0) {
    const full = findLevels(rising, left);
    const levels = rising.map(({ bytesPerSecond, nodes }) =>
      Math.min(bytesPerSecond, ...nodes.map((node) => full.get(node) ?? Infinity)),
    );
    const lowest = Math.min(...levels);
    const stopped = rising.filter((_, index) => (levels[index] ?? 0) <= lowest);
    for (const { guest, nodes } of stopped) {
      given.set(guest, lowest);
      nodes.forEach((node) => left.set(node, Math.max(0, (left.get(node) ?? Infinity) - lowest)));
    }
    rising = rising.filter((_, index) => (levels[index] ?? 0) > lowest);
  }
  return given;
}

/** Where the links of each node are full, if all that still rise go on to rise. */
function findLevels(rising: readonly LinkDemand[], left: ReadonlyMap<string, number>): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  rising.flatMap(({ nodes }) => nodes).forEach((node) => counts.set(node, (counts.get(node) ?? 0) + 1));
  return new Map([...counts].map(([node, count]) => [node, (left.get(node) ?? Infinity) / count]));
}

/** A guest that has an engine on this node. */
export type SharingGuest = {
  readonly assignment: Pick<GuestAssignment, "guest" | "peerNode" | "linkCapacity">;
  readonly bytesPerSecond: number;
  /** It was held to its share a moment ago, and would send more. */
  readonly isHeldTo: boolean;
};

const MIB = 2 ** 20;

/** What each engine of `node` may send, in bytes a second. */
export function planLinkShares(guests: readonly SharingGuest[], node: string): ReadonlyMap<string, number> {
  const declared = guests.flatMap(({ assignment: { peerNode, linkCapacity = {} } }) => [
    [node, linkCapacity.ownMiBPerSecond] as const,
    [peerNode, linkCapacity.peerMiBPerSecond] as const,
  ]);
  const capacities = new Map<string, number>();
  for (const [place, mib] of declared) {
    if (mib !== undefined) {
      capacities.set(place, Math.min(mib * MIB, capacities.get(place) ?? Infinity)); // They differ only for a moment.
    }
  }
  const demands = guests.map(({ assignment, bytesPerSecond, isHeldTo }) => ({
    guest: assignment.guest,
    bytesPerSecond: isHeldTo ? Infinity : bytesPerSecond,
    nodes: [node, assignment.peerNode],
  }));
  return shareLinks(demands, capacities);
}

/** Every guest's share wavers with what the others send. */
const WORTH_TELLING = 0.05;

/** Whether an engine has to hear of its new share. */
export function isOtherShare(told: number | undefined, now: number | undefined): boolean {
  return told === undefined || now === undefined ? told !== now : Math.abs(now - told) > WORTH_TELLING * told;
}
