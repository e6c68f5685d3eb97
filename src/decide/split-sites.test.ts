import { expect, test } from "@jest/globals";
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
