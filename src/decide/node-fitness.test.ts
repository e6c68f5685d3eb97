import { expect, test } from "@jest/globals";
import { type ClusterNode, type Pod } from "./cluster-objects.ts";
import { LOSS_GRACE_MS, readNodeState, readUplinks } from "./node-fitness.ts";

const bootedAt = "2026-11-27T12:00:00Z";
const nowMs = Date.parse("2026-11-27T13:00:00Z");
const at = (offsetMs: number): string => new Date(nowMs + offsetMs).toISOString();

const node: ClusterNode = {
  apiVersion: "v1",
  kind: "Node",
  metadata: { name: "node-a", labels: { "kubevirt.io/schedulable": "true" } },
  status: {
    conditions: [{ type: "Ready", status: "True", lastTransitionTime: bootedAt }],
    addresses: [{ type: "InternalIP", address: "10.0.0.1" }],
  },
};

function buildAgent(ready: { status: "True" | "False"; since: string }, deletionTimestamp?: string): Pod {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "agent", ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }) },
    spec: { nodeName: "node-a" },
    status: { conditions: [{ type: "Ready", status: ready.status, lastTransitionTime: ready.since }] },
  };
}

const isLost = (agents: readonly Pod[]): boolean => {
  const { awaySinceMs } = readNodeState("node-a", [node], agents);
  return awaySinceMs !== undefined && nowMs - awaySinceMs >= LOSS_GRACE_MS;
};

test("a node whose agent works is not away", () => {
  const state = readNodeState("node-a", [node], [buildAgent({ status: "True", since: bootedAt })]);
  expect(state).toMatchObject({ obstacle: undefined, awaySinceMs: undefined });
});

test("a node is lost when its agent has not been ready for longer than the grace", () => {
  expect(isLost([buildAgent({ status: "False", since: at(-LOSS_GRACE_MS) })])).toBe(true);
  expect(isLost([buildAgent({ status: "False", since: at(-LOSS_GRACE_MS / 2) })])).toBe(false);
});

test("an agent that is being replaced has been away for a moment, however long it was ready before", () => {
  const going = buildAgent({ status: "True", since: bootedAt }, at(35_000));
  expect(isLost([going])).toBe(false);
  expect(isLost([going, buildAgent({ status: "False", since: at(-1_000) })])).toBe(false);
});

test("one that ought to have ended long ago is lost with its node", () => {
  expect(isLost([buildAgent({ status: "True", since: bootedAt }, at(-LOSS_GRACE_MS))])).toBe(true);
});

test("a node names the interfaces by which clients come, or none", () => {
  const withUplinks = (value: string): ClusterNode => ({
    ...node,
    metadata: { ...node.metadata, annotations: { "twinrun.dev/uplinks": value } },
  });
  expect(readUplinks(withUplinks(" eth0, bond1 ,,"))).toEqual(["eth0", "bond1"]);
  expect([node, undefined].map(readUplinks)).toEqual([[], []]);
});
