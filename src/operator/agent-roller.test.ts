import { expect, test } from "@jest/globals";
import { buildPairOn, type PairOn } from "../../test/build/pairs-on.ts";
import { type ResourceKind } from "../kube/kube-object.ts";
import { silentLog } from "../telemetry/log.ts";
import { type AgentRollerOptions, keepRollingAgents } from "./agent-roller.ts";

const labels = (revision: string): object => ({ labels: { "controller-revision-hash": revision } });
const longAgo = "2026-01-31T08:30:00Z";
const ready = { conditions: [{ type: "Ready", status: "True", lastTransitionTime: longAgo }] };

/** What the roller has evicted after its first look: agents of an old revision are on two nodes, a new one on the third. */
async function listEvicted(pair: PairOn, observedGeneration = 2): Promise<readonly string[]> {
  const evicted: string[] = [];
  const agents = { "node-a": "old", "node-b": "old", "node-c": "new" };
  const lists: Readonly<Record<string, readonly object[]>> = {
    DaemonSet: [{ metadata: { generation: 2 }, status: { observedGeneration } }],
    ControllerRevision: [
      { metadata: labels("new"), revision: 7 },
      { metadata: labels("old"), revision: 3 },
    ],
    Pod: Object.entries(agents).map(([nodeName, revision]) => ({
      metadata: { name: `agent-${nodeName}`, ...labels(revision) },
      ...{ spec: { nodeName }, status: ready },
    })),
  };
  const stop = new AbortController();
  await keepRollingAgents({
    cluster: {
      list: ({ kind }: ResourceKind) => {
        setTimeout(() => {
          stop.abort();
        });
        return Promise.resolve({ items: lists[kind] ?? [], resourceVersion: "" });
      },
      createSubresource: ({ name }: { readonly name: string }) => {
        evicted.push(name);
        return Promise.resolve(undefined);
      },
    },
    caches: {
      pairs: { list: () => [buildPairOn("web", pair)] },
      nodes: { list: () => Object.keys(agents).map((name) => ({ metadata: { name }, status: ready })) },
    },
    ...{ namespace: "twinrun", log: silentLog, signal: stop.signal },
  } as unknown as AgentRollerOptions);
  return evicted;
}

test("an agent of an earlier revision is evicted where the guest does not run", async () => {
  expect(await listEvicted({ runsOn: "node-a" })).toEqual(["agent-node-b"]);
});

test("none is while a guest is not whole, or the DaemonSet's change is not taken up yet", async () => {
  expect(await listEvicted({ runsOn: "node-a", isInSync: false })).toEqual([]);
  expect(await listEvicted({ runsOn: "node-a" }, 1)).toEqual([]);
});
