/**
 * Conditions: what somebody has to know about an object, in the form that kstatus, Argo CD and `kubectl wait` understand.
 *
 * Who writes one writes all of its object's conditions, in the order of the list here, each time; `lastTransitionTime` moves
 * only with `status`. Reconciling and Stalled are True when something is wrong or not finished, all others when all is well.
 */
import { z } from "zod";
import { counter, oneOf, struct, text, time } from "./fields.ts";

/** metav1.Condition, with its limits. */
export const condition = struct({
  type: text(316)
    .regex(/^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/, "the type of a condition")
    .describe("What the condition is about."),
  status: oneOf(["True", "False", "Unknown"]).describe("Whether it holds."),
  observedGeneration: counter().optional().describe("The metadata.generation that the condition was decided on."),
  lastTransitionTime: time().describe("When status changed last."),
  reason: text(1_024)
    .regex(/^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$/, "a reason in PascalCase")
    .describe("Why, for programs."),
  message: z
    .string("a text")
    .max(32_768, "a text of at most 32768 characters")
    .describe("Why, for people, with the remedy if there is one."),
});

export type Condition = z.output<typeof condition>;

/** What the engines of a pair find out about their guest; in a ProtectedVM's status it is the primary's finding. */
export const GUEST_CONDITION_TYPES = [
  "InSync",
  "QuorumReachable",
  "LatencyWithinBound",
  "DisksHealthy",
  "LinksHealthy",
] as const;
export type GuestConditionType = (typeof GUEST_CONDITION_TYPES)[number];

/** The first three are those of kstatus. */
export const PROTECTED_VM_CONDITION_TYPES = [
  ...(["Ready", "Reconciling", "Stalled"] as const),
  ...GUEST_CONDITION_TYPES,
  "ComponentsHealthy",
  "PlacementMet",
] as const;
export type ProtectedVmConditionType = (typeof PROTECTED_VM_CONDITION_TYPES)[number];

/** The first three are those of kstatus. */
export const SPLIT_SITE_PAIR_CONDITION_TYPES = [
  "Ready",
  "Reconciling",
  "Stalled",
  "RoundTripWithinBound",
  "QuorumReachable",
  "LinksHealthy",
] as const;
export type SplitSitePairConditionType = (typeof SPLIT_SITE_PAIR_CONDITION_TYPES)[number];

/** Whether the guest runs and would survive the loss of either side. */
export type ReadyReason =
  /** The guest runs and its standby is in sync. */
  | "Protected"
  /** Volumes, guests and the pair are being made; nothing runs yet. */
  | "Creating"
  /** The guest runs and its standby receives the first or a new whole copy. */
  | "Synchronising"
  /** The guest runs without a standby: one was lost, or none could be made. */
  | "Unprotected"
  /** An engine is being replaced, or the guest is on its way to the other side: for a moment nobody says that it runs it. */
  | "ChangingSides"
  /** No side runs the guest: it ended, waits for the quorum, is started anew, or its last owner's host is away. */
  | "NotRunning"
  /** The reason of Stalled says what a person has to do. */
  | "Stalled"
  /** The pair is being taken apart. */
  | "Deleting";

/** Whether the operator still has something to do. */
export type ReconcilingReason =
  /** The cluster is as the spec wants it. */
  | "Settled"
  /** Volumes, guests or the pair are being made, or made again elsewhere after a loss. */
  | "Creating"
  /** The standby receives a whole copy. */
  | "Synchronising"
  /** The guest moves to the other side, planned or not. */
  | "ChangingSides"
  /** The pair is being taken apart. */
  | "Deleting";

/** Whether the operator has to wait for a person. One object cannot know any of these, so they are not CEL rules. */
export type StalledReason =
  /** Nothing stands in the way. */
  | "NotStalled"
  /** There is no VirtualMachine of the name in virtualMachineRef. */
  | "VirtualMachineNotFound"
  /** Another ProtectedVM protects this VirtualMachine already. */
  | "VirtualMachineTaken"
  /** The VirtualMachine runs without Twinrun's hook and has to be restarted once, which its owner has to allow. */
  | "RestartNeeded"
  /** The guest has something that cannot be copied, such as a passed-through device; the message names it. */
  | "NotProtectable"
  /** Fewer than two nodes satisfy the placement, are ready and run an agent. */
  | "NodesMissing"
  /** There is no SplitSitePair of the name in placement.splitSitePairRef. */
  | "SplitSitePairNotFound"
  /** The sites of that SplitSitePair are farther apart than it allows, as its other guests have found out. */
  | "SitesTooFar"
  /** The nodes of its group, or those that are left of them by placement.apartFrom, cannot have it. */
  | "GroupElsewhere"
  /** The node that is to have the other side failed again and again; a person has to clear it. */
  | "Isolated"
  /** The replication links of nodes that could have it are full of other guests' checkpoints. */
  | "LinkFull"
  /** Every port for engines is taken. */
  | "PortsMissing"
  /** The two nodes have no processor model or machine type in common. */
  | "NodesDiffer"
  /** A volume cannot be made or is too small for its disk. */
  | "StorageUnusable"
  /** Objects of KubeVirt or Twinrun that the operator has to write are refused by the API server. */
  | "Refused";

