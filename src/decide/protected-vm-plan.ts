/** What is seen of a ProtectedVM and its surroundings, and what a plan for it can say. See protected-vm.ts. */
import { type GuestPair } from "../api/guest-pair.ts";
import { type ProtectedVm, type ProtectedVmStatus } from "../api/protected-vm.ts";
import { type SplitSitePair } from "../api/split-site-pair.ts";
import { type Json } from "../lib/json-merge.ts";
import {
  type Claim,
  type ClusterNode,
  type ClusterObject,
  type DataVolume,
  type ObjectName,
  type Pod,
  type VirtualMachine,
  type Vmi,
  type Volume,
} from "./cluster-objects.ts";
import { type PortRange, type UsedPorts } from "./engine-ports.ts";
import { type LinkUse } from "./link-room.ts";
import { type Neighbour } from "./neighbours.ts";
import { type PairBrief } from "./pair-brief.ts";

export type HookMode = "Sidecar" | "NetworkBinding";

export type OperatorSettings = {
  /** Where GuestPairs, and the quorum's records if they are Leases, are. */
  readonly namespace: string;
  /** Where the second sides of guests are: tenants cannot get there. */
  readonly guestsNamespace: string;
  readonly hookImage: string;
  readonly hookMode: HookMode;
  /** Of engines, on every node. */
  readonly ports: PortRange;
  /** Whether guests move to new launchers when KubeVirt was upgraded. */
  readonly renewsLaunchers: boolean;
};

export type Observed = {
  /** With its defaults. */
  readonly protectedVm: ProtectedVm;
  /** The status as last written; what is in the object may be older. */
  readonly previous: ProtectedVmStatus | undefined;
  readonly settings: OperatorSettings;
  /** That of virtualMachineRef. */
  readonly virtualMachine: VirtualMachine | undefined;
  /** Other ProtectedVMs of the same VirtualMachine. */
  readonly rivals: readonly ProtectedVm[];
  /** That of placement.splitSitePairRef. */
  readonly splitSitePair: SplitSitePair | undefined;
  readonly nodes: readonly ClusterNode[];
  /** The agents' pods. */
  readonly agents: readonly Pod[];
  readonly pair: GuestPair | undefined;
  /** With the label of the guest, and the one of the VirtualMachine. */
  readonly vmis: readonly Vmi[];
  readonly findVmi: (name: ObjectName) => Vmi | undefined;
  /** With the label of the guest. */
  readonly claims: readonly Claim[];
  readonly dataVolumes: readonly DataVolume[];
  readonly findClaim: (name: ObjectName) => Claim | undefined;
  /** A PersistentVolume, which is in no namespace. */
  readonly findVolume: (name: string) => Volume | undefined;
  readonly findDataVolume: (name: ObjectName) => DataVolume | undefined;
  /** Whether the cluster has CDI. */
  readonly hasDataVolumes: boolean;
  /** Of other pairs. */
  readonly usedPorts: UsedPorts;
  /** How many sides of guests each node has. */
  readonly load: ReadonlyMap<string, number>;
  /** Nodes that failed again and again for other guests, and were not cleared since. */
  readonly isolatedNodes: ReadonlySet<string>;
  readonly others: readonly PairBrief[];
  /** Of other pairs. */
  readonly linkUses: readonly LinkUse[];
  /** Other ProtectedVMs of the namespace that can matter to this one, as they are at the moment of asking. */
  readonly neighbours: readonly Neighbour[];
  /** What the API server refused the last time, in its words; a person has to see to it. */
  readonly refusal: string | undefined;
  readonly nowMs: number;
};

/** As it is applied: the status is the agents'. */
export type DesiredPair = Omit<GuestPair, "status">;

/** What every object that is made for a guest carries. */
export type Marks = {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
};

export type DeletableKind = "VirtualMachineInstance" | "PersistentVolumeClaim" | "DataVolume" | "GuestPair";

