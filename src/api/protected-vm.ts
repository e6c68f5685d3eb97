/**
 * ProtectedVM: a virtual machine and the level of availability its owner asks for.
 *
 * What one object can know is in the schema and its CEL rules. That a VirtualMachine is protected already is said by a policy of
 * the chart (policies/one-protection.yaml). What else it cannot know (does the VirtualMachine exist, are there two fit nodes)
 * changes with time, and the condition Stalled says it (conditions.ts, StalledReason).
 *
 * Unknown fields are for the API server to refuse (kubectl asks it to); here they are ignored.
 */
import { type z } from "zod";
import { parseInput } from "./checked-input.ts";
import { condition, PROTECTED_VM_CONDITION_TYPES } from "./conditions.ts";
import { ageColumn, type CustomResource, objectOf } from "./custom-resource.ts";
import { fault } from "./fault.ts";
import { checkpointContract, detectionTimeoutMs } from "./fault-tolerance.ts";
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
  textMap,
  time,
  wholeNumber,
} from "./fields.ts";
import { guestTemplate } from "./guest-template.ts";
import { withRule, withTransitionRule } from "./structural.ts";

const virtualMachineRef = withTransitionRule(
  struct({ name: objectName().describe("Its name, in the namespace of the ProtectedVM.") }),
  { rule: "self == oldSelf", message: "cannot change: make a ProtectedVM for the other VirtualMachine" },
).describe("An existing VirtualMachine to protect.");

const nodes = withRule(
  sequence(shortName(), { min: 2, max: 2 }),
  { rule: "size(self) != 2 || self[0] != self[1]", message: "must name two different nodes" },
  ([first, second]) => first === undefined || first !== second,
).describe("The names of the two nodes. The guest is started on the first.");

const nodeSelector = withRule(
  textMap(32, 63),
  { rule: "size(self) > 0", message: "must hold at least one label" },
  (labels) => Object.keys(labels).length > 0,
).describe("Labels that a node must have to be one of the two; a lost one is replaced by another that has them.");

const splitSitePairRef = struct({ name: objectName().describe("Its name.") }).describe(
  "A SplitSitePair: each of its two sites gets one side, and a lost one is replaced in its own site.",
);

const apartFrom = withRule(
  textMap(32, 63),
  { rule: "size(self) > 0", message: "must hold at least one label" },
  (labels) => Object.keys(labels).length > 0,
).describe(
  "Labels of other ProtectedVMs of the namespace: a guest that has all of them shares no node with this one, whichever of the " +
    "two comes first. For replicas that must not be lost together.",
);

const placement = withRule(
  struct({
    nodes: nodes.optional(),
    nodeSelector: nodeSelector.optional(),
    splitSitePairRef: splitSitePairRef.optional(),
    apartFrom: apartFrom.optional(),
  }),
  {
    rule: "[has(self.nodes), has(self.nodeSelector), has(self.splitSitePairRef)].filter(given, given).size() == 1",
    message: "must hold exactly one of nodes, nodeSelector and splitSitePairRef",
  },
  ({ nodes, nodeSelector, splitSitePairRef }) =>
    [nodes, nodeSelector, splitSitePairRef].filter((value) => value !== undefined).length === 1,
).describe("Where the two sides of the guest may be.");

