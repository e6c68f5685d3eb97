/**
 * The operator's process in front of a real API server. KubeVirt, CDI and the agents are played by the test, one step at a
 * time: what is tried here is what the operator writes, and that the server takes it. Its decisions are in test/scenario.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, expect, test } from "@jest/globals";
import { parseAllDocuments, parse } from "yaml";
import { type ProtectedVmStatus } from "../../../src/api/protected-vm.ts";
import { guestNameOf, sideMark } from "../../../src/decide/guest-names.ts";
import { Cluster } from "../../../src/kube/cluster.ts";
import { kindOf, type KubeObject, type ResourceKind } from "../../../src/kube/kube-object.ts";
import { encodeMicroTime } from "../../../src/kube/micro-time.ts";
import { type Json, mergeJson, readObject, readObjects, readText } from "../../../src/lib/json-merge.ts";
import { leaseNameOf } from "../../../src/quorum/lease-store.ts";
import { addNode } from "../../build/cluster-node.ts";
import { buildReport } from "../../build/engine-report.ts";
import { buildReportedSide } from "../../build/guest-pair-rows.ts";
import { buildSeenFault } from "../../build/resources.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";

const root = resolve(import.meta.dirname, "../../..");
const startMsMax = 300_000;
/** Twenty lives of an operator on a busy machine. */
const patienceMs = 150_000;

type Stored = KubeObject & { readonly spec?: Json; readonly status?: Json };

