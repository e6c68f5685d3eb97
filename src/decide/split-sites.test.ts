import { describe, expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildReportedSide } from "../../test/build/guest-pair-rows.ts";
import { buildGuestPair, buildSplitSitePair } from "../../test/build/resources.ts";
import { type GuestPair, parseGuestPair } from "../api/guest-pair.ts";
import { parseSplitSitePair } from "../api/split-site-pair.ts";
import { type ClusterNode, type Pod } from "./cluster-objects.ts";
import { type ObservedSites, planSplitSiteStatus } from "./split-sites.ts";

const ready = [{ type: "Ready", status: "True", lastTransitionTime: "2026-01-31T08:00:00Z" }];

function buildNode(name: string, labels: Readonly<Record<string, string>>): ClusterNode {
  return {
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, labels: { "kubevirt.io/schedulable": "true", ...labels } },
    spec: {},
    status: { conditions: ready, addresses: [{ type: "InternalIP", address: "10.0.0.1" }] },
  };
}

const buildAgent = (node: string): Pod => ({
  ...{ apiVersion: "v1", kind: "Pod", metadata: { name: `agent-${node}`, namespace: "twinrun" } },
  spec: { nodeName: node },
  status: { conditions: ready },
});

function buildPair(...links: readonly { readonly alive: boolean; readonly rttMs: number }[]): GuestPair {
  const named = links.map((link, index) => ({ name: `link-${index}`, ...link }));
  const sides = [buildReportedSide("node-a", buildReport({ links: named }))];
  return parseGuestPair(buildGuestPair({}, { sides }), "pair");
}

function observe(difference: Partial<ObservedSites> = {}): ObservedSites {
  return {
    splitSitePair: parseSplitSitePair(buildSplitSitePair({ maxRoundTripMs: 5 }), "campus"),
    previous: undefined,
    nodes: [buildNode("node-a", { site: "north" }), buildNode("node-b", { site: "south" })],
    agents: ["node-a", "node-b"].map(buildAgent),
    pairs: [],
    nowMs: Date.parse("2026-01-31T09:00:00Z"),
    ...difference,
  };
}

const sayConditions = (observed: ObservedSites): readonly string[] =>
  (planSplitSiteStatus(observed).conditions ?? []).map(({ type, status, reason }) => `${type} ${status} ${reason}`);

test("two sites with a node each are ready; without a guest nothing is measured", () => {
  expect(sayConditions(observe())).toEqual([
    "Ready True SitesFit",
    "Reconciling False Settled",
    "Stalled False NotStalled",
    "RoundTripWithinBound Unknown NotMeasured",
    "QuorumReachable Unknown NotReported",
    "LinksHealthy Unknown NotReported",
  ]);
});

test("a site whose only node has no agent is not", () => {
  const status = planSplitSiteStatus(observe({ agents: [buildAgent("node-a")] }));
  expect(status.conditions?.[0]).toMatchObject({ status: "False", message: expect.stringContaining("south: none of") });
  expect(status.sites).toEqual([
    { name: "north", nodesCount: 1, fitNodesCount: 1 },
    { name: "south", nodesCount: 1, fitNodesCount: 0 },
  ]);
});

test("a node with the labels of both sites belongs to neither, and a person is asked", () => {
  const labels = { site: "north", hall: "south" };
  const spec = {
    sites: [
      { name: "north", nodeSelector: { site: "north" } },
      { name: "south", nodeSelector: { hall: "south" } },
    ],
  };
  const observed = observe({
    splitSitePair: parseSplitSitePair(buildSplitSitePair(spec), "campus"),
    nodes: [buildNode("node-a", labels), buildNode("node-b", { hall: "south" })],
  });
  expect(sayConditions(observed)).toEqual(
    expect.arrayContaining(["Ready False NodesMissing", "Stalled True SitesOverlap"]),
  );
});

test("the longest way counts, of each guest the best link that works", () => {
  const pairs = [
    buildPair({ alive: true, rttMs: 9 }, { alive: true, rttMs: 2 }),
    buildPair({ alive: false, rttMs: 1 }, { alive: true, rttMs: 4.26 }),
  ];
  const status = planSplitSiteStatus(observe({ pairs }));
  expect(status).toMatchObject({ guestsCount: 2, roundTripMs: 4.3 });
  expect(sayConditions(observe({ pairs }))).toContain("RoundTripWithinBound True WithinBound");
  expect(sayConditions(observe({ pairs: [...pairs, buildPair({ alive: true, rttMs: 5.1 })] }))).toContain(
    "RoundTripWithinBound False BoundExceeded",
  );
});

