/** What ProtectedVMs are taken and refused, told once for every judge: zod, the generated CRD and a real API server. */
import { buildProtectedVm, buildSeenFault, buildTemplate } from "./resources.ts";
import { type ResourceRows } from "./resource-rows.ts";

const conditions = [
  {
    type: "Ready",
    status: "True",
    observedGeneration: 3,
    lastTransitionTime: "2026-01-31T08:30:00Z",
    reason: "Protected",
    message: "",
  },
];

const repaired = { repairedAt: "2026-01-31T08:30:00Z", clearedAt: "2026-01-31T08:31:00Z" };

const template = (devices: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> =>
  buildTemplate({ domain: { devices } });
const device = "spec.virtualMachineTemplate.spec.template.spec.domain.devices";

export const protectedVmRows: ResourceRows = {
  taken: [
    { when: "an existing machine on two nodes", object: buildProtectedVm() },
    { when: "a template", object: buildProtectedVm(buildTemplate()) },
    {
      when: "a template with empty lists of what cannot be protected",
      object: buildProtectedVm(
        buildTemplate({ domain: { devices: { gpus: [], filesystems: [], networkInterfaceMultiqueue: false } } }),
      ),
    },
    { when: "two sites", object: buildProtectedVm({ placement: { splitSitePairRef: { name: "campus" } } }) },
    { when: "a node selector", object: buildProtectedVm({ placement: { nodeSelector: { "twinrun.dev/ft": "" } } }) },
    {
      when: "a class for each side",
      object: buildProtectedVm({
        storage: {
          first: { storageClassName: "fast-a", sizePolicy: "Request" },
          second: { storageClassName: "fast-b", accessModes: ["ReadWriteOncePod"], sizePolicy: "Capacity" },
        },
      }),
    },
    {
      when: "a template with volumes, labels and annotations",
      object: buildProtectedVm({
        virtualMachineRef: undefined,
        virtualMachineTemplate: {
          spec: {
            dataVolumeTemplates: [{ metadata: { name: "system" }, spec: { source: { blank: {} } } }],
            template: {
              metadata: { labels: { app: "web" }, annotations: { note: "mine" }, creationTimestamp: null },
              spec: {
                domain: { devices: { hostDevices: [], disks: [{ name: "system" }] }, cpu: { cores: 2 } },
                volumes: [{ name: "system", dataVolume: { name: "system" } }],
              },
            },
          },
        },
      }),
    },
    {
      when: "a selector of several labels",
      object: buildProtectedVm({ placement: { nodeSelector: { "kubernetes.io/os": "linux", zone: "a" } } }),
    },
    {
      when: "a group, an order, and somebody to be apart from",
      object: buildProtectedVm({
        placement: { nodeSelector: { zone: "a" }, apartFrom: { app: "db" } },
        failover: { group: "shop" },
        start: { order: 1_000, waitSeconds: 0 },
      }),
    },
    {
      when: "the longest names of nodes",
      object: buildProtectedVm({ placement: { nodes: ["a".repeat(63), "b.c-d"] } }),
    },
    {
      when: "the narrowest contract",
      object: buildProtectedVm({
        checkpoint: { maxAddedLatencyMs: 1, minIntervalMs: 1, maxIntervalMs: 1 },
        failover: { detectionTimeoutMs: 50, reprotect: "Manual", isolateAfterFaults: 2 },
      }),
    },
    {
      when: "the widest contract",
      object: buildProtectedVm({
        checkpoint: {
          maxAddedLatencyMs: 60_000,
          minIntervalMs: 60_000,
          maxIntervalMs: 60_000,
          resyncMiBPerSecond: 100_000,
        },
        failover: { detectionTimeoutMs: 60_000, reprotect: "Automatic", isolateAfterFaults: 16 },
      }),
    },
    {
      when: "every access mode that can be written",
      object: buildProtectedVm({
        storage: {
          first: { accessModes: ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"], sizePolicy: "Capacity" },
        },
      }),
    },
    { when: "equal intervals", object: buildProtectedVm({ checkpoint: { minIntervalMs: 20, maxIntervalMs: 20 } }) },
    {
      when: "a status",
      object: buildProtectedVm(
        {},
        {
          observedGeneration: 3,
          conditions,
          guest: "web-0a1b2c3d",
          term: 2,
          standby: { node: "node-a", vmi: { namespace: "twinrun-guests", name: "web-a" } },
          primary: { node: "node-b", vmi: { namespace: "shop", name: "web-b" } },
          checkpoint: {
            perSecond: 19.6,
            pause: { p50Ms: 2.31, p99Ms: 6.3 },
            addedLatency: { p50Ms: 8.1, p99Ms: 21.5 },
            dirtyPagesP50: 412,
          },
          disks: [{ name: "system", syncPercent: 42.5 }],
          resync: { percent: 42.5, leftBytes: 1_073_741_824, secondsLeft: 12 },
          lastFailover: { cause: "node-a is silent", at: "2026-01-31T08:29:00.5Z", durationMs: 580, epoch: 71_204 },
          group: { name: "shop", node: "node-b", members: [{ name: "web", primary: "node-b" }, { name: "db" }] },
          faults: [
            buildSeenFault({ state: "Isolated" }),
            buildSeenFault({ state: "InService", component: "link/fast", ...repaired }),
          ],
        },
      ),
    },
  ],
  refused: [
    { when: "no mode", spec: { mode: undefined }, path: "spec.mode" },
    { when: "a mode that does not exist", spec: { mode: "DisasterProof" }, path: "spec.mode" },
    { when: "neither template nor reference", spec: { virtualMachineRef: undefined }, path: "spec", says: "either" },
    {
      when: "template and reference",
      spec: { ...buildTemplate(), virtualMachineRef: { name: "web" } },
      path: "spec",
      says: "must hold either virtualMachineTemplate or virtualMachineRef",
    },
    { when: "a reference without a name", spec: { virtualMachineRef: {} }, path: "spec.virtualMachineRef.name" },
    {
      when: "a template without a domain",
      spec: buildTemplate({ domain: undefined }),
      path: "spec.virtualMachineTemplate.spec.template.spec.domain",
    },
    { when: "a passed-through GPU", spec: template({ gpus: [{ name: "a" }] }), path: `${device}.gpus`, says: "empty" },
    { when: "a host device", spec: template({ hostDevices: [{}] }), path: `${device}.hostDevices`, says: "empty" },
    { when: "virtiofs", spec: template({ filesystems: [{}] }), path: `${device}.filesystems`, says: "virtiofs" },
    {
      when: "several queues",
      spec: template({ networkInterfaceMultiqueue: true }),
      path: `${device}.networkInterfaceMultiqueue`,
      says: "must not be true",
    },
    {
      when: "a liveness probe",
      spec: buildTemplate({ livenessProbe: { tcpSocket: { port: 80 } } }),
      path: "spec.virtualMachineTemplate.spec.template.spec.livenessProbe",
      says: "must be left out",
    },
    { when: "no placement", spec: { placement: undefined }, path: "spec.placement" },
    { when: "an empty placement", spec: { placement: {} }, path: "spec.placement", says: "exactly one of" },
    {
      when: "nodes and a selector",
      spec: { placement: { nodes: ["a", "b"], nodeSelector: { a: "b" } } },
      path: "spec.placement",
      says: "exactly one of",
    },
    {
      when: "nothing but somebody to be apart from",
      spec: { placement: { apartFrom: { app: "db" } } },
      path: "spec.placement",
      says: "exactly one of",
    },
    {
      when: "nobody to be apart from",
      spec: { placement: { nodes: ["a", "b"], apartFrom: {} } },
      path: "spec.placement.apartFrom",
      says: "at least one label",
    },
    { when: "a group of no such name", spec: { failover: { group: "Shop" } }, path: "spec.failover.group" },
    { when: "an order before all others", spec: { start: { order: -1 } }, path: "spec.start.order" },
    { when: "an order that is no number", spec: { start: { order: "first" } }, path: "spec.start.order" },
    { when: "a wait of over an hour", spec: { start: { waitSeconds: 3_601 } }, path: "spec.start.waitSeconds" },
    {
      when: "one guest of a group twice",
      status: { group: { name: "shop", members: [{ name: "web" }, { name: "web" }] } },
      path: "status.group.members",
    },
    { when: "one node", spec: { placement: { nodes: ["a"] } }, path: "spec.placement.nodes" },
    { when: "three nodes", spec: { placement: { nodes: ["a", "b", "c"] } }, path: "spec.placement.nodes" },
    {
      when: "one node twice",
      spec: { placement: { nodes: ["a", "a"] } },
      path: "spec.placement.nodes",
      says: "must name two different nodes",
    },
    { when: "a node of no such name", spec: { placement: { nodes: ["a", "B"] } }, path: "spec.placement.nodes[1]" },
    {
      when: "a selector without labels",
      spec: { placement: { nodeSelector: {} } },
      path: "spec.placement.nodeSelector",
      says: "at least one label",
    },
    {
      when: "no access mode",
      spec: { storage: { first: { accessModes: [] } } },
      path: "spec.storage.first.accessModes",
    },
    {
      when: "an access mode that cannot be written",
      spec: { storage: { second: { accessModes: ["ReadOnlyMany"] } } },
      path: "spec.storage.second.accessModes[0]",
    },
    {
      when: "an access mode twice",
      spec: { storage: { second: { accessModes: ["ReadWriteOnce", "ReadWriteOnce"] } } },
      path: "spec.storage.second.accessModes",
    },
    {
      when: "a latency of 0",
      spec: { checkpoint: { maxAddedLatencyMs: 0 } },
      path: "spec.checkpoint.maxAddedLatencyMs",
    },
    { when: "half a millisecond", spec: { checkpoint: { minIntervalMs: 0.5 } }, path: "spec.checkpoint.minIntervalMs" },
    {
      when: "crossed intervals",
      spec: { checkpoint: { minIntervalMs: 9, maxIntervalMs: 8 } },
      path: "spec.checkpoint.minIntervalMs",
      says: "must not be greater than maxIntervalMs",
    },
    {
      when: "an interval that crosses a default",
      spec: { checkpoint: { minIntervalMs: 1_001 } },
      path: "spec.checkpoint.minIntervalMs",
      says: "must not be greater than maxIntervalMs",
    },
    {
      when: "a detection time that the network's own delays pass",
      spec: { failover: { detectionTimeoutMs: 49 } },
      path: "spec.failover.detectionTimeoutMs",
    },
    {
      when: "a component that nothing isolates",
      spec: { failover: { isolateAfterFaults: 17 } },
      path: "spec.failover.isolateAfterFaults",
    },
    {
      when: "a component that its first fault isolates",
      spec: { failover: { isolateAfterFaults: 1 } },
      path: "spec.failover.isolateAfterFaults",
    },
    {
      when: "a fault of no state that there is",
      status: { faults: [buildSeenFault({ state: "Broken" })] },
      path: "status.faults[0].state",
    },
    {
      when: "an unknown answer to a loss",
      spec: { failover: { reprotect: "Never" } },
      path: "spec.failover.reprotect",
    },
    { when: "a mode that is a number", spec: { mode: 1 }, path: "spec.mode" },
    {
      when: "a name that no object has",
      spec: { virtualMachineRef: { name: "Web_1" } },
      path: "spec.virtualMachineRef.name",
    },
    { when: "an empty name", spec: { virtualMachineRef: { name: "" } }, path: "spec.virtualMachineRef.name" },
    { when: "nodes as a text", spec: { placement: { nodes: "a,b" } }, path: "spec.placement.nodes" },
    {
      when: "a node of too long a name",
      spec: { placement: { nodes: ["a", "b".repeat(64)] } },
      path: "spec.placement.nodes[1]",
    },
    {
      when: "a label that is no text",
      spec: { placement: { nodeSelector: { a: true } } },
      path: "spec.placement.nodeSelector.a",
    },
    {
      when: "a policy of sizes that is none",
      spec: { storage: { second: { sizePolicy: "Double" } } },
      path: "spec.storage.second.sizePolicy",
    },
    {
      when: "a class that no object can be",
      spec: { storage: { first: { storageClassName: "Fast" } } },
      path: "spec.storage.first.storageClassName",
    },
    { when: "storage that is a list", spec: { storage: [] }, path: "spec.storage" },
    {
      when: "a latency of over a minute",
      spec: { checkpoint: { maxAddedLatencyMs: 60_001 } },
      path: "spec.checkpoint.maxAddedLatencyMs",
    },
    {
      when: "an interval that is a text",
      spec: { checkpoint: { maxIntervalMs: "1s" } },
      path: "spec.checkpoint.maxIntervalMs",
    },
    {
      when: "a shortest interval of 0",
      spec: { checkpoint: { minIntervalMs: 0 } },
      path: "spec.checkpoint.minIntervalMs",
    },
    {
      when: "a detection time of over a minute",
      spec: { failover: { detectionTimeoutMs: 60_001 } },
      path: "spec.failover.detectionTimeoutMs",
    },
    {
      when: "annotations of the template that are no texts",
      spec: {
        virtualMachineRef: undefined,
        virtualMachineTemplate: { spec: { template: { metadata: { annotations: { a: 1 } }, spec: { domain: {} } } } },
      },
      path: "spec.virtualMachineTemplate.spec.template.metadata.annotations.a",
    },
    {
      when: "a template without the machine",
      spec: { virtualMachineRef: undefined, virtualMachineTemplate: { spec: {} } },
      path: "spec.virtualMachineTemplate.spec.template",
    },
    { when: "a term below 0", status: { term: -1 }, path: "status.term" },
    {
      when: "more than all of a disk",
      status: { disks: [{ name: "system", syncPercent: 101 }] },
      path: "status.disks[0].syncPercent",
    },
    {
      when: "a failover at no time",
      status: { lastFailover: { cause: "x", at: "yesterday", epoch: 1 } },
      path: "status.lastFailover.at",
    },
    { when: "a condition twice", status: { conditions: [...conditions, ...conditions] }, path: "status.conditions" },
  ],
  changes: [
    {
      when: "takes another contract",
      before: {},
      after: { checkpoint: { maxAddedLatencyMs: 20 }, failover: { reprotect: "Manual" } },
    },
    {
      when: "refuses another machine",
      before: {},
      after: { virtualMachineRef: { name: "mail" } },
      refused: {
        path: "spec.virtualMachineRef",
        says: "cannot change: make a ProtectedVM for the other VirtualMachine",
      },
    },
    {
      when: "refuses a template in place of a machine",
      before: {},
      after: buildTemplate(),
      refused: { path: "spec", says: "cannot change between" },
    },
  ],
};