const protectedVms = kindOf("twinrun.dev/v1alpha1", "ProtectedVM");
const pairs = kindOf("twinrun.dev/v1alpha1", "GuestPair");
const splitSitePairs = kindOf("twinrun.dev/v1alpha1", "SplitSitePair");
const vmis = kindOf("kubevirt.io/v1", "VirtualMachineInstance");
const dataVolumes = kindOf("cdi.kubevirt.io/v1beta1", "DataVolume");
const claims = kindOf("v1", "PersistentVolumeClaim");
const secrets = kindOf("v1", "Secret");
const leases = kindOf("coordination.k8s.io/v1", "Lease");

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("the operator in front of a real API server", () => {
  let plane: ControlPlane;
  let cluster: Cluster;
  let directory: string;
  let operator: ChildProcess | undefined;
  let said = "";
  let startsCount = 0;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-test-"));
    plane = await startControlPlane();
    cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
    await installKinds();
    await Promise.all(["twinrun", "twinrun-guests", "shop"].map(addNamespace));
    const nodes = [
      { name: "node-a", address: "10.1.0.1" },
      { name: "node-b", address: "10.1.0.2" },
    ];
    await Promise.all(nodes.map((node) => addNode(cluster, { ...node, memory: "8Gi", namespace: "twinrun" })));
  }, startMsMax);

  afterAll(async () => {
    await stopOperator();
    (cluster as Cluster | undefined)?.close();
    await (plane as ControlPlane | undefined)?.stop();
    rmSync(directory, { recursive: true });
  }, startMsMax);

  afterEach(async () => {
    await stopOperator();
  });

  async function installKinds(): Promise<void> {
    const own = ["protectedvms", "guestpairs", "splitsitepairs"].map((plural) => `crds/${plural}.yaml`);
    const crds = [...own, "test/lab/kubernetes/kubevirt-crds.yaml"].flatMap((file) =>
      parseAllDocuments(readFileSync(join(root, file), "utf8")),
    );
    await Promise.all(crds.map((crd) => cluster.apply(crd.toJS() as KubeObject, "twinrun-test")));
    for (const kind of [protectedVms, pairs, splitSitePairs, vmis, dataVolumes]) {
      await until(() => cluster.hasResource(kind));
      await until(() =>
        cluster.list(kind).then(
          () => true,
          () => false,
        ),
      );
    }
  }

  async function addNamespace(name: string): Promise<void> {
    await cluster.create({ apiVersion: "v1", kind: "Namespace", metadata: { name } });
    await cluster.create({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default", namespace: name } });
  }

  function startOperator(environment: Record<string, string> = {}): ChildProcess {
    startsCount += 1;
    const args = [
      ...["--disable-warning=ExperimentalWarning", join(root, "src/main/operator.ts")],
      ...["--namespace=twinrun", `--identity=operator-${startsCount}`, "--hook-image=twinrun/hook:test"],
      ...[`--kubeconfig=${plane.kubeconfigPath}`, "--health=127.0.0.1:7197", "--metrics=127.0.0.1:7198"],
    ];
    const child = spawn(process.execPath, args, {
      env: { ...process.env, TMPDIR: directory, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const hear = (text: Buffer): void => {
      said += text.toString();
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    operator = child;
    return child;
  }

  async function stopOperator(): Promise<number | null> {
    const child = operator;
    operator = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) {
      return child?.exitCode ?? null;
    }
    child.kill("SIGTERM");
    const [code] = (await once(child, "exit")) as [number | null];
    return code;
  }

  async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
    const startedAtMs = performance.now();
    while (!(await holds())) {
      if (performance.now() - startedAtMs > patienceMs) {
        throw new Error(`waited in vain; the operator said:\n${said.split("\n").slice(-20).join("\n")}`);
      }
      await sleep(50);
    }
  }

  const read = (kind: ResourceKind, namespace: string, name: string): Promise<Stored | undefined> =>
    cluster.read<Stored>({ kind, namespace, name });

  async function waitFor(kind: ResourceKind, namespace: string, name: string): Promise<Stored> {
    let found: Stored | undefined;
    await until(async () => {
      found = await read(kind, namespace, name);
      return found !== undefined;
    });
    return found as Stored;
  }

  async function waitForCondition(name: string, type: string, reason: string): Promise<void> {
    await until(async () => {
      const vm = await read(protectedVms, "shop", name);
      return readObjects(vm?.status, "conditions").some((each) => each["type"] === type && each["reason"] === reason);
    });
  }

  async function applySample(
    name: string,
    spec: Json = {},
  ): Promise<{ readonly guest: string; readonly marks: readonly [string, string] }> {
    const sample = parse(readFileSync(join(root, "config/samples/protected-vm.yaml"), "utf8")) as Stored;
    const object = { ...sample, metadata: { ...sample.metadata, name }, spec: mergeJson(sample.spec ?? {}, spec) };
    const made = await cluster.apply<KubeObject>(object, "kubectl");
    const uid = made.metadata.uid ?? "";
    return { guest: guestNameOf(name, uid), marks: [sideMark(uid, "node-a"), sideMark(uid, "node-b")] };
  }

  /** As CDI does. */
  async function fillVolume(namespace: string, name: string): Promise<void> {
    const volume = await waitFor(dataVolumes, namespace, name);
    const { resources, accessModes } = readObject(volume.spec, "storage");
    const claim = {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { namespace, name },
      spec: { resources, accessModes },
    };
    await cluster.apply<KubeObject>(claim, "cdi");
    const status = { phase: "Bound", capacity: { storage: "11Gi" } };
    await cluster.patch({ kind: claims, namespace, name }, { status }, { subresource: "status" });
    await cluster.patch(
      { kind: dataVolumes, namespace, name },
      { status: { phase: "Succeeded" } },
      { subresource: "status" },
    );
  }

  async function report(guest: string, node: string, difference: Json): Promise<void> {
    const pair = await waitFor(pairs, "twinrun", guest);
    const conditions = [
      {
        type: "InSync",
        status: "True",
        reason: "Protected",
        message: "in sync",
        lastTransitionTime: "2026-11-27T12:00:00Z",
      },
    ];
    const side = {
      ...buildReportedSide(node, buildReport({ term: 1, primaryNode: "node-a" })),
      reportedAt: new Date().toISOString(),
      observedGeneration: pair.metadata.generation,
      conditions,
      ...difference,
    };
    const intent = {
      apiVersion: pair.apiVersion,
      kind: pair.kind,
      metadata: { namespace: "twinrun", name: guest },
      status: { sides: [side] },
    };
    await cluster.applyStatus(intent, `twinrun-agent-${node}`);
  }

  /** Volumes and instances are there, and agents say that all is well. */
  async function bringUp(
    name: string,
    { guest, marks: [first, second] }: Awaited<ReturnType<typeof applySample>>,
  ): Promise<void> {
    await fillVolume("shop", `system-${first}`);
    await fillVolume("twinrun-guests", `system-${second}`);
    await waitFor(vmis, "shop", `${name}-${first}`);
    await waitFor(vmis, "twinrun-guests", `${name}-${second}`);
    await report(guest, "node-b", { role: "standby" });
    await report(guest, "node-a", { role: "primary" });
    await waitForCondition(name, "Ready", "Protected");
  }

  async function expectGone(name: string, guest: string): Promise<void> {
    await until(async () => {
      const left = await Promise.all([
        read(protectedVms, "shop", name),
        read(pairs, "twinrun", guest),
        ...[vmis, dataVolumes].flatMap((kind) => [
          cluster.list(kind, { labelSelector: `twinrun.dev/guest=${guest}` }).then(({ items }) => items[0]),
        ]),
      ]);
      return left.every((object) => object === undefined);
    });
  }

  test(
    "a SplitSitePair says whether its sites have nodes, and says it again when that changes",
    async () => {
      startOperator();
      const label = async (node: string, site: string | null): Promise<void> => {
        await cluster.patch({ kind: kindOf("v1", "Node"), name: node }, { metadata: { labels: { site } } });
      };
      const isReady = (wanted: string) => async (): Promise<boolean> => {
        const found = await cluster.read<Stored>({ kind: splitSitePairs, name: "campus" });
        const ready = readObjects(found?.status, "conditions").find(({ type }) => type === "Ready");
        return ready?.["status"] === wanted;
      };
      await label("node-a", "north");
      const sites = ["north", "south"].map((name) => ({ name, nodeSelector: { site: name } }));
      const { apiVersion, kind } = splitSitePairs;
      await cluster.create<Stored>({ apiVersion, kind, metadata: { name: "campus" }, spec: { sites } });
      await until(isReady("False"));
      await label("node-b", "south");
      await until(isReady("True"));
      await label("node-b", null);
      await until(isReady("False"));
    },
    patienceMs,
  );

  test(
    "makes a guest of the sample, follows it, moves it, and takes it away again",
    async () => {
      startOperator();
      const startedAtMs = performance.now();
      const guest = await applySample("web");
      const pair = await waitFor(pairs, "twinrun", guest.guest);
      expect(performance.now() - startedAtMs).toBeLessThan(20_000);
      expect(await (await fetch("http://127.0.0.1:7197/readyz")).text()).toBe("ok\n");
      expect((await fetch("http://127.0.0.1:7197/metrics")).status).toBe(404);
      await waitFor(secrets, "twinrun", "twinrun-operator-tls");
      // Without a certificate of ours nothing is said.
      await expect(fetch("https://127.0.0.1:7198/metrics")).rejects.toThrow();
      expect(pair.spec).toMatchObject({ roles: { term: 1, primary: "node-a" }, port: 7_100, disks: ["system"] });
      await bringUp("web", guest);
      const [first, second] = guest.marks;
      const standby = await waitFor(vmis, "twinrun-guests", `web-${second}`);
      const primary = await waitFor(vmis, "shop", `web-${first}`);
      expect(readText(standby.spec, "domain", "firmware", "uuid")).toBe(
        readText(primary.spec, "domain", "firmware", "uuid"),
      );
      expect(readObjects(standby.spec, "networks")[0]).toMatchObject({ multus: { networkName: "shop/lan" } });
      expect(primary.metadata.ownerReferences).toMatchObject([{ kind: "ProtectedVM", name: "web" }]);
      expect((await waitFor(dataVolumes, "twinrun-guests", `system-${second}`)).spec).toMatchObject({
        source: { blank: {} },
        storage: { resources: { requests: { storage: "11Gi" } }, storageClassName: "fast-b" },
      });

      const ref = { kind: protectedVms, namespace: "shop", name: "web" };
      await cluster.patch(ref, { metadata: { annotations: { "twinrun.dev/switchover-to": "node-b" } } });
      await until(
        async () => readObject((await read(pairs, "twinrun", guest.guest))?.spec, "roles")["primary"] === "node-b",
      );
      await report(guest.guest, "node-a", { role: "standby", term: 2, primaryNode: "node-b" });
      await report(guest.guest, "node-b", { role: "primary", term: 2, primaryNode: "node-b" });
      await until(
        async () =>
          (await read(protectedVms, "shop", "web"))?.metadata.annotations?.["twinrun.dev/switchover-to"] === undefined,
      );
      expect((await read(protectedVms, "shop", "web"))?.status).toMatchObject({ term: 2, primary: { node: "node-b" } });
      const { items: events } = await cluster.list<KubeObject & { reason: string }>(
        kindOf("events.k8s.io/v1", "Event"),
        { namespace: "shop" },
      );
      expect(events.map(({ reason }) => reason)).toEqual(
        expect.arrayContaining(["Placed", "Protected", "SwitchedOver"]),
      );

      const record = { kind: leases, namespace: "twinrun", name: leaseNameOf(guest.guest) };
      await cluster.create({ ...record.kind, metadata: { name: record.name, namespace: record.namespace } });
      await cluster.remove(ref);
      await expectGone("web", guest.guest);
      expect(await cluster.read(record)).toBeUndefined();
      expect(await stopOperator()).toBe(0);
    },
    startMsMax,
  );

  test(
    "an operator that has lost the lead waits for it again, and does not end",
    async () => {
      const child = startOperator();
      const lease = { kind: leases, namespace: "twinrun", name: "twinrun-operator" };
      const isHeld = async (): Promise<boolean> =>
        (await cluster.read<Stored>(lease))?.spec?.["holderIdentity"] === `operator-${startsCount}`;
      await until(isHeld);
      const taken = { holderIdentity: "another", leaseDurationSeconds: 3, renewTime: encodeMicroTime(new Date()) };
      await cluster.patch(lease, { spec: taken });
      await until(() => said.includes("leadership lost"));
      const guest = await applySample("late");
      await waitFor(pairs, "twinrun", guest.guest);
      expect(await isHeld()).toBe(true);
      expect(child.exitCode).toBeNull();
      await cluster.remove({ kind: protectedVms, namespace: "shop", name: "late" });
      await expectGone("late", guest.guest);
      expect(await stopOperator()).toBe(0);
    },
    startMsMax,
  );

  test(
    "the guests of a group follow the one that was taken over, at once",
    async () => {
      startOperator();
      const spec = { failover: { group: "shop" } };
      const guests = await Promise.all(["db", "cache"].map((name) => applySample(name, spec)));
      const [db, cache] = guests as [(typeof guests)[0], (typeof guests)[0]];
      await Promise.all([bringUp("db", db), bringUp("cache", cache)]);
      await waitForCondition("cache", "PlacementMet", "Met");
      await report(db.guest, "node-a", { role: "starting", state: "starting", term: 1 });
      await report(db.guest, "node-b", { role: "primary", term: 2, primaryNode: "node-b" });
      await until(
        async () => readObject((await read(pairs, "twinrun", cache.guest))?.spec, "roles")["primary"] === "node-b",
      );
      await waitForCondition("cache", "PlacementMet", "GroupScattered");
      await report(cache.guest, "node-a", { role: "fenced", state: "fenced", term: 2, primaryNode: "node-b" });
      await report(cache.guest, "node-b", { role: "primary", term: 2, primaryNode: "node-b" });
      await waitForCondition("cache", "PlacementMet", "Met");
      // Whoever looks sees the same group, once it has looked again.
      for (const name of ["db", "cache"]) {
        await until(async () => {
          const group = (await read(protectedVms, "shop", name))?.status?.["group"] as ProtectedVmStatus["group"];
          return group?.members.every(({ primary }) => primary === "node-b") === true;
        });
        const seen = (await read(protectedVms, "shop", name))?.status?.["group"] as ProtectedVmStatus["group"];
        // The oldest comes first, in whole seconds: which of the two that is chance says.
        const members = seen?.members.toSorted((one, other) => one.name.localeCompare(other.name));
        expect({ ...seen, members }).toEqual({
          ...{ name: "shop", node: "node-b" },
          members: [
            { name: "cache", primary: "node-b" },
            { name: "db", primary: "node-b" },
          ],
        });
      }
      expect(said).not.toContain("tried again");
      for (const [index, name] of ["db", "cache"].entries()) {
        await cluster.remove({ kind: protectedVms, namespace: "shop", name });
        await expectGone(name, guests[index]?.guest ?? "");
      }
      expect(await stopOperator()).toBe(0);
    },
    startMsMax,
  );

  test(
    "guests that come in the same moment get ports of their own, and nothing fails on the way",
    async () => {
      startOperator();
      said = "";
      const names = Array.from({ length: 8 }, (_, index) => `crowd-${index}`);
      const guests = await Promise.all(names.map((name) => applySample(name)));
      const made = await Promise.all(guests.map(({ guest }) => waitFor(pairs, "twinrun", guest)));
      expect(new Set(made.map(({ spec }) => spec?.["port"])).size).toBe(names.length);
      expect(said).not.toContain("tried again");
      for (const [index, name] of names.entries()) {
        await cluster.remove({ kind: protectedVms, namespace: "shop", name });
        await expectGone(name, guests[index]?.guest ?? "");
      }
    },
    startMsMax,
  );

  test(
    "makes no new copy where a disk failed again and again, until somebody clears it",
    async () => {
      startOperator();
      const guest = await applySample("worn");
      await bringUp("worn", guest);
      const standby = { kind: vmis, namespace: "twinrun-guests", name: `worn-${guest.marks[1]}` };
      const incidents = [30, 20, 10].map((seconds) => new Date(Date.now() - seconds * 1_000).toISOString());
      const times = { firstAt: incidents[0], lastAt: incidents[2], incidents, count: 3 };
      const alone = {
        type: "InSync",
        status: "False",
        reason: "Unprotected",
        message: "",
        lastTransitionTime: incidents[2],
      };
      await report(guest.guest, "node-b", {
        ...{ role: "starting", state: "starting", wantedShape: "standby" },
        faults: [buildSeenFault({ node: "node-b", ...times })],
      });
      await report(guest.guest, "node-a", { role: "primary", state: "alone", conditions: [alone] });
      await waitForCondition("worn", "Stalled", "Isolated");
      await waitForCondition("worn", "ComponentsHealthy", "Isolated");
      await until(async () => (await cluster.read(standby)) === undefined);
      await sleep(1_000);
      expect(await cluster.read(standby)).toBeUndefined();
      expect((await read(protectedVms, "shop", "worn"))?.status?.["faults"]).toMatchObject([
        { node: "node-b", component: "disk/system", state: "Isolated", count: 3 },
      ]);

      const ref = { kind: protectedVms, namespace: "shop", name: "worn" };
      const annotations = { "twinrun.dev/clear-faults": "node-b/disk/system" };
      await cluster.patch(ref, { metadata: { annotations } });
      await until(async () => (await cluster.read(standby)) !== undefined);
      await until(
        async () => (await cluster.read<Stored>(ref))?.metadata.annotations?.["twinrun.dev/clear-faults"] === undefined,
      );
      await waitForCondition("worn", "ComponentsHealthy", "OutOfService");
      const { items } = await cluster.list<KubeObject & { reason: string }>(kindOf("events.k8s.io/v1", "Event"), {
        namespace: "shop",
      });
      expect(items.map(({ reason }) => reason)).toEqual(
        expect.arrayContaining(["FaultDetected", "ComponentIsolated", "FaultsCleared"]),
      );
      await cluster.remove(ref);
      await expectGone("worn", guest.guest);
      expect(await stopOperator()).toBe(0);
    },
    startMsMax,
  );

  test(
    "an operator that dies after every action comes to the same end",
    async () => {
      const file = join(directory, "fail-point");
      const environment = { TWINRUN_FAIL_POINTS: "1", TWINRUN_FAIL_POINT_FILE: file };
      const state = { isOver: false };
      let deaths = 0;
      // It leaves its lead behind each time; nobody waits 15 s for the end of a lease here.
      const lives = (async (): Promise<void> => {
        while (!state.isOver) {
          writeFileSync(file, deaths < 12 ? "any\n" : "none\n");
          await cluster.remove({ kind: leases, namespace: "twinrun", name: "twinrun-operator" });
          const [, signal] = (await once(startOperator(environment), "exit")) as [number | null, string | null];
          deaths += signal === "SIGKILL" ? 1 : 0;
        }
      })();
      const guest = await applySample("often");
      await bringUp("often", guest);
      await cluster.remove({ kind: protectedVms, namespace: "shop", name: "often" });
      await expectGone("often", guest.guest);
      state.isOver = true;
      await stopOperator();
      await lives;
      expect(deaths).toBeGreaterThanOrEqual(8);
      const { items } = await cluster.list(secrets, { namespace: "twinrun-guests" });
      expect(items).toEqual([]);
    },
    startMsMax,
  );

  test(
    "what the server refuses is said in the status, in its words, and tried again",
    async () => {
      startOperator();
      const quota: KubeObject & { spec: Json } = {
        apiVersion: "v1",
        kind: "ResourceQuota",
        metadata: { name: "none", namespace: "shop" },
        spec: { hard: { "count/virtualmachineinstances.kubevirt.io": "0" } },
      };
      await cluster.create(quota);
      await cluster.patch(
        {
          kind: { apiVersion: "v1", kind: "ResourceQuota", plural: "resourcequotas", namespaced: true },
          namespace: "shop",
          name: "none",
        },
        { status: { hard: quota.spec["hard"], used: { "count/virtualmachineinstances.kubevirt.io": "0" } } },
        { subresource: "status" },
      );
      const guest = await applySample("refused");
      await waitForCondition("refused", "Stalled", "Refused");
      const { status } = await waitFor(protectedVms, "shop", "refused");
      expect(JSON.stringify(status)).toContain("exceeded quota");
      await cluster.remove({ kind: protectedVms, namespace: "shop", name: "refused" });
      await expectGone("refused", guest.guest);
      expect(await stopOperator()).toBe(0);
    },
    startMsMax,
  );
});