/** Each is safe to repeat. Of those that take away what may be missed a plan holds at most one, the last. */
export type Action =
  | { readonly tag: "applyFinalizer" }
  | { readonly tag: "removeFinalizer" }
  | { readonly tag: "applyPair"; readonly pair: DesiredPair }
  /** An object that is there already counts as made. */
  | { readonly tag: "createObject"; readonly object: ClusterObject }
  /** Copies a Secret or ConfigMap, as it is now, to where the second side can use it. */
  | {
      readonly tag: "copyReference";
      readonly kind: "Secret" | "ConfigMap";
      readonly source: ObjectName;
      readonly target: ObjectName;
      readonly metadata: Marks;
    }
  /** A JSON merge patch, with the version it was worked out from where that matters. */
  | {
      readonly tag: "patchObject";
      readonly kind: "VirtualMachine" | Exclude<DeletableKind, "GuestPair">;
      readonly name: ObjectName;
      readonly patch: Json;
    }
  | {
      readonly tag: "deleteObject";
      readonly kind: DeletableKind;
      readonly name: ObjectName;
      readonly uid: string | undefined;
      /** Undefined where it may have changed since. */
      readonly resourceVersion?: string | undefined;
      /** For the log. */
      readonly why: string;
    }
  /** Has the file systems of the guest in this instance thawed. */
  | { readonly tag: "thawInstance"; readonly name: ObjectName }
  /** Every Secret and ConfigMap that was copied for the guest. */
  | { readonly tag: "deleteCopies"; readonly guest: string }
  /** The quorum's record. Nobody asks for it any more, for the guest is gone. */
  | {
      readonly tag: "deleteRecord";
      readonly guest: string;
      /** Replicas of each quorum of the guest's own; none where its record is in the installation's. */
      readonly quorums: readonly NonNullable<GuestPair["spec"]["quorum"]>["preferred"][];
    }
  /** Takes a request's annotation off the ProtectedVM, and leaves what somebody may ask for later. */
  | {
      readonly tag: "clearRequest";
      readonly annotation: string;
      readonly leaves?: Readonly<Record<string, string>> | undefined;
    }
  /** Takes the reports of nodes that are no longer sides out of the pair's status. */
  | { readonly tag: "forgetReports"; readonly nodes: readonly string[] };

/** `resourceVersion`: only if it has not changed since. */
export function deleteInstance({ metadata }: Vmi, why: string, resourceVersion?: string): Action {
  const name = { namespace: metadata.namespace ?? "", name: metadata.name };
  return { tag: "deleteObject", kind: "VirtualMachineInstance", name, uid: metadata.uid, resourceVersion, why };
}

const TAKES_AWAY: ReadonlySet<Action["tag"]> = new Set(["deleteObject", "removeFinalizer"] as const);

/** The actions of one pass: what takes something away comes last and once, for the next pass sees what became of it. */
export function limitActions(actions: readonly Action[]): readonly Action[] {
  const isFinal = (action: Action): boolean => TAKES_AWAY.has(action.tag);
  return [...actions.filter((action) => !isFinal(action)), ...actions.filter(isFinal).slice(0, 1)];
}

export type EventReason =
  | "Protected"
  | "Synchronising"
  | "Unprotected"
  | "NotRunning"
  | "Stalled"
  | "TookOver"
  | "ChangedSides"
  | "Placed"
  | "Reprotecting"
  | "Evacuating"
  | "Following"
  | "Renewing"
  | "Thawed"
  | "Released"
  | "SwitchedOver"
  | "SwitchoverRefused"
  | "FailedOver"
  | "FailoverRefused"
  | "Started"
  | "OwnerForced"
  | "OverrideRefused"
  | "FaultDetected"
  | "FaultRepaired"
  | "ComponentIsolated"
  | "FaultsCleared"
  | "ClearRefused";

export type PlannedEvent = {
  readonly type: "Normal" | "Warning";
  readonly reason: EventReason;
  /** What was done, or is being done, about it. */
  readonly message: string;
};

export type Plan = {
  readonly actions: readonly Action[];
  readonly status: ProtectedVmStatus;
  /** What is done. */
  readonly events: readonly PlannedEvent[];
  /** What is news in the status, told once it is written. */
  readonly changes: readonly PlannedEvent[];
  /** When to look again even if nothing changes. */
  readonly recheckAfterMs?: number | undefined;
};
