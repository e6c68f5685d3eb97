/** The status of a VMI as virt-controller and virt-handler write it together; pure. */
import { type DomainReport } from "./domain-report.ts";
import { type Condition, type ObjectMeta, type Vmi, type VmiPhase, type VmiStatus } from "./vmi.ts";

export type LauncherPod = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly spec: { readonly nodeName?: string };
  readonly status?: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly Condition[];
    readonly containerStatuses?: readonly { readonly name: string; readonly state?: { readonly running?: object } }[];
  };
};

export type ClaimInfo = {
  readonly claimName: string;
  readonly requests: Readonly<Record<string, string>>;
  readonly volumeMode: string;
};

export type ObservedVmi = {
  readonly vmi: Vmi;
  readonly pod: LauncherPod | undefined;
  /** What the launcher said last. */
  readonly report: DomainReport | undefined;
  /** Why the last sync failed. */
  readonly trouble: string | undefined;
  /** Of its volumes. */
  readonly claims: ReadonlyMap<string, ClaimInfo>;
  readonly now: string;
};

export const isFinal = ({ status }: Vmi): boolean => status?.phase === "Succeeded" || status?.phase === "Failed";

export const isPodOver = ({ status }: LauncherPod): boolean =>
  status?.phase === "Succeeded" || status?.phase === "Failed";

export const isComputeRunning = ({ status }: LauncherPod): boolean =>
  status?.phase === "Running" &&
  (status.containerStatuses ?? []).some(({ name, state }) => name === "compute" && state?.running !== undefined);

export const isDomainUp = (report: DomainReport | undefined): boolean =>
  report !== undefined && report.state !== "none" && report.state !== "ended";

/** A VMI whose node is gone stays what it was: only a pod that is over, or is no more, ends it. */
export function decidePhase({ vmi, pod, report }: ObservedVmi): VmiPhase {
  const before = vmi.status?.phase ?? "Pending";
  if (isFinal(vmi)) {
    return before;
  }
  if (pod === undefined) {
    return before === "Pending" ? "Pending" : "Failed";
  }
  if (report?.state === "ended") {
    return report.reason === "Shutdown" || report.reason === "Destroyed" ? "Succeeded" : "Failed";
  }
  return isPodOver(pod)
    ? pod.status?.phase === "Succeeded"
      ? "Succeeded"
      : "Failed"
    : decideLivePhase(before, pod, report);
}

/** Never goes back: what was seen once may be out of sight only. */
function decideLivePhase(before: VmiPhase, pod: LauncherPod, report: DomainReport | undefined): VmiPhase {
  if (isDomainUp(report) || before === "Running") {
    return "Running";
  }
  return isComputeRunning(pod) || before === "Scheduled" ? "Scheduled" : "Scheduling";
}

export function planVmiStatus(observed: ObservedVmi): VmiStatus {
  const { vmi, pod, claims } = observed;
  const phase = decidePhase(observed);
  const nodeName = pod?.spec.nodeName;
  const isPlaced = nodeName !== undefined && phase !== "Scheduling" && phase !== "Pending";
  return {
    ...vmi.status,
    phase,
    ...(isPlaced ? { nodeName, runtimeUser: 107 } : {}),
    ...(pod !== undefined && nodeName !== undefined ? { activePods: { [pod.metadata.uid]: nodeName } } : {}),
    conditions: planConditions(observed, phase),
    ...(claims.size === 0 ? {} : { volumeStatus: planVolumeStatus(observed) }),
    ...(phase === "Running" ? { interfaces: listInterfaces(observed) } : {}),
  };
}

function planVolumeStatus({ claims }: ObservedVmi): object[] {
  return [...claims].map(([name, info]) => ({ name, target: "", persistentVolumeClaimInfo: info }));
}

function listInterfaces({ vmi, pod }: ObservedVmi): object[] {
  const { networks = [], domain } = vmi.spec;
  return (domain.devices.interfaces ?? []).map(({ name, macAddress, state }) => {
    const isPodNetwork = networks.find((network) => network.name === name)?.multus === undefined;
    return {
      name,
      infoSource: "domain",
      linkState: state ?? "up",
      ...(macAddress === undefined ? {} : { mac: macAddress }),
      ...(isPodNetwork && pod?.status?.podIP !== undefined ? { ipAddress: pod.status.podIP } : {}),
    };
  });
}

type Wanted = Pick<Condition, "type" | "status" | "reason" | "message">;

function planConditions(observed: ObservedVmi, phase: VmiPhase): Condition[] {
  const wanted = [
    decideReady(observed, phase),
    decideScheduled(observed),
    decidePaused(observed, phase),
    decideSynchronized(observed),
  ];
  return wanted.flatMap((condition) => (condition === undefined ? [] : [keepTimes(observed, condition)]));
}

/** The pod's own readiness, which waits for the guest to be unpaused (a readiness gate). */
function decideReady({ pod }: ObservedVmi, phase: VmiPhase): Wanted {
  if (phase !== "Running") {
    return {
      type: "Ready",
      status: "False",
      reason: "GuestNotRunning",
      message: "Guest VM is not reported as running",
    };
  }
  const ready = pod?.status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True"
    ? { type: "Ready", status: "True" }
    : { type: "Ready", status: "False", reason: ready?.reason ?? "PodNotReady", message: ready?.message ?? "" };
}

function decideScheduled({ pod }: ObservedVmi): Wanted | undefined {
  const scheduled = pod?.status?.conditions?.find(({ type }) => type === "PodScheduled");
  return scheduled?.status === "False"
    ? { type: "PodScheduled", status: "False", reason: scheduled.reason ?? "", message: scheduled.message ?? "" }
    : undefined;
}

/** Of libvirt's reasons only these make a condition; a monitor's `stop` gives `unknown`. */
const pauses: Readonly<Record<string, readonly [reason: string, message: string]>> = {
  user: ["PausedByUser", "VMI was paused by user"],
  "starting up": ["PausedByUser", "VMI was paused by user"],
  "I/O error": ["PausedIOError", "VMI was paused, low-level IO error detected"],
};

function decidePaused({ report }: ObservedVmi, phase: VmiPhase): Wanted | undefined {
  const [reason, message] = pauses[report?.reason ?? ""] ?? [];
  return phase === "Running" && report?.state === "paused" && reason !== undefined && message !== undefined
    ? { type: "Paused", status: "True", reason, message }
    : undefined;
}

function decideSynchronized({ trouble }: ObservedVmi): Wanted | undefined {
  return trouble === undefined
    ? undefined
    : { type: "Synchronized", status: "False", reason: "Synchronizing with the Domain failed.", message: trouble };
}

/** The time moves only with the status. */
function keepTimes({ vmi, now }: ObservedVmi, wanted: Wanted): Condition {
  const before = vmi.status?.conditions?.find(({ type }) => type === wanted.type);
  const lastTransitionTime = before?.status === wanted.status ? (before.lastTransitionTime ?? now) : now;
  return { lastTransitionTime, ...wanted };
}