/** What engines report, by the condition it belongs to (src/engine/report.ts). */
export type GuestReason =
  /** InSync: the standby holds every acknowledged epoch. */
  | "Protected"
  /** InSync: a whole copy is on its way. */
  | "Synchronising"
  /** InSync: there is no standby, or it is stale. */
  | "Unprotected"
  /** QuorumReachable: the quorum answers. */
  | "Reachable"
  /** QuorumReachable: it does not; a healthy pair goes on, and no failover is possible. */
  | "Unreachable"
  /** LatencyWithinBound: 99 of the last 100 packets waited no longer than allowed. */
  | "WithinBound"
  /** LatencyWithinBound: they waited longer. */
  | "BoundExceeded"
  /** LatencyWithinBound: nothing that the guest sent was held back yet. */
  | "NoOutput"
  /** DisksHealthy, LinksHealthy: nothing has failed. */
  | "Healthy"
  /** DisksHealthy: a disk or its mirror failed. */
  | "DiskFailed"
  /** DisksHealthy: a volume has no room. */
  | "VolumeFull"
  /** DisksHealthy: requests take far longer than is usual for that disk. */
  | "DiskSlow"
  /** LinksHealthy: a replication link is down. */
  | "LinkDown"
  /** LinksHealthy: the links work, but the peer refuses this side. */
  | "Refused"
  /** LinksHealthy: the links work, but the sites are farther apart than their SplitSitePair allows; from the operator. */
  | "RoundTripExceeded"
  /** Any of them: no side has reported yet, or none reports any more. */
  | "NotReported";

/** Whether every part of the guest's sides works, as far as anybody has seen. */
export type ComponentsReason =
  /** Nothing that failed is out of service still. */
  | "Healthy"
  /** Something is out of service; status.faults has what, why, and what to do. */
  | "OutOfService"
  /** Something failed again and again, and is not used until a person clears it. */
  | "Isolated";

/** Whether the guest's sides are where it wants them beside other guests. */
export type PlacementReason =
  /** With its group, and apart from those it is to be apart from. */
  | "Met"
  /** It has no sides yet. */
  | "NotPlaced"
  /** It is not with its group; the message says where it is and what it waits for. */
  | "GroupScattered"
  /** It shares a node with a guest from which one of the two is to be apart. */
  | "NotApart";

/** Which reasons go with which condition; a writer of conditions takes its types from here. */
export type ProtectedVmReason = {
  readonly Ready: ReadyReason;
  readonly Reconciling: ReconcilingReason;
  readonly Stalled: StalledReason;
  readonly ComponentsHealthy: ComponentsReason;
  readonly PlacementMet: PlacementReason;
} & { readonly [Type in GuestConditionType]: GuestReason };

/** Which reasons go with which condition of a SplitSitePair. */
export type SplitSitePairReason = {
  /** SitesFit: each site has a node that could have a side. NodesMissing: one has none. */
  readonly Ready: "SitesFit" | "NodesMissing";
  /** It makes nothing, so there is never anything to wait for. */
  readonly Reconciling: "Settled";
  /** SitesOverlap: a node has the labels of both sites. */
  readonly Stalled: "NotStalled" | "SitesOverlap";
  /** NotMeasured: no guest is placed by it, or none has a link yet. */
  readonly RoundTripWithinBound: "WithinBound" | "BoundExceeded" | "NotMeasured";
  /** Unreachable: a site does not reach the quorum that is in force for a guest. NotReported: no guest's side says. */
  readonly QuorumReachable: "Reachable" | "Unreachable" | "NotReported";
  /** LinkDown: a link between the sites does not work for a guest. */
  readonly LinksHealthy: "Healthy" | "LinkDown" | "NotReported";
};
