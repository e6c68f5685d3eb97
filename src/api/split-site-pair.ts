/**
 * SplitSitePair: two sites that hold one side each of every guest placed by it, so that the loss of a whole site is the loss of
 * one side. The quorum belongs to a third place: the installation's, or quorum computers that are named here.
 */
import { z } from "zod";
import { parseInput } from "./checked-input.ts";
import { condition, SPLIT_SITE_PAIR_CONDITION_TYPES } from "./conditions.ts";
import { ageColumn, type CustomResource, objectOf } from "./custom-resource.ts";
import {
  counter,
  listByKey,
  measure,
  oneOf,
  sequence,
  shortName,
  struct,
  text,
  textMap,
  wholeNumber,
} from "./fields.ts";
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

const endpoint = text(261, "HOST:PORT").regex(
  /^([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\[[0-9a-f:.]+\]):[0-9]{1,5}$/,
  "HOST:PORT; an IPv6 address in brackets",
);

const quorum = struct({
  preferred: sequence(endpoint, { min: 1, max: 4 }).describe(
    "Where the quorum computer at a third place listens; several are replicas on one store.",
  ),
  alternate: sequence(endpoint, { min: 1, max: 4 })
    .optional()
    .describe(
      "Another one, with a store of its own. A guest's record is moved to it while one site does not reach the preferred one " +
        "and both reach this, and back when both reach the preferred one again.",
    ),
}).describe(
  "Quorum computers for the guests of these sites, instead of the installation's quorum. Guests keep those they were started with.",
);

const spec = struct({
  sites,
  quorum: quorum.optional(),
  maxRoundTripMs: wholeNumber(1, 1_000)
    .default(10)
    .describe(
      "The longest round trip between the sites, in milliseconds, with which guests can keep their latency: every " +
        "acknowledgement takes one. Condition RoundTripWithinBound says when it is longer; no further guest is placed then.",
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
      quorums: listByKey(
        struct({
          seat: oneOf(["preferred", "alternate"]),
          reachable: z.boolean("true or false").describe("Whether every guest's side here reaches it."),
          latencyMs: measure().optional().describe("The longest that a question to it takes, in milliseconds."),
          guestsCount: counter().describe("Guests whose record is there, as their sides here know."),
        }),
        "seat",
        { max: 2 },
      )
        .optional()
        .describe("The quorums, as they are seen from here; absent while no guest has a side here."),
    }),
    "name",
    { max: 2 },
  )
    .optional()
    .describe("What the sites have."),
  guestsCount: counter().optional().describe("Guests that are placed by it."),
  links: listByKey(
    struct({
      name: shortName().describe("The link."),
      guestsCount: counter().describe("Guests that have it."),
      aliveCount: counter().describe("Of these the ones for which it works."),
      dataCount: counter().describe("Of these the ones whose checkpoints go over it."),
      roundTrip: struct({ p50Ms: measure(), p99Ms: measure() })
        .optional()
        .describe("The longest of any guest, of the last minute, in milliseconds."),
    }),
    "name",
    { max: 16 },
  )
    .optional()
    .describe("The replication links between the sites."),
  roundTripMs: measure()
    .optional()
    .describe(
      "The longest round trip, by its median, of any of these guests over its best link, in milliseconds; absent while none is " +
        "measured. " +
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
