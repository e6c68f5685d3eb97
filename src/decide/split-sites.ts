/**
 * What a SplitSitePair's status says: whether both sites could have a side of a guest, how far apart they are, and how links and
 * quorums look from each. All of it is what agents and engines of its guests report; nothing is measured for it alone.
 */
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
  const links = listLinks(pairs);
  const wasBeyond = isBeyond(previous?.conditions, "RoundTripWithinBound");
  const verdicts: Verdicts = {
    Ready: judgeFitness(sites),
    Reconciling: { status: "False", reason: "Settled", message: "there is nothing to be made" },
    Stalled: judgeOverlap(observed),
    RoundTripWithinBound: judgeRoundTrip(roundTripMs, splitSitePair.spec.maxRoundTripMs, wasBeyond),
    QuorumReachable: judgeQuorums(sites),
    LinksHealthy: judgeLinks(links),
  };
  const { generation } = splitSitePair.metadata;
  return {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: encodeConditions({ previous: previous?.conditions, generation, nowMs }, verdicts),
    sites,
    guestsCount: pairs.length,
    ...(links.length === 0 ? {} : { links }),
    ...(roundTripMs === undefined ? {} : { roundTripMs: Math.round(roundTripMs * 10) / 10 }),
  };
}

/** What is news the moment it changes. */
export const withoutFigures = ({ roundTripMs, links, sites, ...others }: SplitSitePairStatus): unknown => ({
  ...others,
  isMeasured: roundTripMs !== undefined,
  links: links?.map(({ roundTrip, ...link }) => [link, roundTrip !== undefined]),
  sites: sites?.map(({ quorums, ...site }) => [
    site,
    quorums?.map(({ seat, reachable, guestsCount }) => [seat, reachable, guestsCount]),
  ]),
});

/**
 * The median over the best of the links that work, in milliseconds; undefined while none was measured. Agents measure it once a
 * second; before they have, the shortest that the engines saw of their own heartbeats has to do.
 */
export function findRoundTrip(report: PairReport | undefined): number | undefined {
  const known = (report?.links ?? []).flatMap(({ alive, rttMs, roundTrip }) => {
    const ms = roundTrip?.p50Ms ?? rttMs;
    return alive && ms !== undefined ? [ms] : [];
  });
  return known.length === 0 ? undefined : Math.min(...known);
}

/** Of a bound that was passed: a line that wavers about it must not make news with every measurement. */
const BACK_WITHIN = 0.9;

/** Whether a round trip is too long, given whether it was said to be before. */
export const isTooFar = (roundTripMs: number, maxMs: number, wasTooFar: boolean): boolean =>
  roundTripMs > (wasTooFar ? BACK_WITHIN * maxMs : maxMs);

const isBeyond = (conditions: SplitSitePairStatus["conditions"], type: SplitSitePairConditionType): boolean =>
  conditions?.find((condition) => condition.type === type)?.status === "False";

function findLongestRoundTrip(pairs: readonly GuestPair[]): number | undefined {
  const known = pairs.flatMap(({ status }) => {
    const roundTripMs = findRoundTrip(status?.sides?.find(({ role }) => role === "primary"));
    return roundTripMs === undefined ? [] : [roundTripMs];
  });
  return known.length === 0 ? undefined : Math.max(...known);
}

function encodeSite({ splitSitePair, nodes, agents, pairs }: ObservedSites, name: string): SiteStatus {
  const own = nodes.filter((node) => findSite(node, splitSitePair.spec.sites)?.name === name);
  const states = own.map(({ metadata }) => readNodeState(metadata.name, nodes, agents));
  const fit = states.filter(({ obstacle }) => obstacle === undefined);
  // What the agent of a node that is away said last is true no more.
  const present = states.filter(({ awaySinceMs }) => awaySinceMs === undefined);
  const quorums = listQuorums(pairs, new Set(present.map((state) => state.name)));
  return {
    ...{ name, nodesCount: own.length, fitNodesCount: fit.length },
    ...(quorums.length === 0 ? {} : { quorums }),
  };
}

type SiteQuorum = NonNullable<SiteStatus["quorums"]>[number];
type SeenQuorum = NonNullable<PairReport["quorums"]>[number];

/** As the sides on these nodes see them. */
function listQuorums(pairs: readonly GuestPair[], nodes: ReadonlySet<string>): SiteQuorum[] {
  const seen = pairs
    .flatMap(({ status }) => status?.sides ?? [])
    .flatMap(({ node, quorums = [] }) => (nodes.has(node) ? quorums : []));
  return (["preferred", "alternate"] as const).flatMap((seat) => {
    const own = seen.filter((each) => each.seat === seat);
    return own.length === 0 ? [] : [encodeQuorum(seat, own)];
  });
}

