/**
 * GuestPair: a protected guest as its two agents need it. The operator writes the spec, each agent its own item of
 * status.sides, people only read it.
 *
 * From one spec both agents make their assignment (protocol/assignment.ts): `links` of the side with the agent's own node give
 * local addresses, the other side gives the peer's. QEMU is started by KubeVirt, not by the agent, so there is no command
 * line: the agent finds the QEMU of its guest and node by what the hook put into its environment (vmi-contract.ts), and asks
 * that QEMU where the named disks are. Until there is one of the shape the engine needs, `wantedShape` in the agent's report
 * asks the operator for a VirtualMachineInstance of that shape.
 *
 * Who runs the guest is in the quorum's record, never here: the operator may be late or gone. `roles` counts only against the
 * term of the record:
 *
 *   there is no record           roles.primary creates it, with term 1
 *   roles.term <= record's term  nothing; the record has moved on by itself
 *   roles.term > record's term   the owner hands over to roles.primary, once it is in sync
 *
 * Status is written when something changed and every ten seconds at most, never per epoch. Agents apply it server-side, each
 * under a field manager of its own, so that neither takes away what the other wrote. There is no Ready for the pair as a
 * whole, for nobody sees the whole: that is the ProtectedVM's.
 */
import { z } from "zod";
import { parseInput } from "./checked-input.ts";
import { condition, GUEST_CONDITION_TYPES } from "./conditions.ts";
import { ageColumn, type CustomResource, objectOf } from "./custom-resource.ts";
import { seenFault } from "./fault.ts";
import { checkpointContract, DETECTION_MS, detectionTimeoutMs } from "./fault-tolerance.ts";
import {
  counter,
  listByKey,
  measure,
  objectName,
  oneOf,
  sequence,
  setOf,
  shortName,
  struct,
  text,
  time,
  wholeNumber,
} from "./fields.ts";
import { withRule, withTransitionRule } from "./structural.ts";
import { VMI_SHAPES } from "./vmi-contract.ts";

const host = text(253, "a host name or address");
const port = wholeNumber(1, 65_535);

/** How the owner's agent and the peer's see the end of a pair. */
const intent = oneOf(["Protect", "Release"])
  .default("Protect")
  .describe(
    "Protect: keep the guest on both sides. Release: the owner goes on alone, what the guest sends leaves unheld, and the " +
      "engines end; the QEMU of the owner stays as it is.",
  );

const address = struct({ host, port });

const anyQuorum = struct({
  preferred: sequence(address, { min: 1, max: 4 }).describe("Replicas of the quorum that the guest began with."),
  alternate: sequence(address, { max: 4 })
    .optional()
    .describe("Replicas of another quorum, with a store of its own, to which the record may be moved."),
  inForce: oneOf(["preferred", "alternate"]).describe(
    "Which of them is to decide. The record says which one does; the agents move it while they reach both.",
  ),
});

const quorum = withTransitionRule(anyQuorum, {
  rule:
    "self.preferred == oldSelf.preferred && " +
    "(!has(oldSelf.alternate) || (has(self.alternate) && self.alternate == oldSelf.alternate))",
  message: "cannot change, for the guest's record is there; only an alternate may be added",
}).describe("Quorums of the guest's own, instead of the installation's.");

const specSide = struct({
  node: shortName().describe("The node of this side, as its agent's certificate names it."),
  vmi: struct({ namespace: objectName(), name: objectName() }).describe("Its VirtualMachineInstance."),
  links: sequence(
    struct({
      name: shortName().describe("The link's name, the same on both sides."),
      host: host.describe("The address of this side's node on the link."),
    }),
    { min: 1, max: 8 },
  ).describe("The replication links, the first one preferred."),
  uplinks: setOf(text(253), { max: 8 })
    .optional()
    .describe("The node's interfaces over which clients reach the guest; left out: those that its agent was told of."),
  linkMiBPerSecond: measure()
    .optional()
    .describe(
      "What all of the node's replication links carry together, in MiB a second, as the node's annotation says: guests that " +
        "want more than their share of it are slowed down. Left out: nobody is.",
    ),
});

type SpecSide = z.output<typeof specSide>;

const anySides = listByKey(specSide, "node", { min: 2, max: 2 });
const sides = withRule(
  anySides,
  {
    rule: "size(self) != 2 || self[0].links.map(link, link.name) == self[1].links.map(link, link.name)",
    message: "must have the same links on both sides, in the same order",
  },
  (given) => areSame(given, ({ links }) => links.map(({ name }) => name)),
).describe("Both places of the guest. Which of them runs it is not said here.");

