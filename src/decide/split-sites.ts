/** What a SplitSitePair's status says: whether both sites could have a side of a guest, and how far apart they are. */
import { type SplitSitePairConditionType, type SplitSitePairReason } from "../api/conditions.ts";
import { type GuestPair } from "../api/guest-pair.ts";
import { type SplitSitePair, type SplitSitePairStatus } from "../api/split-site-pair.ts";
import { type ClusterNode, type PairReport, type Pod } from "./cluster-objects.ts";
import { readNodeState } from "./node-fitness.ts";
import { findSite, hasLabels } from "./placement-rule.ts";
import { encodeConditions, type Verdict } from "./verdicts.ts";

export type ObservedSites = {
  /** With its defaults. */
  readonly splitSitePair: SplitSitePair;
  /** The status as last written; what is in the object may be older. */
  readonly previous: SplitSitePairStatus | undefined;
  readonly nodes: readonly ClusterNode[];
  /** The agents' pods. */
  readonly agents: readonly Pod[];
  /** Of the guests that are placed by it. */
  readonly pairs: readonly GuestPair[];
  readonly nowMs: number;
};

type Verdicts = { readonly [Type in SplitSitePairConditionType]: Verdict<SplitSitePairReason[Type]> };
type SiteStatus = NonNullable<SplitSitePairStatus["sites"]>[number];

export function planSplitSiteStatus(observed: ObservedSites): SplitSitePairStatus {
  const { splitSitePair, previous, pairs, nowMs } = observed;
  const sites = splitSitePair.spec.sites.map(({ name }) => encodeSite(observed, name));
  const roundTripMs = findLongestRoundTrip(pairs);
  const verdicts: Verdicts = {
    Ready: judgeFitness(sites),
    Reconciling: { status: "False", reason: "Settled", message: "there is nothing to be made" },
    Stalled: judgeOverlap(observed),
    RoundTripWithinBound: judgeRoundTrip(roundTripMs, splitSitePair.spec.maxRoundTripMs),
  };
  const { generation } = splitSitePair.metadata;
  return {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: encodeConditions({ previous: previous?.conditions, generation, nowMs }, verdicts),
    sites,
    guestsCount: pairs.length,
    ...(roundTripMs === undefined ? {} : { roundTripMs: Math.round(roundTripMs * 10) / 10 }),
  };
}

/** What is news the moment it changes. */
export const withoutRoundTrip = ({ roundTripMs, ...others }: SplitSitePairStatus): unknown => ({
  ...others,
  isMeasured: roundTripMs !== undefined,
});

/** Over the best of the links that work, in milliseconds; undefined while none was measured. */
export function findRoundTrip(report: PairReport | undefined): number | undefined {
  const known = (report?.links ?? []).flatMap(({ alive, rttMs }) => (alive && rttMs !== undefined ? [rttMs] : []));
  return known.length === 0 ? undefined : Math.min(...known);
}

function findLongestRoundTrip(pairs: readonly GuestPair[]): number | undefined {
  const known = pairs.flatMap(({ status }) => {
    const roundTripMs = findRoundTrip(status?.sides?.find(({ role }) => role === "primary"));
    return roundTripMs === undefined ? [] : [roundTripMs];
  });
  return known.length === 0 ? undefined : Math.max(...known);
}

function encodeSite({ splitSitePair, nodes, agents }: ObservedSites, name: string): SiteStatus {
  const own = nodes.filter((node) => findSite(node, splitSitePair.spec.sites)?.name === name);
  const fit = own.filter(({ metadata }) => readNodeState(metadata.name, nodes, agents).obstacle === undefined);
  return { name, nodesCount: own.length, fitNodesCount: fit.length };
}

function judgeFitness(sites: readonly SiteStatus[]): Verdicts["Ready"] {
  const lacking = sites.filter(({ fitNodesCount }) => fitNodesCount === 0);
  if (lacking.length === 0) {
    return { status: "True", reason: "SitesFit", message: "each site has a node that could have a side of a guest" };
  }
  const says = lacking.map(({ name, nodesCount }) =>
    nodesCount === 0
      ? `${name}: no node has its labels`
      : `${name}: none of its ${nodesCount} nodes is ready for guests`,
  );
  return { status: "False", reason: "NodesMissing", message: `${says.join("; ")}; kubectl twinrun doctor says why` };
}

function judgeOverlap({ splitSitePair, nodes }: ObservedSites): Verdicts["Stalled"] {
  const [one, other] = splitSitePair.spec.sites;
  const both = nodes.filter(
    (node) => hasLabels(node, one?.nodeSelector ?? {}) && hasLabels(node, other?.nodeSelector ?? {}),
  );
  if (both.length === 0) {
    return { status: "False", reason: "NotStalled", message: "nothing stands in the way" };
  }
  const names = both.map(({ metadata }) => metadata.name).join(", ");
  const message = `${names}: with the labels of both sites a node belongs to neither; take those of one site away`;
  return { status: "True", reason: "SitesOverlap", message };
}

function judgeRoundTrip(roundTripMs: number | undefined, maxMs: number): Verdicts["RoundTripWithinBound"] {
  if (roundTripMs === undefined) {
    const message = "it is measured between nodes that have a guest's two sides, and there is none yet";
    return { status: "Unknown", reason: "NotMeasured", message };
  }
  // Without the figure, which moves: it is in roundTripMs.
  const bound = `${maxMs} ms`;
  return roundTripMs <= maxMs
    ? { status: "True", reason: "WithinBound", message: `no guest's best link takes longer than ${bound}` }
    : {
        status: "False",
        reason: "BoundExceeded",
        message: `a guest's best link takes longer than ${bound}: mend it, or raise maxRoundTripMs and accept the latency`,
      };
}
