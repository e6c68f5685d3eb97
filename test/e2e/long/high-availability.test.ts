/**
 * A guest of HighAvailability on a cluster. A fault of the side that runs it is a reboot on the other node, with every write that a
 * client was told is done; everything else, planned work and changes of the level before all, is seen by nobody.
 *
 * One pair lives through all of it, in this order; in the end a VirtualMachine that was there before gets this level and is given
 * back.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { requestAnnotations } from "../../../src/api/requests.ts";
import { vmiAnnotations } from "../../../src/api/vmi-contract.ts";
import { kindOf } from "../../../src/kube/kube-object.ts";
import { assert } from "../../../src/lib/assert.ts";
import { type Client, startClient } from "../../lab/clients/client-process.ts";
import { findMissingInImage } from "../../lab/clients/synced-disk.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { buildMachine, buildProtection, type GuestWish } from "../guest-manifests.ts";
import { buildProtectedGuest } from "../guest-manifests.ts";
import { kubectl } from "../kubectl.ts";
import { type Platform, startPlatform, tenantNamespace } from "../platform.ts";
import { diskOf, qemuOf, SerialLine } from "../side-files.ts";
import { vmis } from "../strikes.ts";
import { describeOnCluster, faultMsMax, say, type Scene, setUpMsMax, Witness } from "../witness.ts";

const guest = "mailbox";
const address = "10.77.0.71";
const connectionsCount = 4;
/** The declared bound, from the loss of power to the guest's kernel. */
const KERNEL_MS_MAX = 20_000;
const SERVICES_MS_MAX = 120_000;
/** Of a client whose guest boots anew: what it was not told by then it will not be told. */
const STALL_MS = 15_000;
/** It stands still from the standby's last word until the quorum has spoken: a detection time, and what a busy machine adds. */
const ALONE_MS_MAX = 10_000;

const protectedVms = kindOf("twinrun.dev/v1alpha1", "ProtectedVM");
const wish: GuestWish = {
  ...{ name: guest, kind: "busybox", address, mode: "HighAvailability", isVerbose: true },
  placement: { nodes: ["node-a", "node-b"] },
};