function areSame([one, other]: readonly SpecSide[], namesOf: (side: SpecSide) => readonly string[]): boolean {
  return one === undefined || other === undefined || namesOf(one).join("\n") === namesOf(other).join("\n");
}

const roles = withTransitionRule(
  struct({
    term: wholeNumber(1, 2_147_483_647).describe("The term that the roles are meant for; 1 for a new guest."),
    primary: shortName().describe("The node that is to run the guest in that term; the other one is the standby."),
  }),
  {
    rule: "self.term > oldSelf.term || self == oldSelf",
    message: "must be meant for a later term than the roles before",
  },
).describe("Who is to be primary, from the operator's point of view. The quorum's record decides.");

const guest = withTransitionRule(
  withRule(
    shortName(),
    { rule: "!self.endsWith('.sock')", message: "must not end in .sock, for it names a directory beside a socket" },
    (name) => !name.endsWith(".sock"),
  ),
  { rule: "self == oldSelf", message: "cannot change: it names the guest's record in the quorum" },
).describe(
  "What agents, engines and the quorum call the guest: unique in the cluster, and never used again for another.",
);

const anySpec = withRule(
  struct({
    guest,
    quorum: quorum.optional(),
    mode: oneOf(["FaultTolerant", "HighAvailability"]).describe("The level of availability."),
    roles,
    sides,
    intent,
    disks: setOf(text(253), { max: 64 }).describe(
      "The guest's disks that are copied, by their names in the VirtualMachineInstance; in QEMU the device is ua-NAME.",
    ),
    podDisks: setOf(text(253), { max: 64 })
      .optional()
      .describe(
        "Those of them that live in the pod and not on a volume: they are made raw, and equally large, where they are not.",
      ),
    port: port.describe("The port on which the engines of this guest listen, on every link."),
    checkpoint: checkpointContract,
    failover: struct({ detectionTimeoutMs: detectionTimeoutMs.default(DETECTION_MS.FaultTolerant) }).describe(
      "How the loss of a side is noticed.",
    ),
    fullResync: text(253)
      .optional()
      .describe("Whenever it becomes another text, everything is copied to the standby once more."),
  }),
  {
    rule: "self.sides.exists(side, side.node == self.roles.primary)",
    message: "must be the node of a side",
    fieldPath: ".roles.primary",
  },
  (given) => given.sides.some(({ node }) => node === given.roles.primary),
);

const spec = withTransitionRule(anySpec, {
  rule: "has(self.quorum) == has(oldSelf.quorum)",
  message: "must keep its quorum, for the guest's record is there",
}).describe("The guest as both agents need it.");

const quantiles = struct({ p50Ms: measure(), p99Ms: measure(), maxMs: measure() });

const takeover = struct({
  cause: text(1_024).describe("What had failed, as this side saw it."),
  at: time().describe("When the guest went on."),
  durationMs: counter()
    .optional()
    .describe("How long it stood still, in milliseconds; absent when it was not measured."),
  term: counter().describe("The term that began with it."),
  epoch: counter().describe("The checkpoint it went on from."),
});

