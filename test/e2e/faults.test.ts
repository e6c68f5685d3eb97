/**
 * What a client sees of faults on a cluster: nothing. One guest under protection, one client that never reconnects, and every
 * fault of the list done to it, one after the other; after each the guest must be protected again.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProtectedVm } from "../../src/api/protected-vm.ts";
import { requestAnnotations } from "../../src/api/requests.ts";
import { present } from "../../src/lib/assert.ts";
import { kindOf } from "../../src/kube/kube-object.ts";
import { type Client, startClient } from "../lab/clients/client-process.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { buildProtectedGuest } from "./guest-manifests.ts";
import { type Platform, startPlatform, systemNamespace, tenantNamespace } from "./platform.ts";

const guest = "counter";
const address = "10.77.0.60";
/** The first run builds images; later ones take a minute. */
const setUpMsMax = 1_500_000;
const faultMsMax = 400_000;
/** Longer than any fault that is survived. */
const stallMs = 120_000;

const remedy = findRemedy([
  ...(["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] as const),
  ...(["kubelet", "kube-proxy", "helm"] as const),
]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED in test/e2e/faults.test.ts: ${remedy}\n`);
}

const startedAtMs = performance.now();
const say = (line: string): void => {
  process.stderr.write(`[${((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(7)} s] ${line}\n`);
};

type Scene = { readonly platform: Platform; readonly primary: string; readonly standby: string };
type Fault = {
  readonly what: string;
  readonly strike: (scene: Scene) => Promise<void>;
  /** Whether another node runs the guest afterwards. */
  readonly moves: boolean;
};

const pods = kindOf("v1", "Pod");
const vmis = kindOf("kubevirt.io/v1", "VirtualMachineInstance");

async function deletePods({ platform }: Scene, labelSelector: string, node?: string): Promise<void> {
  const fieldSelector = node === undefined ? undefined : `spec.nodeName=${node}`;
  const { items } = await platform.cluster.list(pods, { namespace: systemNamespace, labelSelector, fieldSelector });
  for (const { metadata } of items) {
    await platform.cluster.remove(
      { kind: pods, namespace: systemNamespace, name: metadata.name },
      { gracePeriodSeconds: 0 },
    );
  }
}

async function deleteVmi({ platform }: Scene, side: "primary" | "standby"): Promise<void> {
  const vm = await platform.readProtectedVm(guest);
  const { vmi } = present(vm?.status?.[side], `a ${side}`);
  await platform.cluster.remove({ kind: vmis, ...vmi });
}

async function request({ platform }: Scene, annotation: string, node: string): Promise<void> {
  const ref = { kind: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), namespace: tenantNamespace, name: guest };
  await platform.cluster.patch(ref, { metadata: { annotations: { [annotation]: node } } });
}

async function cyclePower({ platform }: Scene, node: string, whileOff: () => Promise<void>): Promise<void> {
  await platform.lab.powerOff(node);
  await whileOff();
  await platform.lab.powerOn(node);
}

const component = (name: string): string => `app.kubernetes.io/component=${name}`;

const faults: readonly Fault[] = [
  {
    what: "the primary's node loses power",
    moves: true,
    strike: (scene) => cyclePower(scene, scene.primary, () => sleep(5_000)),
  },
  {
    what: "the standby's node loses power",
    moves: false,
    strike: (scene) => cyclePower(scene, scene.standby, () => sleep(5_000)),
  },
  {
    what: "a user asks for a switchover",
    moves: true,
    strike: (scene) => request(scene, requestAnnotations.switchoverTo, scene.standby),
  },
  {
    what: "a user asks for a failover",
    moves: true,
    strike: (scene) => request(scene, requestAnnotations.failoverFrom, scene.primary),
  },
  {
    what: "the kubelet of the primary's node is stopped for a while",
    moves: false,
    strike: async ({ platform, primary }) => {
      await platform.lab.stopKubelet(primary);
      await sleep(10_000);
      await platform.lab.startKubelet(primary);
    },
  },
  {
    what: "the agent of the standby is killed",
    moves: false,
    strike: (scene) => deletePods(scene, component("agent"), scene.standby),
  },
  {
    what: "both operators are killed",
    moves: false,
    strike: (scene) => deletePods(scene, component("operator")),
  },
  {
    what: "all replicas of the quorum service are killed",
    moves: false,
    strike: (scene) => deletePods(scene, component("quorum")),
  },
  {
    what: "both replication links between the nodes are cut for a while",
    moves: false,
    strike: async ({ platform, primary, standby }) => {
      for (const network of ["management", "replication"] as const) {
        platform.lab.cutLink(primary, network, standby);
      }
      await sleep(5_000);
      for (const network of ["management", "replication"] as const) {
        platform.lab.mendLink(primary, network, standby);
      }
    },
  },
  {
    what: "the standby's VirtualMachineInstance is deleted by hand",
    moves: false,
    strike: (scene) => deleteVmi(scene, "standby"),
  },
  {
    what: "the primary's VirtualMachineInstance is deleted by hand",
    moves: true,
    strike: (scene) => deleteVmi(scene, "primary"),
  },
  {
    what: "the API server is away, and then the primary's node loses power",
    moves: true,
    strike: async (scene) => {
      await scene.platform.lab.stopApiServer();
      await scene.platform.lab.powerOff(scene.primary);
      await sleep(10_000);
      await scene.platform.lab.startApiServer();
      await scene.platform.lab.powerOn(scene.primary);
    },
  },
];

(remedy === undefined ? describe : describe.skip)("on a cluster", () => {
  let platform: Platform;
  let client: Client;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  async function waitUntilReady(primary?: string): Promise<ProtectedVm> {
    await platform.waitUntilReady(guest, faultMsMax / 2);
    return primary === undefined
      ? await platform.waitUntilReady(guest)
      : await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === primary);
  }

  test(
    "a ProtectedVM that is applied becomes a guest on two nodes, which answers",
    async () => {
      const placement = { nodes: ["node-a", "node-b"] };
      await platform.apply(buildProtectedGuest({ name: guest, kind: "busybox", address, placement }));
      const vm = await waitUntilReady("node-a");
      expect(vm.status).toMatchObject({ primary: { node: "node-a" }, standby: { node: "node-b" } });
      client = startClient(platform.lab, "counted", {
        ...{ host: address, connectionsCount: 4, thinkMs: 50, stallMs },
        connectTimeoutMs: 60_000,
      });
      while (client.progress.repliesCount < 100) {
        await sleep(100);
      }
    },
    faultMsMax,
  );

  test.each(faults)(
    "$what",
    async ({ what, strike, moves }) => {
      const { status } = await waitUntilReady();
      const [primary, standby] = [status?.primary?.node ?? "", status?.standby?.node ?? ""];
      const repliesBefore = client.progress.repliesCount;
      await strike({ platform, primary, standby });
      say(`${what}: done to ${primary} (standby ${standby})`);
      // What is said right after a fault is what was before it.
      await sleep(2_000);
      const after = await waitUntilReady(moves ? standby : undefined);
      say(`${what}: protected again, on ${after.status?.primary?.node ?? "no node"}`);
      expect(client.progress.faultsCount).toBe(0);
      while (client.progress.repliesCount < repliesBefore + 100) {
        await sleep(100); // It answers; the stall of the client is the limit.
      }
    },
    faultMsMax,
  );

  test(
    "in the end no reply was lost, duplicated or reordered, and no connection broke",
    async () => {
      const result = await client.stop();
      say(`${result.repliesCount} replies, longest wait ${result.longestGap?.ms ?? 0} ms`);
      expect(result.faults).toEqual([]);
      expect(result.connectionsSurvived).toBe(4);
    },
    faultMsMax,
  );

  test(
    "a ProtectedVM that is deleted leaves nothing",
    async () => {
      const ref = { kind: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), namespace: tenantNamespace, name: guest };
      await platform.cluster.remove(ref);
      while ((await platform.readProtectedVm(guest)) !== undefined) {
        await sleep(200);
      }
      for (const kind of [vmis, kindOf("twinrun.dev/v1alpha1", "GuestPair"), kindOf("v1", "PersistentVolumeClaim")]) {
        const { items } = await platform.cluster.list(kind, { labelSelector: "twinrun.dev/guest" });
        expect(items.filter(({ metadata }) => metadata.deletionTimestamp === undefined)).toEqual([]);
      }
    },
    faultMsMax,
  );
});
