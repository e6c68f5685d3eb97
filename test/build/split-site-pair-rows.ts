/** What SplitSitePairs are taken and refused, told once for every judge: zod, the generated CRD and a real API server. */
import { buildSplitSitePair, northSite, southSite } from "./resources.ts";
import { type ResourceRows } from "./resource-rows.ts";

const at = "2026-01-31T08:30:00Z";
const condition = { type: "Ready", status: "True", lastTransitionTime: at, reason: "SitesFit", message: "" };
const quorums = [{ seat: "preferred", reachable: true, latencyMs: 2.5, guestsCount: 3 }];
const links = [{ name: "direct", guestsCount: 3, aliveCount: 3, dataCount: 3, roundTrip: { p50Ms: 4.5, p99Ms: 9 } }];
const sites = ["north", "south"].map((name) => ({ name, nodesCount: 2, fitNodesCount: 1, quorums }));

export const splitSitePairRows: ResourceRows = {
  taken: [
    { when: "two sites", object: buildSplitSitePair() },
    { when: "a distance", object: buildSplitSitePair({ maxRoundTripMs: 25 }) },
    {
      when: "quorum computers of its own",
      object: buildSplitSitePair({
        quorum: { preferred: ["third.example:7000"], alternate: ["10.0.9.2:7000", "[fd00::1]:7000"] },
      }),
    },
    {
      when: "sites that share a label",
      object: buildSplitSitePair({
        sites: [
          { name: "north", nodeSelector: { campus: "x", site: "n" } },
          { name: "south", nodeSelector: { campus: "x", site: "s" } },
        ],
      }),
    },
    {
      when: "a status",
      object: buildSplitSitePair(
        {},
        {
          observedGeneration: 1,
          conditions: [{ ...condition, observedGeneration: 1 }],
          sites,
          links,
          guestsCount: 3,
          roundTripMs: 4.5,
        },
      ),
    },
  ],
  refused: [
    { when: "no sites", spec: { sites: undefined }, path: "spec.sites" },
    { when: "one site", spec: { sites: [northSite] }, path: "spec.sites" },
    {
      when: "three sites",
      spec: { sites: [northSite, southSite, { ...northSite, name: "east" }] },
      path: "spec.sites",
    },
    { when: "one site twice", spec: { sites: [northSite, { ...southSite, name: "north" }] }, path: "spec.sites" },
    {
      when: "two sites with the same nodes",
      spec: { sites: [northSite, { ...northSite, name: "south" }] },
      path: "spec.sites",
      says: "must not select the same nodes twice",
    },
    {
      when: "a site without labels",
      spec: { sites: [northSite, { name: "south", nodeSelector: {} }] },
      path: "spec.sites[1].nodeSelector",
      says: "must hold at least one label",
    },
    {
      when: "a site of no such name",
      spec: { sites: [northSite, { ...southSite, name: "South" }] },
      path: "spec.sites[1].name",
    },
    {
      when: "a quorum without a port",
      spec: { quorum: { preferred: ["third.example"] } },
      path: "spec.quorum.preferred[0]",
    },
    {
      when: "an alternate quorum alone",
      spec: { quorum: { alternate: ["third:7000"] } },
      path: "spec.quorum.preferred",
    },
    { when: "no distance at all", spec: { maxRoundTripMs: 0 }, path: "spec.maxRoundTripMs" },
    { when: "a distance in words", spec: { maxRoundTripMs: "10ms" }, path: "spec.maxRoundTripMs" },
    { when: "a distance across the world", spec: { maxRoundTripMs: 1_001 }, path: "spec.maxRoundTripMs" },
  ],
  changes: [
    { when: "the distance may change", before: {}, after: { maxRoundTripMs: 20 } },
    {
      when: "the labels of a site may change",
      before: {},
      after: { sites: [northSite, { name: "south", nodeSelector: { site: "east" } }] },
    },
  ],
};
