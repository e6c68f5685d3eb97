/** VirtualMachines: what to do about a VM's instance by its run strategy, and its status; pure. */
import { isFinal } from "./vmi-status.ts";
import { type Condition, type ObjectMeta, type Vmi, type VmiSpec } from "./vmi.ts";

export type StateChangeRequest = { readonly action: "Start" | "Stop"; readonly uid?: string };

export type Vm = {
  readonly apiVersion: "kubevirt.io/v1";
  readonly kind: "VirtualMachine";
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly runStrategy?: "Always" | "Halted" | "Manual" | "RerunOnFailure" | "Once";
    readonly running?: boolean;
    readonly template: { readonly metadata?: Partial<ObjectMeta>; readonly spec: VmiSpec };
    readonly dataVolumeTemplates?: readonly { readonly metadata: Partial<ObjectMeta>; readonly spec: object }[];
  };
  readonly status?: {
    readonly stateChangeRequests?: readonly StateChangeRequest[];
    readonly conditions?: readonly Condition[];
    readonly [other: string]: unknown;
  };
};

export type VmPlan = {
  readonly action: "none" | "createVmi" | "removeVmi";
  /** Those that are still to be carried out. */
  readonly requests: readonly StateChangeRequest[];
};

export function planVm(vm: Vm, vmi: Vmi | undefined): VmPlan {
  const [request, ...later] = vm.status?.stateChangeRequests ?? [];
  if (request !== undefined) {
    return planRequest(request, later, vmi);
  }
  const isThere = vmi !== undefined;
  const isOver = isThere && isFinal(vmi);
  switch (strategyOf(vm)) {
    case "Always":
      return plan(isOver ? "removeVmi" : isThere ? "none" : "createVmi");
    case "RerunOnFailure":
      return plan(isOver && vmi.status?.phase === "Failed" ? "removeVmi" : isThere ? "none" : "createVmi");
    case "Once":
      return plan(isThere ? "none" : "createVmi");
    case "Halted":
      return plan(isThere ? "removeVmi" : "none");
    case "Manual":
      return plan("none");
  }
}

const plan = (action: VmPlan["action"]): VmPlan => ({ action, requests: [] });

/** A request stays until what it asks for is seen. */
function planRequest(request: StateChangeRequest, later: readonly StateChangeRequest[], vmi: Vmi | undefined): VmPlan {
  if (request.action === "Stop") {
    const isGone = vmi === undefined || (request.uid !== undefined && request.uid !== vmi.metadata.uid);
    return isGone ? { action: "none", requests: later } : { action: "removeVmi", requests: [request, ...later] };
  }
  if (vmi === undefined) {
    return { action: "createVmi", requests: [request, ...later] };
  }
  return isFinal(vmi) ? { action: "removeVmi", requests: [request, ...later] } : { action: "none", requests: later };
}

export function strategyOf({ spec }: Vm): "Always" | "Halted" | "Manual" | "RerunOnFailure" | "Once" {
  return spec.runStrategy ?? (spec.running === true ? "Always" : "Halted");
}

export function planVmStatus(vm: Vm, vmi: Vmi | undefined, requests: readonly StateChangeRequest[]): object {
  const conditions = (vmi?.status?.conditions ?? []).filter(({ type }) => type === "Ready" || type === "Paused");
  const isReady = conditions.some(({ type, status }) => type === "Ready" && status === "True");
  const notThere: Condition = {
    type: "Ready",
    status: "False",
    reason: "VMINotExists",
    message: "VMI does not exist",
    lastTransitionTime: vm.metadata.creationTimestamp ?? null,
  };
  return {
    ...vm.status,
    created: vmi !== undefined,
    ready: isReady,
    printableStatus: printableStatusOf(vmi),
    runStrategy: strategyOf(vm),
    observedGeneration: vm.metadata.generation,
    desiredGeneration: vm.metadata.generation,
    stateChangeRequests: requests.length === 0 ? undefined : requests,
    conditions: conditions.length === 0 ? [notThere] : conditions,
  };
}

function printableStatusOf(vmi: Vmi | undefined): string {
  if (vmi === undefined || isFinal(vmi)) {
    return "Stopped";
  }
  if (vmi.metadata.deletionTimestamp !== undefined) {
    return "Stopping";
  }
  if (vmi.status?.conditions?.some(({ type, status }) => type === "Paused" && status === "True") === true) {
    return "Paused";
  }
  return vmi.status?.phase === "Running" ? "Running" : "Starting";
}

/** The instance of a VM: its own name, its template's everything, and the firmware identity that KubeVirt gave the VM. */
export function planInstance({ apiVersion, kind, metadata, spec: { template } }: Vm): object {
  return {
    apiVersion: "kubevirt.io/v1",
    kind: "VirtualMachineInstance",
    metadata: {
      name: metadata.name,
      namespace: metadata.namespace,
      labels: template.metadata?.labels,
      annotations: template.metadata?.annotations,
      finalizers: ["kubevirt.io/foregroundDeleteVirtualMachine"],
      ownerReferences: [
        { apiVersion, kind, name: metadata.name, uid: metadata.uid, controller: true, blockOwnerDeletion: true },
      ],
    },
    spec: {
      ...template.spec,
      domain: {
        ...template.spec.domain,
        firmware: { uuid: metadata.uid, serial: metadata.uid, ...template.spec.domain.firmware },
      },
    },
  };
}
