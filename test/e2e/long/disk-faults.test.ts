/**
 * Disks below pods' volumes that fail, have no room left, hang or are slow, and a cable to the clients that is pulled out. A client
 * that never reconnects sees nothing of it; people see which part of which node it is, and what to do.
 *
 * The volumes are file systems on devices that fail when they are told to (test/lab/kubernetes/faulty-volumes.ts).
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { type Fault } from "../../../src/api/fault.ts";
import { type ProtectedVm } from "../../../src/api/protected-vm.ts";
import { UPLINKS_ANNOTATION } from "../../../src/api/requests.ts";
import { kindOf } from "../../../src/kube/kube-object.ts";
import { collectOutput } from "../../lab/command-output.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { guestPorts } from "../../lab/guests.ts";
import { type FaultyVolumes } from "../../lab/kubernetes/faulty-volumes.ts";
import { twinrun } from "../kubectl.ts";
import { type Platform, startPlatform, tenantNamespace } from "../platform.ts";
import { diskOf } from "../side-files.ts";
import { describeOnCluster, faultMsMax, say, type Scene, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const guest = "ledger";
const address = "10.77.0.73";
/** The interface of a lab's node in the guests' network. */
const uplink = "lan-port";
const nodes = ["node-a", "node-b"];

describeOnCluster(import.meta.filename)("a guest on volumes that fail", () => {
  let platform: Platform;
  let volumes: FaultyVolumes;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
    volumes = platform.lab.provideFaultyVolumes();
    witness = await Witness.start(platform, { name: guest, kind: "busybox", address, placement: { nodes } });
  }, setUpMsMax);

  afterEach(async () => {
    for (const node of nodes) {
      await volumes.mend(node);
      platform.lab.plugCable(node, "lan");
    }
  });

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  const listFaults = ({ status }: ProtectedVm, node: string): readonly Fault[] =>
    (status?.faults ?? []).filter((fault) => fault.node === node);

  /** It is on record and in what kubectl says; both tell what to do. */
  async function waitForFault(node: string, component: string, code: string): Promise<void> {
    const isIt = (fault: Fault): boolean =>
      fault.component === component && fault.code === code && fault.state === "OutOfService";
    await platform.waitForProtectedVm(guest, (vm) => listFaults(vm, node).some(isIt));
    const told = await twinrun(platform, "faults", guest, "-n", tenantNamespace, "-o", "wide");
    say(`\n${told}`);
    expect(told).toMatch(new RegExp(`^${guest} +${node} +${component} +\\S+ +${code} `, "m"));
  }

  async function waitForReason(type: string, reason: string): Promise<void> {
    const { status } = await platform.waitForProtectedVm(guest, (vm) =>
      (vm.status?.conditions ?? []).some((each) => each.type === type && each.reason === reason),
    );
    say(`${type}: ${status?.conditions?.find((each) => each.type === type)?.message ?? ""}`);
  }

  async function waitForMove({ primary, standby }: Scene): Promise<void> {
    await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === standby);
    say(`${standby} runs the guest, ${primary} does not any more`);
    await witness.hear();
  }

  /** Protected, everything of the node is in service again, and both devices have the same. */
  async function expectWhole(node: string): Promise<void> {
    const { status } = await platform.waitUntilReady(guest, faultMsMax / 2);
    await platform.waitForProtectedVm(guest, (vm) => listFaults(vm, node).every(({ state }) => state === "InService"));
    const paths = [status?.primary?.node, status?.standby?.node].map((each) => diskOf(status?.guest ?? "", each ?? ""));
    for (const path of paths) {
      // What a write that failed left in this machine's memory is not on the device.
      const drop = ["dd", `if=${path}`, "iflag=nocache", "count=0", "status=none"];
      await collectOutput(spawn("dd", drop.slice(1)), drop, "here");
    }
    const [one = "", other = ""] = paths;
    expect((await compareDisks(one, other, 30_000)).differingOffsets).toEqual([]);
    say("protected again, both disks are equal");
    await witness.hear();
  }

  /** Makes the guest read what no cache of its has: sectors that its client had written. */
  async function readDisk(): Promise<number> {
    const script = `exec 3<>/dev/tcp/${address}/${guestPorts.sectors}; echo 'vda 0 8' >&3; wc -c <&3`;
    return Number(await platform.lab.execute("c", ["bash", "-c", script]));
  }

  describe("under the primary", () => {
    test.each([
      { trouble: "write", what: "a write fails", code: "DiskFailed" },
      { trouble: "read", what: "a read fails", code: "DiskFailed" },
      { trouble: "full", what: "there is no room left", code: "DiskFull" },
    ] as const)(
      "$what: the guest goes on at the other side and has seen nothing; the record says what to do",
      async ({ trouble, what, code }) => {
        const scene = await witness.readScene();
        await volumes.begin(scene.primary, trouble);
        say(`${what} on ${scene.primary}`);
        const reading = trouble === "read" ? readDisk() : Promise.resolve(4096);
        await waitForMove(scene);
        expect(await reading).toBe(4096);
        await waitForFault(scene.primary, "disk/disk", code);
        await volumes.mend(scene.primary);
        await expectWhole(scene.primary);
      },
      faultMsMax,
    );

    test(
      "requests take long: that is said while nothing is taken away from the guest, and not any more when it is well",
      async () => {
        const scene = await witness.readScene();
        await volumes.begin(scene.primary, "slow");
        say(`few requests a second on ${scene.primary}`);
        await waitForFault(scene.primary, "disk/disk", "DiskSlow");
        expect((await witness.readScene()).primary).toBe(scene.primary);
        await volumes.mend(scene.primary);
        await expectWhole(scene.primary);
      },
      faultMsMax,
    );

    test(
      "nothing is answered: the guest goes on at the other side instead of waiting with it",
      async () => {
        const scene = await witness.readScene();
        await volumes.begin(scene.primary, "hang");
        say(`the disk of ${scene.primary} hangs`);
        await waitForMove(scene);
        await waitForFault(scene.primary, "disk/disk", "DiskFailed");
        await volumes.mend(scene.primary);
        await expectWhole(scene.primary);
      },
      faultMsMax,
    );
  });

  test.each([
    { trouble: "write", what: "a write fails", reason: "DiskFailed", code: "DiskFailed" },
    { trouble: "full", what: "there is no room left", reason: "VolumeFull", code: "DiskFull" },
  ] as const)(
    "under the standby $what: the guest goes on without it, and is protected again when it works",
    async ({ trouble, what, reason, code }) => {
      const { primary, standby } = await witness.readScene();
      await volumes.begin(standby, trouble);
      say(`${what} on ${standby}`);
      await waitForReason("DisksHealthy", reason);
      await waitForFault(standby, "disk/disk", code);
      await witness.hear();
      await volumes.mend(standby);
      await expectWhole(standby);
      expect((await witness.readScene()).primary).toBe(primary);
    },
    faultMsMax,
  );

  test(
    "the cable of the node that runs the guest is pulled out: the guest goes where there is one",
    async () => {
      for (const name of nodes) {
        const annotations = { [UPLINKS_ANNOTATION]: uplink };
        await platform.cluster.patch({ kind: kindOf("v1", "Node"), name }, { metadata: { annotations } });
      }
      const scene = await witness.readScene();
      platform.lab.pullCable(scene.primary, "lan");
      say(`no cable in ${scene.primary}`);
      await waitForMove(scene);
      await waitForFault(scene.primary, `uplink/${uplink}`, "UplinkDown");
      platform.lab.plugCable(scene.primary, "lan");
      await expectWhole(scene.primary);
    },
    faultMsMax,
  );

  testNothingLost(() => witness);
});
