/**
 * What users do to a guest, and what its clients see of it: nothing, or what was asked for. A VirtualMachine that is there is
 * adopted, and given back; a guest is paused and resumed, told to shut down by KubeVirt on one of its sides, applied again and
 * edited.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { requestAnnotations } from "../../../src/api/requests.ts";
import { kindOf, type KubeObject, type ObjectRef } from "../../../src/kube/kube-object.ts";
import { present } from "../../../src/lib/assert.ts";
import { isSameJson, readText } from "../../../src/lib/json-merge.ts";
import { healthOf, lua } from "../../build/argocd-health.ts";
import { buildMachine, buildProtectedGuest } from "../guest-manifests.ts";
import { kubectl, twinrun } from "../kubectl.ts";
import { type Platform, startPlatform, systemNamespace, tenantNamespace } from "../platform.ts";
import { describeOnCluster, faultMsMax, say, setUpMsMax, Witness } from "../witness.ts";

const guestsNamespace = "twinrun-guests";
const graceSeconds = 30;
/** What is looked at here is not how fast a fault is noticed; on a machine with other things to do there must be none. */
const detectionTimeoutMs = 5_000;

if (lua === undefined) {
  process.stderr.write("NOT CHECKED in test/e2e/long/users.test.ts: Argo CD's health, for there is no Lua\n");
}

