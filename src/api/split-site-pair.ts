/**
 * SplitSitePair: two sites that hold one side each of every guest placed by it, so that the loss of a whole site is the loss of
 * one side. The quorum belongs to a third place; where its replicas run is the chart's affair.
 */
import { type z } from "zod";
import { parseInput } from "./checked-input.ts";
import { condition, SPLIT_SITE_PAIR_CONDITION_TYPES } from "./conditions.ts";
import { ageColumn, type CustomResource, objectOf } from "./custom-resource.ts";
import { counter, listByKey, measure, shortName, struct, textMap, wholeNumber } from "./fields.ts";
import { withRule } from "./structural.ts";

const nodeSelector = withRule(
  textMap(32, 63),
  { rule: "size(self) > 0", message: "must hold at least one label" },
  (labels) => Object.keys(labels).length > 0,
).describe("Labels that the site's nodes have, and nodes of the other site do not.");

const sites = withRule(
  listByKey(
    struct({
      name: shortName().describe("What people call the site."),
      nodeSelector,
    }),
    "name",
    {
      min: 2,
      max: 2,
    },
  ),
  {
    rule: "size(self) != 2 || self[0].nodeSelector != self[1].nodeSelector",
    message: "must not select the same nodes twice",
  },
  ([one, other]) => one === undefined || other === undefined || !hasSameEntries(one.nodeSelector, other.nodeSelector),
).describe("The two sites. A guest is started in the first.");

function hasSameEntries(one: Readonly<Record<string, string>>, other: Readonly<Record<string, string>>): boolean {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

const spec = struct({
  sites,
  maxRoundTripMs: wholeNumber(1, 1_000)
    .default(10)
    .describe(
      "The longest round trip between the sites, in milliseconds, with which guests can keep their latency: every " +
        "acknowledgement takes one. Condition RoundTripWithinBound says when it is longer.",
    ),
}).describe("Which nodes the sites have, and how far apart they may be.");

const status = struct({
  observedGeneration: counter().optional().describe("The metadata.generation that this status is about."),
  conditions: listByKey(condition, "type", { max: 32 })
    .optional()
    .describe(`What there is to know: ${SPLIT_SITE_PAIR_CONDITION_TYPES.join(", ")}.`),
  sites: listByKey(
    struct({
      name: shortName().describe("The site."),
      nodesCount: counter().describe("Nodes that belong to it."),
      fitNodesCount: counter().describe("Of these the nodes that could have a side of a guest now."),
    }),
    "name",
    { max: 2 },
  )
    .optional()
    .describe("What the sites have."),
  guestsCount: counter().optional().describe("Guests that are placed by it."),
  roundTripMs: measure()
    .optional()
    .describe(
      "The longest round trip of any of these guests over its best link, in milliseconds; absent while none is measured. " +
        "Written every ten seconds at most.",
    ),
}).describe("What Twinrun found out.");

const splitSitePairObject = objectOf("SplitSitePair", spec, status);

export type SplitSitePair = z.output<typeof splitSitePairObject>;
export type SplitSitePairStatus = z.output<typeof status>;

/** A SplitSitePair with its defaults; `subject` says where it comes from. Throws InputFailure with every mistake. */
export function parseSplitSitePair(value: unknown, subject: string): SplitSitePair {
  return parseInput(splitSitePairObject, value, subject);
}

export const splitSitePairResource: CustomResource = {
  kind: "SplitSitePair",
  plural: "splitsitepairs",
  shortNames: ["ssp"],
  categories: ["twinrun"],
  scope: "Cluster",
  description: "Two sites, each with one side of every guest placed by it.",
  spec,
  status,
  columns: [
    {
      name: "Ready",
      type: "string",
      description: "Whether both sites could have a side of a guest.",
      jsonPath: '.status.conditions[?(@.type=="Ready")].status',
    },
    {
      name: "Guests",
      type: "integer",
      description: "Guests placed by it.",
      jsonPath: ".status.guestsCount",
    },
    {
      name: "Round trip ms",
      type: "number",
      description: "The longest round trip of a guest's best link.",
      jsonPath: ".status.roundTripMs",
    },
    {
      name: "Max ms",
      type: "integer",
      description: "The longest allowed.",
      jsonPath: ".spec.maxRoundTripMs",
    },
    ageColumn,
  ],
};
