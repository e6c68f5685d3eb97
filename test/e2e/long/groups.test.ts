/**
 * Two guests of a group on a cluster, each with a client that never reconnects. They start in their order, and whatever is done to
 * one of them, they are together again; what is done to their node neither of them loses anything by.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { present } from "../../../src/lib/assert.ts";
import { buildProtectedGuest } from "../guest-manifests.ts";
import { isReady, type Platform, startPlatform, systemNamespace } from "../platform.ts";
import { qemuOf } from "../side-files.ts";
import { cyclePower, vmis } from "../strikes.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, testNothingLost, Witness } from "../witness.ts";

const group = "shop";
const placement = { nodes: ["node-a", "node-b"] };
/** Nothing but what is done here is to move them, however busy the machine is. */
const detectionTimeoutMs = 5_000;
const wishes = [
  { name: "web", kind: "busybox", address: "10.77.0.71", placement, group, order: 1, detectionTimeoutMs },
  { name: "db", kind: "busybox", address: "10.77.0.70", placement, group, detectionTimeoutMs },
] as const;
const names = wishes.map(({ name }) => name);

type Pair = KubeObject & { readonly spec: { readonly sides: readonly { readonly node: string }[] } };

describeOnCluster(import.meta.filename)("a group of guests on a cluster", () => {
  let platform: Platform;
  let witnesses: readonly Witness[];

  beforeAll(async () => {
    platform = await startPlatform({ store: "etcd", kinds: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  /** All of them, protected; the failure shows how one of them was. */
  async function waitUntilTogether(node: string): Promise<void> {
    for (const name of names) {
      await platform.waitForProtectedVm(
        name,
        (vm) => isReady(vm) && vm.status?.primary?.node === node && vm.status.group?.node === node,
        faultMsMax / 2,
      );
    }
    say(`both run on ${node}, protected`);
  }

  async function hear(): Promise<void> {
    await Promise.all(witnesses.map((witness) => witness.hear()));
  }

  /** Of this guest alone, on this node. */
  async function killQemu(name: string, node: string): Promise<void> {
    const guest = present((await platform.readProtectedVm(name))?.status?.guest, "the guest's name");
    process.kill(qemuOf(guest, node), "SIGKILL");
    say(`QEMU of ${name} on ${node} is killed`);
  }

  test(
    "they are placed together, and the second one starts when the first one runs",
    async () => {
      for (const wish of wishes) {
        await platform.apply(buildProtectedGuest(wish)); // The one that waits first.
      }
      await waitUntilTogether("node-a");
      const { items } = await platform.cluster.list(vmis);
      const startedAs = (name: string): string =>
        present(
          items.find(({ metadata }) => metadata.namespace === "shop" && metadata.name.startsWith(`${name}-`)),
          `an instance of ${name}`,
        ).metadata.creationTimestamp ?? "";
      expect(startedAs("web") > startedAs("db")).toBe(true);
      const pairs = await platform.cluster.list<Pair>(kindOf("twinrun.dev/v1alpha1", "GuestPair"), {
        namespace: systemNamespace,
      });
      expect(pairs.items.map(({ spec }) => spec.sides.map(({ node }) => node).sort())).toEqual([
        ["node-a", "node-b"],
        ["node-a", "node-b"],
      ]);
      witnesses = await Promise.all(wishes.map((wish) => Witness.watch(platform, wish)));
    },
    faultMsMax,
  );

  test(
    "QEMU of one is killed: it is taken over, and the other one follows it live",
    async () => {
      await killQemu("db", "node-a");
      await waitUntilTogether("node-b");
      await hear();
      const [web, db] = await Promise.all(names.map((name) => platform.readProtectedVm(name)));
      expect(db?.status?.lastFailover).toBeDefined();
      expect(web?.status?.lastFailover).toBeUndefined(); // It was handed over.
    },
    faultMsMax,
  );

  test(
    "their node loses power: both go on together",
    async () => {
      await cyclePower(platform, "node-b");
      await waitUntilTogether("node-a");
      await hear();
    },
    faultMsMax,
  );

  describe.each(names)("%s", (name) => {
    testNothingLost(() => present(witnesses[names.indexOf(name)], "a witness"));
  });
});