describeOnCluster(import.meta.filename)("HighAvailability", () => {
  let platform: Platform;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    await platform.apply(buildProtectedGuest(wish));
    await platform.waitUntilReady(guest, faultMsMax / 2);
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  async function readScene(): Promise<Scene & { readonly id: string }> {
    const { status } = await platform.waitUntilReady(guest, faultMsMax / 2);
    const [primary, standby] = [status?.primary?.node ?? "", status?.standby?.node ?? ""];
    return { platform, guest, primary, standby, id: status?.guest ?? "" };
  }

  async function hear(client: Client, count: number): Promise<void> {
    const { repliesCount } = client.progress;
    while (client.progress.repliesCount < repliesCount + count) {
      assert(client.progress.faultsCount === 0, "the client has seen no fault");
      await sleep(100);
    }
  }

  /** Strikes at the side that runs the guest; what was acknowledged until then is on the disk of the one that boots. */
  async function expectBoot(what: string, strike: (scene: Scene & { readonly id: string }) => unknown): Promise<void> {
    const scene = await readScene();
    const { id, standby } = scene;
    const options = { host: address, connectionsCount, thinkMs: 20, stallMs: STALL_MS };
    const client = startClient(platform.lab, "counted", { ...options, connectTimeoutMs: faultMsMax / 4 });
    await hear(client, 100);
    const serial = new SerialLine(id, standby);
    const struckAtMs = performance.now();
    await strike(scene);
    await serial.waitForKernel(SERVICES_MS_MAX);
    const kernelMs = performance.now() - struckAtMs;
    await serial.waitForServices(SERVICES_MS_MAX);
    say(
      `${what}: kernel after ${kernelMs.toFixed(0)} ms, services after ${(performance.now() - struckAtMs).toFixed(0)}`,
    );
    expect(kernelMs).toBeLessThan(KERNEL_MS_MAX);
    const { acknowledged, faultsCount } = await client.stop();
    expect(faultsCount).toMatchObject({ duplicated: 0, reordered: 0, wrong: 0 });
    acknowledged.forEach((count, connection) => {
      expect(count).toBeGreaterThan(10);
      expect(findMissingInImage([diskOf(id, standby)], connection, count)).toBeUndefined();
    });
  }

  test(
    "one instance runs it, the other waits, and what it writes is on both disks",
    async () => {
      const { id, primary, standby } = await readScene();
      expect([primary, standby]).toEqual(["node-a", "node-b"]);
      const { items } = await platform.cluster.list(vmis, { labelSelector: `twinrun.dev/guest=${id}` });
      expect(items.map(({ metadata }) => metadata.annotations?.[vmiAnnotations.startedAs]).sort()).toEqual([
        "primary",
        "standby",
      ]);
      const witness = await Witness.watch(platform, wish);
      await platform.waitForProtectedVm(guest, ({ status }) =>
        (status?.conditions ?? []).some(
          ({ type, status: held, message }) =>
            type === "LatencyWithinBound" && held === "True" && message.startsWith("in HighAvailability nothing"),
        ),
      );
      await witness.expectNothingLost();
      const { differingOffsets } = await compareDisks(diskOf(id, primary), diskOf(id, standby), 10_000);
      expect(differingOffsets).toEqual([]);
    },
    faultMsMax,
  );

  test.each(["its node loses power", "the other one, where it runs now, does too"])(
    "%s: it boots on the other node within the bound",
    async (what) => {
      const { primary } = await readScene();
      await expectBoot(what, (scene) => platform.lab.powerOff(scene.primary));
      await platform.lab.powerOn(primary);
      await platform.waitForProtectedVm(guest, ({ status }) => status?.standby?.node === primary);
      const { id, standby } = await readScene();
      const { differingOffsets } = await compareDisks(diskOf(id, primary), diskOf(id, standby), 10_000);
      expect(differingOffsets).toEqual([]);
    },
    faultMsMax,
  );

  test(
    "its QEMU is killed: it boots on the other node",
    async () => {
      const { primary, standby } = await readScene();
      await expectBoot("QEMU killed", (scene) => process.kill(qemuOf(scene.id, scene.primary), "SIGKILL"));
      await platform.waitForProtectedVm(guest, ({ status }) => status?.standby?.node === primary);
      expect((await readScene()).primary).toBe(standby);
    },
    faultMsMax,
  );

  test(
    "the standby's node loses power: it stands still until the quorum has spoken, and no connection breaks",
    async () => {
      const { primary, standby } = await readScene();
      const witness = await Witness.watch(platform, wish);
      await platform.lab.powerOff(standby);
      await witness.hear();
      const { faults, longestGap } = await witness.stop();
      expect(faults).toEqual([]);
      expect(longestGap?.ms).toBeLessThan(ALONE_MS_MAX);
      await platform.lab.powerOn(standby);
      await platform.waitForProtectedVm(guest, ({ status }) => status?.standby?.node === standby);
      expect((await readScene()).primary).toBe(primary);
    },
    faultMsMax,
  );

  test(
    "a switchover, a drain and changes of the level are seen by nobody",
    async () => {
      const witness = await Witness.watch(platform, wish);
      const first = await readScene();
      const ref = { kind: protectedVms, namespace: tenantNamespace, name: guest };
      const annotations = { [requestAnnotations.switchoverTo]: first.standby };
      await platform.cluster.patch(ref, { metadata: { annotations } });
      await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === first.standby);
      say(`switched over to ${first.standby}`);
      for (const mode of ["FaultTolerant", "HighAvailability"]) {
        await readScene();
        await platform.cluster.patch(ref, { spec: { mode } });
        await readScene();
        await witness.hear();
        say(`it is ${mode} now`);
      }
      await kubectl(
        platform,
        "drain",
        first.standby,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=180s",
      );
      say(`${first.standby} is drained`);
      await witness.hear();
      await kubectl(platform, "uncordon", first.standby);
      expect(await readScene()).toMatchObject({ primary: first.primary });
      await witness.expectNothingLost();
    },
    faultMsMax,
  );

  test(
    "raised to FaultTolerant it survives its node, and nobody sees that",
    async () => {
      await platform.cluster.patch(
        { kind: protectedVms, namespace: tenantNamespace, name: guest },
        { spec: { mode: "FaultTolerant" } },
      );
      const { primary } = await readScene();
      const witness = await Witness.watch(platform, wish);
      await platform.lab.powerOff(primary);
      await witness.hear();
      await platform.lab.powerOn(primary);
      await witness.expectNothingLost();
    },
    faultMsMax,
  );

  test(
    "a VirtualMachine that is made in the same moment gets this level, and runs on when its ProtectedVM is deleted",
    async () => {
      const machine = { name: "till", kind: "busybox", address: "10.77.0.72" } as const;
      await platform.apply(buildMachine(machine));
      // KubeVirt may be the first to choose a node, any of them, and that is where its volume is then.
      const placement = { nodeSelector: { "kubernetes.io/os": "linux" } };
      await platform.apply(buildProtection({ name: machine.name, placement, mode: "HighAvailability" }));
      await platform.waitUntilReady(machine.name, faultMsMax / 2);
      const witness = await Witness.watch(platform, machine);
      await platform.cluster.remove({ kind: protectedVms, namespace: tenantNamespace, name: machine.name });
      while ((await platform.readProtectedVm(machine.name)) !== undefined) {
        await sleep(200);
      }
      await witness.hear();
      await witness.expectNothingLost();
    },
    faultMsMax,
  );
});
