/**
 * A guest whose claims are of mode Block: devices in its pods, here loop devices. It loses the node that runs it, then that of its
 * standby.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { globSync, statSync } from "node:fs";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { present } from "../../../src/lib/assert.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { devicePathOf } from "../../lab/kubernetes/kubevirt/vmi.ts";
import { type Platform, startPlatform } from "../platform.ts";
import { rootOf } from "../side-files.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const guest = "raw";
const address = "10.77.0.74";
const nodes = ["node-a", "node-b"];

describeOnCluster(import.meta.filename)("a guest on claims of mode Block", () => {
  let platform: Platform;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    const wish = { name: guest, kind: "busybox", address, placement: { nodes }, volumeMode: "Block" } as const;
    witness = await Witness.start(platform, wish);
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  /** Both sides have a device in their pod, and what is below both is the same. */
  async function expectEqualDisks({ status }: ProtectedVm): Promise<void> {
    for (const node of nodes) {
      expect(statSync(`${rootOf(status?.guest ?? "", node)}${devicePathOf("disk")}`).isBlockDevice()).toBe(true);
    }
    const [one, other] = nodes.map((node) =>
      present(globSync(platform.lab.node(node).diskPath("/var/lib/lab-volumes/*.image"))[0], `a device of ${node}`),
    );
    expect((await compareDisks(one ?? "", other ?? "", 30_000)).differingOffsets).toEqual([]);
    say("both disks are equal");
  }

  test(
    "both sides have the same on their devices",
    async () => {
      await expectEqualDisks(await platform.waitUntilReady(guest));
    },
    faultMsMax,
  );

  test.each(["primary", "standby"] as const)(
    "the node of the %s loses its power: the guest goes on, and is whole again with the same on both devices",
    async (role) => {
      const scene = await witness.readScene();
      await platform.lab.powerOff(scene[role]);
      say(`${scene[role]}, node of the ${role}, is off`);
      await witness.hear();
      await platform.lab.powerOn(scene[role]);
      const after = await platform.waitUntilReady(guest, faultMsMax / 2);
      expect(after.status?.primary?.node).toBe(role === "primary" ? scene.standby : scene.primary);
      await expectEqualDisks(after);
      await witness.hear();
    },
    faultMsMax,
  );

  testNothingLost(() => witness);
});