test("a bound that was passed holds again only well below it", () => {
  const judge = (rttMs: number, previous?: ObservedSites["previous"]): ObservedSites["previous"] =>
    planSplitSiteStatus(observe({ previous, pairs: [buildPair({ alive: true, rttMs })] }));
  const heldBy = (status: ObservedSites["previous"]): string | undefined =>
    status?.conditions?.find(({ type }) => type === "RoundTripWithinBound")?.status;
  const beyond = judge(5.1);
  expect([judge(4.9), beyond, judge(4.9, beyond), judge(4.4, beyond)].map(heldBy)).toEqual([
    ...["True", "False", "False", "True"],
  ]);
});

describe("what is seen of links and quorums", () => {
  type Sight = { readonly preferred: boolean; readonly inForce?: "preferred" | "alternate" };
  const build = (north: Sight, south: Sight): GuestPair => {
    const sides = [north, south].map(({ preferred, inForce = "preferred" }, index) => {
      const quorums = (["preferred", "alternate"] as const).map((seat) => {
        const reachable = seat === "alternate" || preferred;
        return { seat, reachable, latencyMs: reachable ? 1.5 + index : null, inForce: seat === inForce };
      });
      const role = index === 0 ? ("primary" as const) : ("standby" as const);
      const links = [
        { name: "fast", alive: true, rttMs: 1, carriesData: true },
        { name: "slow", alive: index === 1, rttMs: null, carriesData: false },
      ];
      return buildReportedSide(index === 0 ? "node-a" : "node-b", buildReport({ role, quorums, links }));
    });
    return parseGuestPair(buildGuestPair({}, { sides }), "pair");
  };

  test("each site has its own sight, and the primaries' links are counted", () => {
    const status = planSplitSiteStatus(observe({ pairs: [build({ preferred: true }, { preferred: false })] }));
    expect(status.sites?.map(({ name, quorums }) => [name, quorums])).toEqual([
      [
        "north",
        [
          { seat: "preferred", reachable: true, latencyMs: 1.5, guestsCount: 1 },
          { seat: "alternate", reachable: true, latencyMs: 1.5, guestsCount: 0 },
        ],
      ],
      [
        "south",
        [
          { seat: "preferred", reachable: false, guestsCount: 1 },
          { seat: "alternate", reachable: true, latencyMs: 2.5, guestsCount: 0 },
        ],
      ],
    ]);
    expect(status.links).toEqual([
      { name: "fast", guestsCount: 1, aliveCount: 1, dataCount: 1 },
      { name: "slow", guestsCount: 1, aliveCount: 0, dataCount: 0 },
    ]);
  });

  test.each<{ when: string; north: Sight; south: Sight; says: string }>([
    {
      when: "both reach both",
      north: { preferred: true },
      south: { preferred: true },
      says: "QuorumReachable True Reachable",
    },
    {
      when: "a site misses the one in force",
      north: { preferred: true },
      south: { preferred: false },
      says: "QuorumReachable False Unreachable",
    },
    {
      when: "it misses one that no guest needs",
      north: { preferred: true, inForce: "alternate" },
      south: { preferred: false, inForce: "alternate" },
      says: "QuorumReachable True Reachable",
    },
  ])("$when => $says", ({ north, south, says }) => {
    const conditions = sayConditions(observe({ pairs: [build(north, south)] }));
    expect(conditions).toEqual(expect.arrayContaining([says, "LinksHealthy False LinkDown"]));
  });

  test("a node that is away says nothing", () => {
    const pairs = [build({ preferred: true }, { preferred: false })];
    const gone = {
      ...buildNode("node-b", { site: "south" }),
      status: { conditions: [{ type: "Ready", status: "False" }] },
    };
    const status = planSplitSiteStatus(observe({ pairs, nodes: [buildNode("node-a", { site: "north" }), gone] }));
    expect(status.sites?.[1]?.quorums).toBeUndefined();
  });
});
