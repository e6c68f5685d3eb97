/**
 * Whether a node's links have room for the checkpoints of one more guest.
 *
 * Known is what engines put on the links now, and the most that a node was ever seen to send within a second or so: the first copy
 * of every guest is sent as fast as it goes. That is the least a link can carry and need not be the most, so a measured link counts
 * as full only if it shows: a guest's answers wait for longer than its bound while checkpoints take most of what was ever sent. A
 * capacity that a person declares is believed, and kept free beforehand.
 *
 * Only a guest that is placed for the first time is turned away. One that lost a side gets another wherever it can.
 */
import { LINK_CAPACITY_ANNOTATION } from "../api/requests.ts";
import { type ClusterNode } from "./cluster-objects.ts";
import { listNodesOf } from "./neighbours.ts";
import { listLatest, type PairLike } from "./pair-brief.ts";

/** What one guest's pair says of the links it uses. */
export type LinkUse = {
  readonly guest: string;
  readonly nodes: readonly string[];
  readonly mibPerSecond: number;
  /** Its answers wait for longer than its bound. */
  readonly isLate: boolean;
  /** The most that each of its nodes was seen to send. */
  readonly peaks: ReadonlyMap<string, number>;
};

/** The rest is for waves, and for copies to standbys that were lost. */
const SHARE_FOR_CHECKPOINTS = 0.7;

/** Of those that measured it; of a thousand guests that are made at once none has. */
export const listLinkUses = (pairs: readonly PairLike[]): readonly LinkUse[] =>
  pairs.filter(({ status }) => status?.sides?.some(({ traffic }) => traffic !== undefined) === true).map(readLinkUse);

function readLinkUse(pair: PairLike): LinkUse {
  const primary = listLatest(pair).find(({ role }) => role === "primary");
  const peaks = (pair.status?.sides ?? []).flatMap(({ node, traffic }) =>
    traffic === undefined ? [] : [[node, traffic.nodePeakMiBPerSecond] as const],
  );
  return {
    ...{ guest: pair.metadata.name, nodes: listNodesOf(pair) },
    mibPerSecond: primary?.traffic?.mibPerSecond ?? 0,
    isLate:
      primary?.conditions.some(({ type, status }) => type === "LatencyWithinBound" && status === "False") === true,
    peaks: new Map(peaks),
  };
}

/** What is wrong with the links of each node that has no room, with the remedy. */
export function listFullLinks(uses: readonly LinkUse[], nodes: readonly ClusterNode[]): ReadonlyMap<string, string> {
  const found = nodes.flatMap((node) => {
    const says = sayFull(
      uses.filter((use) => use.nodes.includes(node.metadata.name)),
      node,
    );
    return says === undefined ? [] : [[node.metadata.name, says] as const];
  });
  return new Map(found);
}

function sayFull(uses: readonly LinkUse[], node: ClusterNode): string | undefined {
  const declared = readLinkCapacity(node);
  const capacity = declared ?? Math.max(0, ...uses.flatMap(({ peaks }) => peaks.get(node.metadata.name) ?? []));
  const late = uses.find(({ isLate }) => isLate);
  const taken = uses.reduce((sum, { mibPerSecond }) => sum + mibPerSecond, 0);
  const isMeasuredFull = declared === undefined && late === undefined;
  if (capacity === 0 || isMeasuredFull || taken <= SHARE_FOR_CHECKPOINTS * capacity) {
    return undefined;
  }
  const [loudest] = uses.toSorted((one, other) => other.mibPerSecond - one.mibPerSecond);
  const whence = declared === undefined ? "the most they were seen to carry" : "as is declared";
  // Without what is taken, which moves.
  return (
    `its links (${Math.round(capacity)} MiB/s, ${whence}) are full of checkpoints, most of all those of ${loudest?.guest ?? ""}: ` +
    `move guests away, let it write less, or give the links more and say how much (annotation ${LINK_CAPACITY_ANNOTATION} of ` +
    "the node)"
  );
}

/** In MiB a second, as a person has declared it. */
export function readLinkCapacity(node: ClusterNode | undefined): number | undefined {
  const value = Number(node?.metadata.annotations?.[LINK_CAPACITY_ANNOTATION] ?? "");
  return value > 0 && Number.isFinite(value) ? value : undefined;
}
