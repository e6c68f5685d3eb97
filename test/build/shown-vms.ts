/** ProtectedVMs as views of the command line read them: one that is protected; each test spreads one difference. */
import { type Condition } from "../../src/api/conditions.ts";
import { type ShownVm } from "../../src/cli/protected-vms.ts";
import { buildProtectedVm } from "./resources.ts";

type Json = Readonly<Record<string, unknown>>;

export const createdAt = "2026-01-31T08:00:00Z";
/** Half an hour later. */
export const nowMs = Date.parse("2026-01-31T08:30:00Z");

export function condition(type: string, status: Condition["status"], reason: string, message: string): Condition {
  return { type, status, reason, message, lastTransitionTime: "2026-01-31T08:10:00Z", observedGeneration: 1 };
}

export const calmConditions: readonly Condition[] = [
  condition("Ready", "True", "Protected", "the standby on node-b is in sync"),
  condition("Reconciling", "False", "Settled", "the cluster is as the spec wants it"),
  condition("Stalled", "False", "NotStalled", "nothing stands in the way"),
  condition("InSync", "True", "Protected", "the standby holds every acknowledged checkpoint"),
  condition("QuorumReachable", "True", "Reachable", "the quorum answers"),
  condition("LatencyWithinBound", "True", "WithinBound", "p99 of 12 ms"),
  condition("DisksHealthy", "True", "Healthy", "nothing has failed"),
  condition("LinksHealthy", "True", "Healthy", "nothing has failed"),
  condition("ComponentsHealthy", "True", "Healthy", "nothing is out of service"),
  condition("PlacementMet", "True", "Met", "it is with its group shop"),
];

export const calmStatus = {
  observedGeneration: 1,
  guest: "web-0a1b2c3d",
  term: 3,
  primary: { node: "node-a", vmi: { namespace: "shop", name: "web" } },
  standby: { node: "node-b", vmi: { namespace: "twinrun-guests", name: "web-abcdef" } },
  checkpoint: {
    perSecond: 24.96,
    pause: { p50Ms: 1.724, p99Ms: 2.9 },
    addedLatency: { p50Ms: 4.743, p99Ms: 12.4 },
    dirtyPagesP50: 120,
  },
  disks: [
    { name: "system", syncPercent: 100 },
    { name: "data", syncPercent: 100 },
  ],
};

type Difference = {
  readonly name?: string;
  readonly uid?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly spec?: Json;
  readonly status?: Json;
  readonly conditions?: readonly Condition[];
};

export function buildShownVm(difference: Difference = {}): ShownVm {
  const { name = "web", uid = "u-1", annotations = {}, conditions = calmConditions } = difference;
  const { spec } = buildProtectedVm({
    checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1_000 },
    failover: { detectionTimeoutMs: 500, reprotect: "Automatic" },
    ...(difference.spec === undefined ? {} : { virtualMachineRef: undefined }),
    ...difference.spec,
  });
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "ProtectedVM",
    metadata: { name, uid, namespace: "shop", generation: 1, creationTimestamp: createdAt, annotations },
    spec,
    status: { ...calmStatus, ...difference.status, conditions },
  } as ShownVm;
}
