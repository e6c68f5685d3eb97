/**
 * What a client sees of faults on a cluster: nothing. One guest under protection, one client that never reconnects, and every
 * fault of the list done to it, one after the other; after each the guest must be protected again. What is rare or takes long is
 * in long/.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { type Fault as FaultRecord } from "../../src/api/fault.ts";
import { type ProtectedVm } from "../../src/api/protected-vm.ts";
import { kindOf } from "../../src/kube/kube-object.ts";
import { type Platform, startPlatform, tenantNamespace } from "./platform.ts";
import { coreFaults, vmis } from "./strikes.ts";
import { describeOnCluster, type Fault, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "./witness.ts";

const guest = "counter";
const address = "10.77.0.60";

const faults: readonly Fault[] = [
  ...coreFaults,
  {
    what: "the API server is away, and then the primary's node loses power",
    ends: "elsewhere",
    strike: async ({ platform: { lab }, primary }) => {
      await lab.stopApiServer();
      await lab.powerOff(primary);
      await sleep(10_000);
      await lab.startApiServer();
      await lab.powerOn(primary);
    },
  },
];

describeOnCluster(import.meta.filename)("on a cluster", () => {
  let platform: Platform;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  test(
    "a ProtectedVM that is applied becomes a guest on two nodes, which answers",
    async () => {
      const placement = { nodes: ["node-a", "node-b"] };
      witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement });
      expect(await witness.readScene()).toMatchObject({ primary: "node-a", standby: "node-b" });
    },
    faultMsMax,
  );

  test.each(faults)(
    "$what",
    async (fault) => {
      await witness.endure(fault);
    },
    faultMsMax,
  );

  test(
    "the nodes that lost their power are on record, and in service again",
    async () => {
      const hosts = ({ status }: ProtectedVm): readonly FaultRecord[] =>
        status?.faults?.filter(({ code }) => code === "HostSilent") ?? [];
      const isBack = ({ state }: FaultRecord): boolean => state === "InService";
      const vm = await platform.waitForProtectedVm(
        guest,
        (each) => hosts(each).length > 0 && hosts(each).every(isBack),
      );
      say(`on record: ${JSON.stringify(vm.status?.faults)}`);
      const [record] = hosts(vm).filter(({ node }) => node === "node-a");
      expect(record?.count).toBeGreaterThanOrEqual(1);
      expect(record?.message).toBe("node-a fell silent on all 2 links at once");
      expect(hosts(vm).map(({ node }) => node)).not.toContain("node-c");
    },
    faultMsMax,
  );

  testNothingLost(() => witness);

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