function encodeQuorum(seat: SiteQuorum["seat"], seen: readonly SeenQuorum[]): SiteQuorum {
  const latencies = seen.flatMap(({ latencyMs }) => (latencyMs === undefined ? [] : [latencyMs]));
  return {
    seat,
    reachable: seen.every(({ reachable }) => reachable),
    ...(latencies.length === 0 ? {} : { latencyMs: toTenths(Math.max(...latencies)) }),
    guestsCount: seen.filter(({ inForce }) => inForce).length,
  };
}

const toTenths = (value: number): number => Math.round(value * 10) / 10;

type SiteLink = NonNullable<SplitSitePairStatus["links"]>[number];

/** As the primaries see them, by name. */
function listLinks(pairs: readonly GuestPair[]): SiteLink[] {
  const seen = pairs.flatMap(({ status }) => status?.sides?.find(({ role }) => role === "primary")?.links ?? []);
  const names = [...new Set(seen.map(({ name }) => name))].sort().slice(0, LINKS_MAX);
  return names.map((name) => {
    const own = seen.filter((link) => link.name === name);
    const trips = own.flatMap(({ roundTrip }) => (roundTrip === undefined ? [] : [roundTrip]));
    return {
      ...{ name, guestsCount: own.length },
      aliveCount: own.filter(({ alive }) => alive).length,
      dataCount: own.filter(({ carriesData }) => carriesData === true).length,
      ...(trips.length === 0 ? {} : { roundTrip: encodeLongest(trips) }),
    };
  });
}

const LINKS_MAX = 16;

const encodeLongest = (trips: readonly NonNullable<SiteLink["roundTrip"]>[]): NonNullable<SiteLink["roundTrip"]> => ({
  p50Ms: toTenths(Math.max(...trips.map(({ p50Ms }) => p50Ms))),
  p99Ms: toTenths(Math.max(...trips.map(({ p99Ms }) => p99Ms))),
});

function judgeQuorums(sites: readonly SiteStatus[]): Verdicts["QuorumReachable"] {
  const seen = sites.flatMap(({ name, quorums = [] }) => quorums.map((quorum) => ({ name, ...quorum })));
  if (seen.length === 0) {
    return { status: "Unknown", reason: "NotReported", message: "no guest of these sites says" };
  }
  const missed = seen.filter(({ reachable }) => !reachable);
  const says = missed.map(({ name, seat }) => `the ${seat} one from ${name}`).join(", ");
  if (missed.every(({ guestsCount }) => guestsCount === 0)) {
    const message =
      missed.length === 0 ? "every quorum is reached from both sites" : `not needed and not reached: ${says}`;
    return { status: "True", reason: "Reachable", message };
  }
  const remedy = "healthy pairs go on, but no failover is possible; mend the way there, or the quorum computer";
  return { status: "False", reason: "Unreachable", message: `not reached: ${says}; ${remedy}` };
}

function judgeLinks(links: readonly SiteLink[]): Verdicts["LinksHealthy"] {
  if (links.length === 0) {
    return { status: "Unknown", reason: "NotReported", message: "no guest of these sites runs with a link yet" };
  }
  const down = links.filter(({ aliveCount, guestsCount }) => aliveCount < guestsCount);
  const says = down.map(
    ({ name, aliveCount, guestsCount }) => `${name}: ${guestsCount - aliveCount} of ${guestsCount} guests`,
  );
  return down.length === 0
    ? { status: "True", reason: "Healthy", message: "every link works for every guest" }
    : {
        status: "False",
        reason: "LinkDown",
        message: `down for ${says.join("; ")}: mend it; its peers carry the data meanwhile`,
      };
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

function judgeRoundTrip(
  roundTripMs: number | undefined,
  maxMs: number,
  wasTooFar: boolean,
): Verdicts["RoundTripWithinBound"] {
  if (roundTripMs === undefined) {
    const message = "it is measured between nodes that have a guest's two sides, and there is none yet";
    return { status: "Unknown", reason: "NotMeasured", message };
  }
  // Without the figure, which moves: it is in roundTripMs.
  const bound = `${maxMs} ms`;
  return !isTooFar(roundTripMs, maxMs, wasTooFar)
    ? { status: "True", reason: "WithinBound", message: `no guest's best link takes longer than ${bound}` }
    : {
        status: "False",
        reason: "BoundExceeded",
        message: `a guest's best link takes longer than ${bound}; no further one is placed: mend it, or raise maxRoundTripMs and accept the latency`,
      };
}
