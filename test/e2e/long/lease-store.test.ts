/** The faults of a cluster again, with the quorum's records in Leases of the API server: a failover needs it, and waits for it. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { kindOf } from "../../../src/kube/kube-object.ts";
import { collectOutput } from "../../lab/command-output.ts";
import { kubectl } from "../kubectl.ts";
import { type Platform, startPlatform, systemNamespace } from "../platform.ts";
import { coreFaults } from "../strikes.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const root = join(import.meta.dirname, "../../..");
const address = "10.77.0.61";

describeOnCluster(import.meta.filename)("on a cluster whose quorum has its records in Leases", () => {
  let platform: Platform;
  let witness: Witness;

  beforeAll(async () => {
    platform = await startPlatform({ store: "lease", kinds: ["busybox"], say });
    const placement = { nodes: ["node-a", "node-b"] };
    witness = await Witness.start(platform, { name: "leased", kind: "busybox", address, placement });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  test.each(coreFaults)(
    "$what",
    async (fault) => {
      await witness.endure(fault);
    },
    faultMsMax,
  );

  test(
    "without the API server a failover waits: nobody hears the guest until it is back, and then it goes on",
    async () => {
      const { primary, standby } = await witness.readScene();
      await platform.lab.stopApiServer();
      await witness.hear();
      await platform.lab.powerOff(primary);
      await sleep(2_000); // What was on its way has come.
      const { repliesCount } = witness;
      await sleep(15_000);
      expect(witness.repliesCount).toBe(repliesCount);
      await platform.lab.startApiServer();
      await witness.hear();
      say(`the API server is back: ${standby} runs the guest`);
      await platform.lab.powerOn(primary);
      await platform.waitForProtectedVm("leased", ({ status }) => status?.primary?.node === standby);
      expect((await witness.readScene()).primary).toBe(standby);
    },
    faultMsMax,
  );

  test("doctor says what the store means", async () => {
    const doctor = [process.execPath, "src/main/kubectl-twinrun.ts", "doctor"];
    // It fails where anything is amiss in the lab; what it says counts.
    const args = ["-c", '"$@" || true', "sh", ...doctor, "--kubeconfig", platform.lab.kubeconfigPath];
    const child = spawn("sh", args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    expect(await collectOutput(child, doctor, "here")).toMatch(/a failover waits while the API server is away/);
  });

  test("the record of a protected guest is not deleted by hand", async () => {
    const leases = kindOf("coordination.k8s.io/v1", "Lease");
    const scope = { namespace: systemNamespace, labelSelector: "twinrun.dev/guest" };
    const [record] = (await platform.cluster.list(leases, scope)).items;
    const name = record?.metadata.name ?? "";
    const said = await kubectl(platform, "--namespace", systemNamespace, "delete", "lease", name).catch(String);
    expect(said).toMatch(/is protected, and this is what keeps it from running twice/);
  });

  testNothingLost(() => witness);
});
