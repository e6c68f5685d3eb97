/**
 * The operator replaces agents, against what a real API server and DaemonSet controller make of a changed DaemonSet. There is no
 * kubelet: the test gives pods their nodes, says that they are ready, and lets those that were evicted go.
 */
import { afterAll, beforeAll, expect, jest, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { Cluster } from "../../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { type AgentRollerOptions, keepRollingAgents } from "../../../src/operator/agent-roller.ts";
import { silentLog } from "../../../src/telemetry/log.ts";
import { buildPairOn } from "../../build/pairs-on.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";

jest.setTimeout(240_000);
const namespace = "twinrun";
const nodes = ["node-a", "node-b"];
const labels = { "app.kubernetes.io/name": "twinrun", "app.kubernetes.io/component": "agent" };
const podKind = kindOf("v1", "Pod");
const ready = { conditions: [{ type: "Ready", status: "True", lastTransitionTime: "2026-01-31T08:30:00Z" }] };

type Pod = KubeObject & {
  readonly spec: {
    readonly nodeName?: string;
    readonly containers: readonly { readonly image: string }[];
    readonly affinity: unknown;
  };
};

const daemonSet = (image: string): KubeObject =>
  ({
    ...{ apiVersion: "apps/v1", kind: "DaemonSet", metadata: { name: "twinrun-agent", namespace, labels } },
    spec: {
      ...{ selector: { matchLabels: labels }, updateStrategy: { type: "OnDelete" } },
      template: {
        metadata: { labels },
        spec: { containers: [{ name: "agent", image }], tolerations: [{ operator: "Exists" }] },
      },
    },
  }) as KubeObject;

describeWith(["etcd", "kube-apiserver", "kube-controller-manager"], import.meta.filename)("agents", () => {
  let plane: ControlPlane;
  let cluster: Cluster;
  const play = new AbortController();
  let played: Promise<void> = Promise.resolve();

  beforeAll(async () => {
    plane = await startControlPlane({ with: ["kube-controller-manager"] });
    cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
    await cluster.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
    for (const name of nodes) {
      await cluster.create({ apiVersion: "v1", kind: "Node", metadata: { name } });
    }
    await cluster.apply(daemonSet("agent:1"), "test");
    played = playKubelets();
  });

  afterAll(async () => {
    play.abort();
    await played;
    (cluster as Cluster | undefined)?.close();
    await (plane as ControlPlane | undefined)?.stop();
  });

  const listPods = async (): Promise<readonly Pod[]> => (await cluster.list<Pod>(podKind, { namespace })).items;

  async function playKubelets(): Promise<void> {
    while (!play.signal.aborted) {
      for (const pod of await listPods()) {
        await playKubelet(pod);
      }
      await sleep(200);
    }
  }

  /** The node of a DaemonSet's pod is in its affinity; a scheduler would write it down. */
  async function playKubelet({ metadata, spec }: Pod): Promise<void> {
    const ref = { kind: podKind, namespace, name: metadata.name };
    const name = nodes.find((node) => JSON.stringify(spec.affinity).includes(node));
    if (metadata.deletionTimestamp !== undefined) {
      await cluster.remove(ref, { gracePeriodSeconds: 0 });
    } else if (spec.nodeName === undefined) {
      const target = { apiVersion: "v1", kind: "Node", name };
      const binding = { apiVersion: "v1", kind: "Binding", metadata: { name: metadata.name }, target };
      await cluster.createSubresource(ref, "binding", binding);
      await cluster.patch(ref, { status: ready }, { subresource: "status" });
    }
  }

  /** `NODE IMAGE` of each agent, when there is one on every node. */
  async function listAgents(): Promise<readonly string[]> {
    const running = (await listPods()).filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    return running.map(({ spec }) => `${spec.nodeName ?? ""} ${spec.containers[0]?.image ?? ""}`).sort();
  }

  async function waitForAgents(wanted: readonly string[]): Promise<void> {
    while (JSON.stringify(await listAgents()) !== JSON.stringify(wanted)) {
      await sleep(200);
    }
  }

  test("stay when their DaemonSet changes, and are replaced by the operator, where the guest is not first", async () => {
    await waitForAgents(["node-a agent:1", "node-b agent:1"]);
    await cluster.apply(daemonSet("agent:2"), "test", { force: true });
    await sleep(2_000);
    expect(await listAgents()).toEqual(["node-a agent:1", "node-b agent:1"]);
    let pair = buildPairOn("web", { runsOn: "node-a" });
    const stop = new AbortController();
    const rolling = keepRollingAgents({
      caches: {
        pairs: { list: () => [pair] },
        nodes: { list: () => nodes.map((name) => ({ metadata: { name }, status: ready })) },
      },
      ...{ cluster, namespace, log: silentLog, signal: stop.signal },
    } as unknown as AgentRollerOptions);
    await waitForAgents(["node-a agent:1", "node-b agent:2"]);
    pair = buildPairOn("web", { runsOn: "node-a", isInSync: false });
    await sleep(6_000); // The operator looks every five seconds.
    expect(await listAgents()).toEqual(["node-a agent:1", "node-b agent:2"]);
    pair = buildPairOn("web", { runsOn: "node-a" });
    await waitForAgents(["node-a agent:2", "node-b agent:2"]);
    stop.abort();
    await rolling;
  });
});