const sideStorage = struct({
  storageClassName: objectName()
    .optional()
    .describe(
      "The class of volumes made for this side; left out: the one the template names, else the cluster's default.",
    ),
  accessModes: setOf(oneOf(["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]), { min: 1, max: 3 })
    .default(["ReadWriteOnce"])
    .describe("The access modes of volumes made for this side. Each side has its own, so ReadWriteOnce is enough."),
  sizePolicy: oneOf(["Capacity", "Request"])
    .default("Capacity")
    .describe(
      "How large a volume is made that receives a copy. Capacity: as large as the original is, which may be more than was " +
        "asked for. Request: as large as was asked for the original.",
    ),
});

const storage = struct({
  first: sideStorage.prefault({}).describe("Volumes of the side on which the guest is started."),
  second: sideStorage.prefault({}).describe("Volumes of the other side."),
}).describe("What the volumes of the sides are made of. Volumes that exist already are left as they are.");

const failover = struct({
  detectionTimeoutMs: detectionTimeoutMs.optional(),
  reprotect: oneOf(["Automatic", "Manual"])
    .default("Automatic")
    .describe(
      "What happens once a side is lost. Automatic: a new one is made as soon as a node of the placement is there. " +
        "Manual: the guest runs unprotected until this field says Automatic.",
    ),
  isolateAfterFaults: wholeNumber(2, 16)
    .default(3)
    .describe(
      "A component of a side that fails this often within an hour is isolated: it is not used for a new copy of the guest " +
        "until a person clears it (kubectl twinrun faults clear).",
    ),
  group: shortName()
    .optional()
    .describe(
      "Guests of the namespace that name the same group have their sides on the same two nodes and run on the same one of them: " +
        "when one changes sides, by a fault or as planned, the others follow it live. What one has been told by another is held " +
        "by both standbys, so that the group goes on from one consistent state after the loss of its node.",
    ),
}).describe("How the loss of a side is noticed and mended.");

const start = struct({
  order: wholeNumber(0, 1_000)
    .default(0)
    .describe(
      "Guests of the namespace that have no memory to go on from, as after both of their nodes lost power, start in this order: " +
        "those with a lower number first, equal ones together.",
    ),
  waitSeconds: wholeNumber(0, 3_600)
    .default(300)
    .describe(
      "How long the guest waits at most for those before it. One counts as started when it runs and, if it has a readiness " +
        "probe, is ready.",
    ),
}).describe("When the guest starts among others. A takeover waits for nobody.");

const anySource = struct({
  mode: oneOf(["FaultTolerant", "HighAvailability"]).describe(
    "The level of availability; may change while the guest runs. FaultTolerant: the loss of a host is not seen by anybody who " +
      "talks to the guest. HighAvailability: the guest boots on the other node with every write that it was told is done; " +
      "planned work moves it live.",
  ),
  virtualMachineTemplate: guestTemplate
    .optional()
    .describe("A guest that exists only under protection: what is used of a VirtualMachine's manifest."),
  virtualMachineRef: virtualMachineRef.optional(),
  placement,
  storage: storage.prefault({}),
  checkpoint: checkpointContract.prefault({}),
  failover: failover.prefault({}),
  start: start.prefault({}),
});
const oneSource = withRule(
  anySource,
  {
    rule: "has(self.virtualMachineTemplate) != has(self.virtualMachineRef)",
    message: "must hold either virtualMachineTemplate or virtualMachineRef",
  },
  (given) => (given.virtualMachineTemplate === undefined) !== (given.virtualMachineRef === undefined),
);
const spec = withTransitionRule(oneSource, {
  rule: "has(self.virtualMachineRef) == has(oldSelf.virtualMachineRef)",
  message: "cannot change between virtualMachineTemplate and virtualMachineRef: make another ProtectedVM",
}).describe("What is protected, where, and how well.");

const side = struct({
  node: shortName().describe("The node it is on."),
  vmi: struct({ namespace: objectName(), name: objectName() }).describe("Its VirtualMachineInstance."),
});

const quantiles = struct({
  p50Ms: measure().describe("Half of them took at most this long, in milliseconds."),
  p99Ms: measure().describe("99 of 100 took at most this long, in milliseconds."),
});

const status = struct({
  observedGeneration: counter().optional().describe("The metadata.generation that this status is about."),
  conditions: listByKey(condition, "type", { max: 32 })
    .optional()
    .describe(`What there is to know: ${PROTECTED_VM_CONDITION_TYPES.join(", ")}.`),
  guest: shortName().optional().describe("What agents, engines, the quorum and the GuestPair call the guest."),
  term: counter().optional().describe("Counts the owners the quorum has seen; one more at every change of sides."),
  primary: side.optional().describe("The side that runs the guest."),
  standby: side.optional().describe("The side that could go on; absent while there is none."),
  checkpoint: struct({
    perSecond: measure().describe("Checkpoints in a second."),
    pause: quantiles.describe("How long the guest stands still at a checkpoint."),
    addedLatency: quantiles.describe("How long what the guest sends is held back."),
    dirtyPagesP50: measure().describe(
      "Pages of memory that change between two checkpoints, in half of the cases at most.",
    ),
  })
    .optional()
    .describe("Figures of the last checkpoints, written every ten seconds at most."),
  disks: listByKey(
    struct({
      name: text(253).describe("The name of the disk in the guest's spec."),
      syncPercent: measure().max(100).describe("How much of it the standby has."),
    }),
    "name",
    { max: 64 },
  )
    .optional()
    .describe("The guest's disks."),
  resync: struct({
    percent: measure().max(100).describe("How much of memory and disks the standby has."),
    leftBytes: counter().describe("What it has still to get."),
    secondsLeft: counter()
      .optional()
      .describe("How long that will take at the pace of now; absent while nobody can tell."),
  })
    .optional()
    .describe("The copy to the standby that is under way; absent while there is none."),
  lastFailover: struct({
    cause: text(1_024).describe("What had failed, as the side that took over saw it."),
    at: time().describe("When the guest went on."),
    durationMs: counter()
      .optional()
      .describe("How long it stood still, in milliseconds; absent when nobody could measure it."),
    epoch: counter().describe("The checkpoint it went on from."),
  })
    .optional()
    .describe("The last change of sides that was not planned."),
  group: struct({
    name: shortName().describe("Its name."),
    node: shortName().optional().describe("The node on which its guests run, or to which they are on their way."),
    members: listByKey(
      struct({
        name: objectName().describe("The ProtectedVM."),
        primary: shortName().optional().describe("The node that runs it; absent while none does."),
      }),
      "name",
      { max: 64 },
    ).describe("The guests that were placed already, the oldest first."),
  })
    .optional()
    .describe("The group of failover.group; absent where there is none."),
  faults: sequence(fault, { max: 32 })
    .optional()
    .describe("What failed of the guest's sides: what is out of service first, then the latest."),
}).describe("What Twinrun found out and did.");

const protectedVmObject = objectOf("ProtectedVM", spec, status);

export type ProtectedVm = z.output<typeof protectedVmObject>;
/** Defaults are filled in. */
export type ProtectedVmSpec = z.output<typeof spec>;
export type ProtectedVmStatus = z.output<typeof status>;

/** A ProtectedVM with its defaults; `subject` says where it comes from. Throws InputFailure with every mistake. */
export function parseProtectedVm(value: unknown, subject: string): ProtectedVm {
  return parseInput(protectedVmObject, value, subject);
}

const conditionStatus = (type: string): string => `.status.conditions[?(@.type=="${type}")].status`;

export const protectedVmResource: CustomResource = {
  kind: "ProtectedVM",
  plural: "protectedvms",
  shortNames: ["pvm"],
  categories: ["all", "twinrun"],
  scope: "Namespaced",
  description: "A virtual machine that keeps running, or comes back, when the server under it dies.",
  spec,
  status,
  columns: [
    { name: "Mode", type: "string", description: "Level of availability.", jsonPath: ".spec.mode" },
    {
      name: "Ready",
      type: "string",
      description: "Whether the guest would survive the loss of either side.",
      jsonPath: conditionStatus("Ready"),
    },
    {
      name: "Reason",
      type: "string",
      description: "Why it is ready or not.",
      jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
    },
    { name: "Primary", type: "string", description: "Node that runs the guest.", jsonPath: ".status.primary.node" },
    { name: "Standby", type: "string", description: "Node that could go on.", jsonPath: ".status.standby.node" },
    ageColumn,
    {
      name: "In-Sync",
      type: "string",
      description: "Whether the standby holds all that was acknowledged.",
      jsonPath: conditionStatus("InSync"),
      priority: 1,
    },
    { name: "Term", type: "integer", description: "Owners so far.", jsonPath: ".status.term", priority: 1 },
    {
      name: "Latency-P99",
      type: "number",
      description: "Added latency in milliseconds.",
      jsonPath: ".status.checkpoint.addedLatency.p99Ms",
      priority: 1,
    },
    {
      name: "Last-Failover",
      type: "date",
      description: "Time since the last failover.",
      jsonPath: ".status.lastFailover.at",
      priority: 1,
    },
  ],
};