const statusSide = struct({
  node: shortName().describe("The node whose agent reports."),
  observedGeneration: counter().describe("The metadata.generation that the agent has taken up."),
  reportedAt: time().describe("When the agent wrote this."),
  role: oneOf(["starting", "primary", "standby", "fenced", "ended", "released"]).describe(
    "What the side is now. Ended: the guest shut itself down. Released: it runs unprotected, as the spec's intent asks.",
  ),
  state: text(64).describe("Its state inside the role, such as protected or syncing."),
  term: counter().describe("The term of the quorum's record as last read; 0 before the first read."),
  epoch: counter().describe("The newest checkpoint this side took or holds."),
  primaryNode: shortName().optional().describe("The owner in the quorum's record; absent before the first read."),
  wantedShape: oneOf(VMI_SHAPES)
    .optional()
    .describe("The shape of the QEMU that the agent waits for; absent while it has the one it needs."),
  trouble: text(1_024).optional().describe("What keeps this side from its work, with the remedy."),
  syncPercent: measure().max(100).describe("How much of memory and disks the standby has."),
  resync: struct({
    leftBytes: counter().describe("Of memory and disks."),
    secondsLeft: counter().optional().describe("Absent while nobody can tell."),
  })
    .optional()
    .describe("The copy to the standby that is under way; absent while there is none."),
  lagMs: measure()
    .optional()
    .describe("The age of the newest state the standby has acknowledged, in milliseconds; absent while there is none."),
  outputMode: oneOf(["open", "held", "closed", "leased"]).describe("What becomes of what the guest sends."),
  tracker: oneOf(["userfaultfd", "softDirty", "comparison", "none"]).describe("How changed pages are found."),
  disks: listByKey(struct({ id: text(253), syncPercent: measure().max(100), dirtyBytes: counter() }), "id", {
    max: 64,
  }).describe("How far each disk's copy is."),
  links: listByKey(
    struct({
      name: shortName(),
      alive: z.boolean("true or false"),
      rttMs: measure().optional(),
      roundTrip: struct({ p50Ms: measure(), p99Ms: measure() })
        .optional()
        .describe("Of the last minute, between the nodes' agents."),
      carriesData: z
        .boolean("true or false")
        .optional()
        .describe("Whether checkpoints go over it; heartbeats go over all."),
    }),
    "name",
    {
      max: 8,
    },
  ).describe("The replication links, with the shortest round trip of the last ones in milliseconds."),
  quorums: listByKey(
    struct({
      seat: oneOf(["preferred", "alternate"]),
      reachable: z.boolean("true or false"),
      latencyMs: measure().optional(),
      inForce: z.boolean("true or false"),
    }),
    "seat",
    { max: 2 },
  )
    .optional()
    .describe("The guest's quorums as this side sees them, with how long a question takes, in milliseconds."),
  checkpoint: struct({ perSecond: measure(), pause: quantiles, dirtyPagesP50: measure() })
    .optional()
    .describe("Figures of the last checkpoints; absent where none are taken."),
  addedLatency: quantiles.optional().describe("How long what the guest sends is held back; absent where nothing is."),
  traffic: struct({
    mibPerSecond: measure().describe("What the guest's engine puts on the links, in MiB a second, over ten seconds."),
    nodePeakMiBPerSecond: measure().describe("The most that all engines of the node were seen to send together."),
    heldToMiBPerSecond: measure()
      .optional()
      .describe(
        "The guest's share of the links, while it changes more than that and is slowed down; absent otherwise.",
      ),
  })
    .optional()
    .describe("What goes over the links; absent before it was measured."),
  override: struct({ who: text(253), why: text(1_024), at: text(64), term: counter() })
    .optional()
    .describe("The last time that a person decided who owns the guest, as the quorum's record has it."),
  takeoversCount: counter().describe("How often this side took over."),
  lastTakeover: takeover.optional().describe("The last time it did."),
  faults: sequence(seenFault, { max: 16 })
    .optional()
    .describe("What failed of the guest's sides, as far as this agent has seen it; the latest first."),
  conditions: listByKey(condition, "type", { max: 16 }).describe(`What it found: ${GUEST_CONDITION_TYPES.join(", ")}.`),
});

const status = struct({
  sides: listByKey(statusSide, "node", { max: 4 })
    .optional()
    .describe("What each agent reports. A node that was replaced stays until the operator removes its item."),
}).describe("What the agents report.");

const guestPairObject = objectOf("GuestPair", spec, status);

export type GuestPair = z.output<typeof guestPairObject>;
export type GuestPairSpec = z.output<typeof spec>;
export type GuestPairStatus = z.output<typeof status>;

/** A GuestPair with its defaults; `subject` says where it comes from. Throws InputFailure with every mistake. */
export function parseGuestPair(value: unknown, subject: string): GuestPair {
  return parseInput(guestPairObject, value, subject);
}

const ofRole = (role: string, field: string): string => `.status.sides[?(@.role=="${role}")].${field}`;

export const guestPairResource: CustomResource = {
  kind: "GuestPair",
  plural: "guestpairs",
  shortNames: ["gpair"],
  categories: ["twinrun"],
  scope: "Namespaced",
  description: "A protected guest as its two agents need it. Written by Twinrun, not by people.",
  spec,
  status,
  columns: [
    { name: "Guest", type: "string", description: "Name of the guest.", jsonPath: ".spec.guest" },
    { name: "Primary", type: "string", description: "Node that runs it.", jsonPath: ofRole("primary", "node") },
    { name: "State", type: "string", description: "State of the primary.", jsonPath: ofRole("primary", "state") },
    { name: "Term", type: "integer", description: "Term of the primary.", jsonPath: ofRole("primary", "term") },
    { name: "Standby", type: "string", description: "Node that could go on.", jsonPath: ofRole("standby", "node") },
    {
      name: "Sync",
      type: "number",
      description: "Percent of memory and disks that the standby has.",
      jsonPath: ofRole("primary", "syncPercent"),
    },
    ageColumn,
  ],
};
