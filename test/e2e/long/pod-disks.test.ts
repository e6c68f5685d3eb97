/**
 * A guest as they are found in examples of KubeVirt: its system is a containerDisk, its settings are cloud-init's, and nothing of
 * it is on a volume. Its node loses power, and what it had written is there: the client reads all of it, in the end.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { present } from "../../../src/lib/assert.ts";
import { defaultDiskBytes } from "../../lab/guests.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { emptyDiskPathOf, overlayPathOf } from "../../lab/kubernetes/kubevirt/vmi.ts";
import { type Platform, startPlatform } from "../platform.ts";
import { rootOf } from "../side-files.ts";
import { describeOnCluster, say, setUpMsMax, Witness } from "../witness.ts";

const guest = "picture";
const address = "10.77.0.70";
const patienceMs = 400_000;

const diskPaths = [overlayPathOf("disk"), emptyDiskPathOf("scratch")].map((path) => `${path}.twinrun`);
const settingsPath = (root: string): string => {
  const folder = `${root}/var/run/kubevirt-ephemeral-disks/cloud-init-data`;
  const file = readdirSync(folder, { recursive: true, encoding: "utf8" }).find((name) => name.endsWith("noCloud.iso"));
  return `${folder}/${present(file, "an ISO of cloud-init")}`;
};

describeOnCluster(import.meta.filename)("a guest without a volume", () => {
  let platform: Platform;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], containerDisks: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, patienceMs);

  /** Both sides have the same disks, and these are larger than nothing. */
  async function expectEqualDisks({ status }: ProtectedVm): Promise<void> {
    const nodes = [status?.primary?.node ?? "", status?.standby?.node ?? ""] as const;
    const [one, other] = [rootOf(status?.guest ?? "", nodes[0]), rootOf(status?.guest ?? "", nodes[1])];
    for (const path of diskPaths) {
      expect((await compareDisks(`${one}${path}`, `${other}${path}`, 30_000)).differingOffsets).toEqual([]);
    }
    expect(statSync(`${one}${diskPaths[0]}`).size).toBe(defaultDiskBytes.busybox);
    expect(readFileSync(settingsPath(other)).equals(readFileSync(settingsPath(one)))).toBe(true);
  }

  test(
    "is protected, and goes on elsewhere with what it had written",
    async () => {
      const placement = { nodes: ["node-a", "node-b"] };
      const witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement, disks: "pod" });
      const first = await platform.waitUntilReady(guest, patienceMs / 2);
      await expectEqualDisks(first);
      const settings = readFileSync(settingsPath(rootOf(first.status?.guest ?? "", "node-a")));
      await platform.lab.powerOff("node-a");
      say("node-a is off");
      await witness.hear();
      await platform.lab.powerOn("node-a");
      await sleep(2_000);
      const after = await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === "node-b");
      await platform.waitUntilReady(guest, patienceMs / 2);
      say("protected again");
      await witness.expectNothingLost();
      await expectEqualDisks((await platform.readProtectedVm(guest)) ?? after);
      expect(readFileSync(settingsPath(rootOf(after.status?.guest ?? "", "node-b"))).equals(settings)).toBe(true);
      // What the image had, where the guest does not write.
      const disk = readFileSync(`${rootOf(after.status?.guest ?? "", "node-b")}${diskPaths[0]}`);
      expect(disk.includes("container disk ")).toBe(true);
    },
    2 * patienceMs,
  );
});