const kinds = {
  protectedVm: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"),
  pair: kindOf("twinrun.dev/v1alpha1", "GuestPair"),
  vm: kindOf("kubevirt.io/v1", "VirtualMachine"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  claim: kindOf("v1", "PersistentVolumeClaim"),
  secret: kindOf("v1", "Secret"),
  lease: kindOf("coordination.k8s.io/v1", "Lease"),
  pod: kindOf("v1", "Pod"),
};

describeOnCluster(import.meta.filename)("users", () => {
  let platform: Platform;

  beforeAll(async () => {
    platform = await startPlatform({ store: "lease", kinds: ["busybox"], say });
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
  }, faultMsMax);

  async function waitUntil<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
    const deadlineMs = Date.now() + faultMsMax / 3;
    for (;;) {
      // An API server that is slow just now is asked again.
      const seen = await look().catch(() => undefined);
      if (seen !== undefined && seen !== false) {
        return seen;
      }
      if (Date.now() > deadlineMs) {
        throw new Error(`waited in vain until ${what}`);
      }
      await sleep(100);
    }
  }

  const refOf = (kind: ObjectRef["kind"], name: string, namespace = tenantNamespace): ObjectRef => ({
    kind,
    namespace,
    name,
  });

  async function readSides(name: string): Promise<{ readonly primary: Side; readonly standby: Side }> {
    const { status } = await platform.waitUntilReady(name, faultMsMax / 3);
    return { primary: present(status?.primary, "a primary"), standby: present(status?.standby, "a standby") };
  }

  /** `virtctl pause` and the like. */
  async function command({ vmi }: Side, verb: "pause" | "unpause"): Promise<void> {
    const { namespace, name } = vmi;
    const path = `/apis/subresources.kubevirt.io/v1/namespaces/${namespace}/virtualmachineinstances/${name}/${verb}`;
    expect((await platform.lab.plane.admin.send("PUT", path, { body: {} })).status).toBeLessThan(300);
  }

  async function request(name: string, annotation: string, value: string): Promise<void> {
    await platform.cluster.patch(refOf(kinds.protectedVm, name), {
      metadata: { annotations: { [annotation]: value } },
    });
  }

  async function expectHealth(name: string, status: string): Promise<void> {
    const object = await platform.cluster.read(refOf(kinds.protectedVm, name));
    if (lua !== undefined && object !== undefined) {
      expect(healthOf("ProtectedVM", object)).toMatch(new RegExp(`^${status}: .`));
    }
  }

  /** What is anywhere of a guest of Twinrun's. */
  async function listTraces(): Promise<readonly string[]> {
    const traces: string[] = [];
    for (const kind of [kinds.vmi, kinds.pair, kinds.claim, kinds.dataVolume, kinds.secret]) {
      const all = await platform.cluster.list<KubeObject>(kind, {});
      traces.push(...all.items.filter(hasTrace).map(({ metadata }) => `${kind.kind} ${metadata.name}`));
    }
    const leases = await platform.cluster.list(kinds.lease, { namespace: systemNamespace });
    const records = leases.items.filter(({ metadata }) => /-[0-9a-f]{8}$/.test(metadata.name));
    return [...traces, ...records.map(({ metadata }) => `Lease ${metadata.name}`)];
  }

  describe("adoption", () => {
    const machine = "till";
    const address = "10.77.0.61";
    const wish = { name: machine, kind: "busybox", address, graceSeconds } as const;
    let original: Found;
    let client: Witness;

    const readMachine = async (): Promise<Found> =>
      present(await platform.cluster.read<Found>(refOf(kinds.vm, machine)), "the VirtualMachine");
    const readInstance = (): Promise<KubeObject | undefined> => platform.cluster.read(refOf(kinds.vmi, machine));

    test(
      "a VirtualMachine that runs is protected, with the one restart that its owner allows",
      async () => {
        await platform.apply(buildMachine(wish));
        const before = await waitUntil("it runs", async () => {
          const instance = await readInstance();
          return readText(instance, "status", "phase") === "Running" && instance;
        });
        original = await readMachine();
        const nodes = ["node-a", "node-b", "node-c"];
        const own = readText(before, "status", "nodeName") ?? "";
        const other = nodes.find((node) => node !== own) ?? "";
        await twinrun(
          platform,
          "protect",
          machine,
          "-n",
          tenantNamespace,
          "--nodes",
          `${own},${other}`,
          "--detection-timeout",
          "5s",
        );
        const stalled = await platform.waitForProtectedVm(machine, ({ status }) =>
          (status?.conditions ?? []).some(({ type, status: held }) => type === "Stalled" && held === "True"),
        );
        expect(JSON.stringify(stalled.status)).toContain("RestartNeeded");
        await expectHealth(machine, "Degraded");
        expect((await readInstance())?.metadata.uid).toBe(before.metadata.uid);
        await request(machine, "twinrun.dev/allow-restart", "true");
        const { primary, standby } = await readSides(machine);
        expect([primary.node, standby.node].toSorted()).toEqual([own, other].toSorted());
        client = await Witness.watch(platform, { name: machine, address });
      },
      faultMsMax,
    );

    test(
      "it survives the loss of its node",
      async () => {
        const { primary, standby } = await readSides(machine);
        await platform.lab.powerOff(primary.node);
        say(`adopted: ${primary.node} is off`);
        await client.hear();
        await platform.lab.powerOn(primary.node);
        await platform.waitForProtectedVm(machine, ({ status }) => status?.primary?.node === standby.node);
        say(`adopted: on ${(await readSides(machine)).primary.node}`);
      },
      faultMsMax,
    );

    test(
      "when the ProtectedVM is deleted it goes on without a restart, and nothing of Twinrun is left",
      async () => {
        await platform.waitUntilReady(machine, faultMsMax / 3);
        const before = client.repliesCount;
        await platform.cluster.remove(refOf(kinds.protectedVm, machine));
        await waitUntil("the ProtectedVM is gone", async () => (await platform.readProtectedVm(machine)) === undefined);
        say(`given back; ${client.repliesCount - before} replies meanwhile`);
        await client.hear(200);
        await waitUntil("the volumes of the second side are gone", async () => (await listTraces()).length === 0);
        const [now, instance] = [await readMachine(), await readInstance()];
        expect(now.spec).toEqual(original.spec);
        expect(now.metadata.annotations ?? {}).toEqual(original.metadata.annotations ?? {});
        expect(now.metadata.labels ?? {}).toEqual(original.metadata.labels ?? {});
        expect(now.metadata.finalizers).toEqual(original.metadata.finalizers);
        expect(readText(instance, "status", "phase")).toBe("Running");
        await client.expectNothingLost();
        expect((await platform.cluster.list(kinds.claim, { namespace: guestsNamespace })).items).toEqual([]);
      },
      faultMsMax,
    );

    test(
      "its owner can stop and start it as before",
      async () => {
        const { metadata } = present(await readInstance(), "an instance");
        await platform.cluster.patch(refOf(kinds.vm, machine), { spec: { runStrategy: "Halted" } });
        await waitUntil("it is down", async () => (await readInstance()) === undefined);
        await platform.cluster.patch(refOf(kinds.vm, machine), { spec: { runStrategy: "Always" } });
        const instance = await waitUntil("it is up", async () => {
          const found = await readInstance();
          return readText(found, "status", "phase") === "Running" && found;
        });
        expect(instance.metadata.uid).not.toBe(metadata.uid);
        expect(instance.metadata.annotations?.["hooks.kubevirt.io/hookSidecars"]).toBeUndefined();
        const again = await Witness.watch(platform, wish);
        await again.stop();
        await platform.cluster.remove(refOf(kinds.vm, machine));
      },
      faultMsMax,
    );
  });

  describe("a guest from a template", () => {
    const guest = "desk";
    const address = "10.77.0.62";
    const placement = { nodes: ["node-a", "node-b"] };
    const manifest = buildProtectedGuest({
      ...{ name: guest, kind: "busybox", address, placement, graceSeconds, detectionTimeoutMs },
    });
    let client: Witness;

    test(
      "Argo CD sees it being made, and healthy",
      async () => {
        await platform.apply(manifest);
        await expectHealth(guest, "Progressing");
        await waitUntil("the operator has looked at it", async () => (await platform.readProtectedVm(guest))?.status);
        await expectHealth(guest, "(Progressing|Degraded)");
        await platform.waitUntilReady(guest);
        await expectHealth(guest, "Healthy");
        client = await Witness.watch(platform, { name: guest, address });
      },
      faultMsMax,
    );

    test(
      "what is applied once more changes nothing",
      async () => {
        const before = await readDefinitions();
        for (const manager of ["e2e", "argocd-controller"]) {
          await platform.cluster.apply(manifest, manager);
        }
        await sleep(10_000);
        expect(await readDefinitions()).toEqual(before);
      },
      faultMsMax,
    );

    /** Everything of the guest but what is reported of it. */
    async function readDefinitions(): Promise<unknown> {
      const seen = [];
      for (const kind of [kinds.protectedVm, kinds.vmi, kinds.pair, kinds.claim, kinds.dataVolume]) {
        const { items } = await platform.cluster.list<Found>(kind, {});
        for (const { metadata, spec } of items) {
          const { name, uid, generation, labels, annotations, finalizers } = metadata;
          seen.push({ kind: kind.kind, name, uid, generation, labels, annotations, finalizers, spec });
        }
      }
      return seen;
    }

    test(
      "what somebody edits is put back",
      async () => {
        await platform.waitUntilReady(guest);
        const volumes = await platform.cluster.list<KubeObject>(kinds.dataVolume, { namespace: guestsNamespace });
        const volume = present(volumes.items[0], "a volume of the second side");
        const pair = present((await platform.cluster.list<KubeObject>(kinds.pair, {})).items[0], "a GuestPair");
        const refs = [
          refOf(kinds.dataVolume, volume.metadata.name, guestsNamespace),
          refOf(kinds.pair, pair.metadata.name, systemNamespace),
        ];
        const before = await Promise.all(refs.map(readMarks));
        const edit = { metadata: { labels: { "twinrun.dev/guest": null } } };
        for (const ref of refs) {
          await platform.cluster.patch(ref, edit);
        }
        await platform.cluster.patch(present(refs[1], "the pair"), {
          spec: { checkpoint: { maxAddedLatencyMs: 999 }, disks: [] },
        });
        await waitUntil("all is as before", async () => isSameJson(await Promise.all(refs.map(readMarks)), before));
        await platform.waitUntilReady(guest);
        await client.hear();
      },
      faultMsMax,
    );

    async function readMarks(ref: ObjectRef): Promise<unknown> {
      const object = await platform.cluster.read<Found>(ref);
      return { labels: object?.metadata.labels, spec: ref.kind === kinds.pair ? object?.spec : undefined };
    }

    test(
      "while it is paused it stands still where it is, and goes on",
      async () => {
        const before = await platform.waitUntilReady(guest);
        const primary = present(before.status?.primary, "a primary");
        await command(primary, "pause");
        await sleep(2_000); // Replies of before are home.
        const standing = client.repliesCount;
        await sleep(4_000);
        expect(client.repliesCount).toBe(standing);
        await command(primary, "unpause");
        await client.hear();
        const after = await platform.waitUntilReady(guest);
        expect([after.status?.term, after.status?.primary]).toEqual([before.status?.term, before.status?.primary]);
      },
      faultMsMax,
    );

    test(
      "one that KubeVirt resumes by itself, since somebody has, changes sides unharmed",
      async () => {
        const { standby } = await readSides(guest);
        await request(guest, requestAnnotations.switchoverTo, standby.node);
        await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === standby.node);
        await client.hear();
      },
      faultMsMax,
    );

    test(
      "its standby that somebody resumes does not run, and takes over when it has to",
      async () => {
        const { primary, standby } = await readSides(guest);
        await command(standby, "unpause");
        await sleep(2_000);
        await client.hear();
        expect(await readSides(guest)).toEqual({ primary, standby });
        await request(guest, requestAnnotations.failoverFrom, primary.node);
        await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === standby.node);
        await client.hear();
      },
      faultMsMax,
    );

    /** It would shut the guest down if libvirt asked it; without it libvirt presses the power button in any case. */
    async function expectAgent({ vmi: { namespace, name } }: Side): Promise<void> {
      const launchers = { namespace, labelSelector: "kubevirt.io=virt-launcher" };
      const { items } = await platform.cluster.list(kinds.pod, launchers);
      const pod = items.find(({ metadata }) => metadata.annotations?.["kubevirt.io/domain"] === name);
      const virsh = ["virsh", "--connect", "qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock"];
      const inPod = ["exec", "-n", namespace, present(pod, "a launcher pod").metadata.name, "-c", "compute", "--"];
      const xml = await kubectl(platform, ...inPod, ...virsh, "dumpxml", `${namespace}_${name}`);
      expect(xml).toMatch(/name='org.qemu.guest_agent.0' state='connected'/);
    }

    test(
      "when KubeVirt shuts down the side that runs it, it goes on at the other",
      async () => {
        const { primary, standby } = await readSides(guest);
        await expectAgent(primary);
        await platform.cluster.remove(refOf(kinds.vmi, primary.vmi.name, primary.vmi.namespace));
        await platform.waitForProtectedVm(guest, ({ status }) => status?.primary?.node === standby.node);
        await client.hear();
        await platform.waitUntilReady(guest, faultMsMax / 3);
      },
      faultMsMax,
    );

    test(
      "no reply was lost, duplicated or reordered; deleted, it goes with all that was made for it",
      async () => {
        await client.expectNothingLost();
        await platform.cluster.remove(refOf(kinds.protectedVm, guest));
        await expectHealth(guest, "Progressing");
        await waitUntil("it is gone", async () => (await platform.readProtectedVm(guest)) === undefined);
        await waitUntil("nothing is left", async () => (await listTraces()).length === 0);
      },
      faultMsMax,
    );
  });
});

type Found = KubeObject & { readonly spec?: unknown };
type Side = { readonly node: string; readonly vmi: { readonly namespace: string; readonly name: string } };

const hasTrace = ({ metadata }: KubeObject): boolean =>
  metadata.labels?.["twinrun.dev/guest"] !== undefined ||
  metadata.annotations?.["twinrun.dev/protected-vm"] !== undefined ||
  (metadata.finalizers ?? []).some((finalizer) => finalizer.startsWith("twinrun.dev/"));
