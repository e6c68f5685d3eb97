/** What the owner of a guest says about where its sides may be, with the SplitSitePair looked up that he may name. */
import { type ProtectedVmSpec } from "../api/protected-vm.ts";
import { type SplitSitePair } from "../api/split-site-pair.ts";
import { type ClusterNode } from "./cluster-objects.ts";

export type Labels = Readonly<Record<string, string>>;
export type Site = { readonly name: string; readonly nodeSelector: Labels };
export type Sites = readonly Site[];

export type PlacementRule =
  | { readonly tag: "nodes"; readonly names: readonly string[] }
  | { readonly tag: "labels"; readonly nodeSelector: Labels }
  /** `tooFar`: why no further guest should be there; those that there are stay. */
  | { readonly tag: "sites"; readonly sites: Sites; readonly tooFar?: string | undefined }
  /** Where the sides may be is not known at the moment; those that there are stay where they are. */
  | { readonly tag: "unknown"; readonly pair: string };

export function resolvePlacement(
  { nodes, nodeSelector, splitSitePairRef }: ProtectedVmSpec["placement"],
  splitSitePair: SplitSitePair | undefined,
): PlacementRule {
  if (splitSitePairRef !== undefined) {
    const pair = splitSitePairRef.name;
    return splitSitePair === undefined
      ? { tag: "unknown", pair }
      : { tag: "sites", sites: splitSitePair.spec.sites, tooFar: findDistance(splitSitePair) };
  }
  return nodes === undefined ? { tag: "labels", nodeSelector: nodeSelector ?? {} } : { tag: "nodes", names: nodes };
}

function findDistance({ metadata, spec, status }: SplitSitePair): string | undefined {
  const found = status?.conditions?.find(({ type }) => type === "RoundTripWithinBound");
  return found?.status === "False"
    ? `the round trip between the sites of ${metadata.name} is longer than the ${spec.maxRoundTripMs} ms it allows, for the ` +
        "guests that are there: mend the link, or raise spec.maxRoundTripMs and accept the latency"
    : undefined;
}

export const hasLabels = ({ metadata }: ClusterNode, wanted: Labels): boolean =>
  Object.entries(wanted).every(([label, value]) => metadata.labels?.[label] === value);

/** A node with the labels of both sites belongs to neither: nobody can say which site would be lost with it. */
export function findSite(node: ClusterNode, sites: Sites): Site | undefined {
  const [site, another] = sites.filter(({ nodeSelector }) => hasLabels(node, nodeSelector));
  return another === undefined ? site : undefined;
}

/** Whether two nodes may have the two sides of one guest. */
export function canPair(rule: PlacementRule, one: ClusterNode, other: ClusterNode): boolean {
  if (rule.tag !== "sites") {
    return true;
  }
  const [site, otherSite] = [findSite(one, rule.sites), findSite(other, rule.sites)];
  return site !== undefined && otherSite !== undefined && site !== otherSite;
}

/** False when the owner wants a side elsewhere; a node that nobody can see at the moment is still meant. */
export function isMeant(
  rule: PlacementRule,
  side: { readonly name: string; readonly node: ClusterNode | undefined },
  peer: ClusterNode | undefined,
): boolean {
  switch (rule.tag) {
    case "nodes":
      return rule.names.includes(side.name);
    case "labels":
      return side.node === undefined || hasLabels(side.node, rule.nodeSelector);
    case "sites":
      return side.node === undefined || peer === undefined || canPair(rule, side.node, peer);
    case "unknown":
      return true;
  }
}
