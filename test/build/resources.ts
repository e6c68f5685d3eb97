/** Custom resources for tests: calm defaults, each test spreads one difference over the spec. Not parsed: as people write them. */

type Json = Readonly<Record<string, unknown>>;
export type ResourceObject = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: Json;
  readonly spec: Json;
  readonly status?: Json;
};

export function buildProtectedVm(spec: Json = {}, status?: Json): ResourceObject {
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "ProtectedVM",
    metadata: { name: "web", namespace: "shop" },
    spec: {
      mode: "FaultTolerant",
      virtualMachineRef: { name: "web" },
      placement: { nodes: ["node-a", "node-b"] },
      ...spec,
    },
    ...(status === undefined ? {} : { status }),
  };
}

/** The spec of a VirtualMachineInstance as a ProtectedVM brings it along; goes into `buildProtectedVm`. */
export function buildTemplate(instanceSpec: Json = {}): Json {
  const spec = { domain: { memory: { guest: "1Gi" } }, terminationGracePeriodSeconds: 30, ...instanceSpec };
  return { virtualMachineRef: undefined, virtualMachineTemplate: { spec: { template: { spec } } } };
}

export function buildSide(node: string, difference: Json = {}): Json {
  return {
    node,
    vmi: { namespace: "shop", name: `web-${node}` },
    links: [{ name: "direct", host: `${node}.example` }],
    ...difference,
  };
}

export function buildGuestPair(spec: Json = {}, status?: Json): ResourceObject {
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "GuestPair",
    metadata: { name: "web", namespace: "shop" },
    spec: {
      guest: "shop.web",
      mode: "FaultTolerant",
      roles: { term: 1, primary: "node-a" },
      sides: [buildSide("node-a"), buildSide("node-b")],
      disks: ["system"],
      port: 7_500,
      checkpoint: {},
      failover: {},
      ...spec,
    },
    ...(status === undefined ? {} : { status }),
  };
}

const failedAt = "2026-01-31T08:29:00Z";

/** A record of a fault as agents report it. */
export function buildSeenFault(difference: Json = {}): Json {
  return {
    ...{ node: "node-a", component: "disk/system", code: "DiskFailed", message: "write failed: EIO" },
    ...{ state: "OutOfService", firstAt: failedAt, lastAt: failedAt, count: 2, incidents: [failedAt] },
    ...{ done: "the guest goes on with the other side's disk", remedy: "see to the volume" },
    ...difference,
  };
}

export const [northSite, southSite] = ["north", "south"].map((name) => ({ name, nodeSelector: { site: name } }));

export function buildSplitSitePair(spec: Json = {}, status?: Json): ResourceObject {
  return {
    apiVersion: "twinrun.dev/v1alpha1",
    kind: "SplitSitePair",
    metadata: { name: "campus" },
    spec: { sites: [northSite, southSite], ...spec },
    ...(status === undefined ? {} : { status }),
  };
}
