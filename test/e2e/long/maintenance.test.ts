/**
 * Planned work on a cluster, with a client that never reconnects: both nodes of a guest are emptied with `kubectl twinrun
 * maintenance`, switched off and put back, one after the other; then KubeVirt's launchers and Twinrun's agents are replaced.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { OUTDATED_LABEL } from "../../../src/api/vmi-contract.ts";
import { type KubeObject } from "../../../src/kube/kube-object.ts";
import { spawnTwinrun } from "../kubectl.ts";
import { isReady, type Platform, startPlatform } from "../platform.ts";
import { rollAgents, vmis } from "../strikes.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const guest = "counter";
const address = "10.77.0.66";

type Ran = { readonly status: number | null; readonly out: string; readonly said: string };

/** `kubectl twinrun maintenance NODE STEP`, as a person gives it who does not want to be asked. */
function maintenance(platform: Platform, node: string, step: string): Promise<Ran> {
  const args = ["maintenance", node, step, ...(step === "begin" ? ["--yes", "--reason", "a test"] : [])];
  const child = spawnTwinrun(platform, args);
  let [out, said] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  return new Promise((resolve) => {
    child.once("close", (status) => {
      say(`maintenance ${node} ${step}: ${status ?? "killed"}\n${said}${out}`);
      resolve({ status, out, said });
    });
  });
}

describeOnCluster(import.meta.filename)("planned work on a cluster", () => {
  let platform: Platform;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    const placement = { nodes: ["node-a", "node-b"] };
    witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  async function listOwnVmis(): Promise<readonly KubeObject[]> {
    return (await platform.cluster.list(vmis)).items;
  }

  test.each(["the node that runs the guest", "then the other one, where it runs now"])(
    "%s is emptied, switched off, and works again",
    async () => {
      const { primary, standby } = await witness.readScene();
      expect(await maintenance(platform, primary, "begin")).toMatchObject({
        status: 0,
        out: `${primary} may be switched off now; unprotected until it is back: shop/${guest}\n`,
      });
      expect((await platform.readProtectedVm(guest))?.status?.primary?.node).toBe(standby);
      const refused = await maintenance(platform, standby, "begin");
      expect(refused).toMatchObject({ status: 3, said: expect.stringContaining(`${primary} is in maintenance since`) });
      await platform.lab.powerOff(primary);
      await witness.hear();
      const told = await maintenance(platform, primary, "status");
      expect(told.out).toMatch(new RegExp(`^shop/${guest} +standby +${standby} +${standby} +no +nothing$`, "m"));
      await platform.lab.powerOn(primary);
      expect(await maintenance(platform, primary, "end")).toMatchObject({ status: 0 });
      await platform.waitUntilReady(guest);
      await witness.hear();
    },
    faultMsMax,
  );

  test(
    "both its launchers are outdated: its instances are made anew, and it changes sides",
    async () => {
      const { primary } = await witness.readScene();
      const before = await listOwnVmis();
      // As KubeVirt's controller does when it is of another version.
      for (const { metadata } of before) {
        const ref = { kind: vmis, namespace: metadata.namespace, name: metadata.name };
        await platform.cluster.patch(ref, { metadata: { labels: { [OUTDATED_LABEL]: "" } } });
      }
      const old = new Set(before.map(({ metadata }) => metadata.uid));
      while ((await listOwnVmis()).some(({ metadata }) => old.has(metadata.uid))) {
        await sleep(500);
      }
      const { status } = await platform.waitUntilReady(guest, faultMsMax / 2);
      expect(status?.primary?.node).not.toBe(primary);
      expect(await listOwnVmis()).toHaveLength(2);
      await witness.hear();
    },
    faultMsMax,
  );

  test(
    "agents are replaced one after the other, each only while the guest is protected",
    async () => {
      const wasProtected = await rollAgents(platform, async () => {
        const vm = await platform.readProtectedVm(guest);
        return vm !== undefined && isReady(vm);
      });
      expect(wasProtected).toEqual([true, true, true]);
      await platform.waitUntilReady(guest, faultMsMax / 2);
      await witness.hear();
    },
    faultMsMax,
  );

  testNothingLost(() => witness);
});
