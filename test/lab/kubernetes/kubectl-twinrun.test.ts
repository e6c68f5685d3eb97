/**
 * kubectl twinrun against a real API server, started by kubectl as its plugin. Objects of KubeVirt and of the operator are written
 * by the test: their definitions are open ones, and what an operator would do is done by hand.
 */
import { afterAll, beforeAll, describe, expect, jest, test } from "@jest/globals";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createServer, type Server } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildReportedSide } from "../../build/guest-pair-rows.ts";
import { buildReport } from "../../build/engine-report.ts";
import { buildGuestPair, buildProtectedVm, buildSeenFault, type ResourceObject } from "../../build/resources.ts";
import { applyPatch } from "./api-client.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { findPrograms, findRemedy } from "./programs.ts";

type Json = Readonly<Record<string, unknown>>;

const root = join(import.meta.dirname, "../../..");
const startMsMax = 180_000;
// Each test starts kubectl and the plugin several times, which takes seconds on a machine that has other things to do.
jest.setTimeout(startMsMax);
const remedy = findRemedy(["etcd", "kube-apiserver", "kubectl"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED test/lab/kubernetes/kubectl-twinrun.test.ts: ${remedy}\n`);
}

let plane: ControlPlane;
let bin: string;
let kubelet: Server;

type Ran = { readonly status: number | null; readonly out: string; readonly said: string };

const environment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  KUBECONFIG: plane.kubeconfigPath,
  PATH: `${bin}:${process.env["PATH"] ?? ""}`,
});

/** As a person types it; without blocking, for the test itself plays the kubelet. */
function kubectl(...args: string[]): Promise<Ran> {
  const program = findPrograms(["kubectl"]).get("kubectl") ?? "kubectl";
  const child = spawn(program, args, { env: environment(), stdio: ["ignore", "pipe", "pipe"] });
  let [out, said] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  return new Promise((resolve) => {
    child.once("close", (status) => {
      resolve({ status, out, said });
    });
  });
}
const twinrun = (...args: string[]): Promise<Ran> => kubectl("twinrun", ...args);

async function send(method: string, path: string, body?: object, type?: string): Promise<Json> {
  const answer = await plane.admin.send(method, path, {
    ...(body === undefined ? {} : { body }),
    ...(type === undefined ? {} : { type }),
  });
  if (answer.status >= 300) {
    throw new Error(`${method} ${path}: ${JSON.stringify(answer)}`);
  }
  return answer.body as Json;
}

const vmPath = "/apis/twinrun.dev/v1alpha1/namespaces/shop/protectedvms";
const pairPath = "/apis/twinrun.dev/v1alpha1/namespaces/twinrun/guestpairs";
const setStatus = (path: string, object: ResourceObject): Promise<Json> =>
  send(
    "PATCH",
    `${path}/status?fieldManager=test&force=true`,
    {
      apiVersion: object.apiVersion,
      kind: object.kind,
      metadata: { name: object.metadata["name"] },
      status: object.status,
    },
    applyPatch,
  );

/** A definition that takes everything: it stands for KubeVirt's. */
function defineOpen(plural: string, kind: string): Promise<Json> {
  const group = "kubevirt.io";
  const schema = { openAPIV3Schema: { type: "object", "x-kubernetes-preserve-unknown-fields": true } };
  return send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
    metadata: { name: `${plural}.${group}` },
    spec: {
      ...{ group, scope: "Namespaced", names: { plural, kind, singular: kind.toLowerCase(), listKind: `${kind}List` } },
      versions: [{ name: "v1", served: true, storage: true, schema }],
    },
  });
}

const condition = (type: string, status: string, reason: string, message: string): Json => ({
  ...{ type, status, reason, message, lastTransitionTime: "2026-01-31T08:30:00Z" },
});
const ready = condition("Ready", "True", "Protected", "the standby on node-b is in sync");
const side = (node: string, name = "web"): Json => ({ node, vmi: { namespace: "shop", name } });
const calmStatus = {
  observedGeneration: 1,
  ...{ guest: "web-0a1b2c3d", term: 3, primary: side("node-a"), standby: side("node-b", "web-abcdef") },
  disks: [{ name: "system", syncPercent: 100 }],
  conditions: [
    ready,
    condition("Stalled", "False", "NotStalled", ""),
    condition("InSync", "True", "Protected", "the standby is in sync"),
  ],
};

const image = "example/twinrun:0.1.0";
const labels = (component: string): Json => ({
  ...{
    "app.kubernetes.io/name": "twinrun",
    "app.kubernetes.io/component": component,
    "app.kubernetes.io/version": "0.1.0",
  },
});

async function createNode(name: string, differences: Json = {}): Promise<void> {
  const offers = { "machine-type.node.kubevirt.io/pc-q35-10.0": "true", "cpu-model.node.kubevirt.io/Skylake": "true" };
  await send("POST", "/api/v1/nodes", {
    metadata: { name, labels: { "kubevirt.io/schedulable": "true", ...offers, ...differences } },
  });
  const { port } = kubelet.address() as { readonly port: number };
  await send(
    "PATCH",
    `/api/v1/nodes/${name}/status`,
    {
      status: {
        conditions: [{ type: "Ready", status: "True", reason: "KubeletReady", message: "" }],
        addresses: [{ type: "InternalIP", address: "127.0.0.1" }],
        nodeInfo: { kernelVersion: "6.12.0", architecture: "amd64" },
        daemonEndpoints: { kubeletEndpoint: { Port: port } },
      },
    },
    "application/merge-patch+json",
  );
}

async function createPod(name: string, component: string, node: string): Promise<void> {
  const path = "/api/v1/namespaces/twinrun/pods";
  const env = [{ name: "DATABASE_URL", value: "postgres://web:hunter2@db" }];
  await send("POST", path, {
    metadata: { name, labels: labels(component) },
    spec: { nodeName: node, containers: [{ name: component, image, env }] },
  });
  const status = { phase: "Running", conditions: [{ type: "Ready", status: "True" }] };
  await send("PATCH", `${path}/${name}/status`, { status }, "application/merge-patch+json");
}

async function createWorkload(plural: string, component: string, args: readonly string[], status: Json): Promise<void> {
  const path = `/apis/apps/v1/namespaces/twinrun/${plural}`;
  const name = `twinrun-${component}`;
  await send("POST", path, {
    metadata: { name, labels: labels(component) },
    spec: {
      selector: { matchLabels: { "app.kubernetes.io/component": component } },
      template: { metadata: { labels: labels(component) }, spec: { containers: [{ name: component, image, args }] } },
    },
  });
  await send("PATCH", `${path}/${name}/status`, { status }, "application/merge-patch+json");
}

const replicas = (count: number): Json => ({ replicas: count, readyReplicas: count, observedGeneration: 1 });

async function createInstallation(): Promise<void> {
  // There is no controller manager to make it.
  await send("POST", "/api/v1/namespaces/twinrun/serviceaccounts", { metadata: { name: "default" } });
  await createNode("node-a");
  await createNode("node-b");
  await createWorkload("deployments", "operator", ["operator", "--hook-mode=Sidecar"], replicas(2));
  await createWorkload("deployments", "quorum", ["quorum", "--store=lease:twinrun"], replicas(2));
  const agents = { desiredNumberScheduled: 2, numberReady: 2, currentNumberScheduled: 2, numberMisscheduled: 0 };
  await createWorkload("daemonsets", "agent", ["agent"], agents);
  await createPod("twinrun-agent-a", "agent", "node-a");
  await createPod("twinrun-agent-b", "agent", "node-b");
  await createPod("twinrun-quorum-a", "quorum", "node-a");
  await send("POST", "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts", {
    ...{ apiVersion: "kubevirt.io/v1", kind: "KubeVirt", metadata: { name: "kubevirt" } },
    spec: { configuration: { developerConfiguration: { featureGates: ["Sidecar"] } } },
    status: { observedKubeVirtVersion: "v1.9.0", phase: "Deployed" },
  });
  await send("POST", "/apis/storage.k8s.io/v1/storageclasses", {
    metadata: { name: "local", annotations: { "storageclass.kubernetes.io/is-default-class": "true" } },
    provisioner: "example.com/local",
  });
  await send("POST", "/api/v1/namespaces/twinrun/secrets", {
    metadata: { name: "twinrun-ca" },
    stringData: { "ca.crt": "no certificate", "ca.key": "the-private-key-of-all" },
  });
}

async function createVirtualMachine(name: string, instanceSpec: Json): Promise<void> {
  await send("POST", "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines", {
    ...{ apiVersion: "kubevirt.io/v1", kind: "VirtualMachine", metadata: { name } },
    spec: { runStrategy: "Manual", template: { spec: { domain: {}, ...instanceSpec } } },
  });
}

async function createEvent(reason: string, note: string, name = "web"): Promise<void> {
  await send("POST", "/apis/events.k8s.io/v1/namespaces/shop/events", {
    metadata: { generateName: `${name}-` },
    ...{ reason, note, type: "Normal", action: reason, eventTime: new Date().toISOString().replace("Z", "000Z") },
    ...{ reportingController: "twinrun.dev/operator", reportingInstance: "test" },
    regarding: { apiVersion: "twinrun.dev/v1alpha1", kind: "ProtectedVM", namespace: "shop", name },
  });
}

/** The operator's part of a request: it sees the annotation, takes it away, and says how it went. */
async function answerRequest(annotation: string, answer: () => Promise<void>): Promise<string> {
  for (;;) {
    const { metadata } = (await send("GET", `${vmPath}/web`)) as {
      metadata: { annotations?: Record<string, string> };
    };
    const asked = metadata.annotations?.[annotation];
    if (asked !== undefined) {
      await answer();
      await send(
        "PATCH",
        `${vmPath}/web`,
        { metadata: { annotations: { [annotation]: null } } },
        "application/merge-patch+json",
      );
      return asked;
    }
    await sleep(50);
  }
}

/** Since when the node is in maintenance, as soon as it is. */
async function readMark(node: string): Promise<string> {
  for (;;) {
    const { metadata } = (await send("GET", `/api/v1/nodes/${node}`)) as {
      metadata: { annotations?: Record<string, string> };
    };
    const mark = metadata.annotations?.["twinrun.dev/maintenance"];
    if (mark !== undefined) {
      return (JSON.parse(mark) as { readonly since: string }).since;
    }
    await sleep(50);
  }
}

(remedy === undefined ? describe : describe.skip)("kubectl twinrun", () => {
  beforeAll(async () => {
    plane = await startControlPlane();
    bin = mkdtempSync(join(tmpdir(), "twinrun-bin-"));
    for (const name of ["kubectl-twinrun", "kubectl_complete-twinrun"]) {
      symlinkSync(join(root, `src/main/${name}.sh`), join(bin, name));
    }
    kubelet = await startKubelet();
    for (const name of ["shop", "twinrun", "twinrun-guests", "kubevirt"]) {
      await send("POST", "/api/v1/namespaces", { metadata: { name } });
    }
  }, startMsMax);

  afterAll(async () => {
    (kubelet as Server | undefined)?.close();
    await (plane as ControlPlane | undefined)?.stop();
    rmSync(bin, { recursive: true, force: true });
  }, startMsMax);

  test("says that Twinrun is missing before it is installed, and doctor what to do", async () => {
    const status = await twinrun("status", "-n", "shop");
    expect(status).toMatchObject({ status: 1, out: "" });
    expect(status.said).toContain("this cluster has no protectedvms (twinrun.dev/v1alpha1): install Twinrun");
    const doctor = await twinrun("doctor");
    expect(doctor.status).toBe(1);
    expect(doctor.out).toMatch(
      /FAIL {2}CustomResources: missing: protectedvms[.]twinrun[.]dev, guestpairs[.]twinrun[.]dev/,
    );
    expect(doctor.out).toMatch(/-> install Twinrun: helm upgrade --install twinrun/);
    expect(doctor.out).toMatch(/FAIL {2}KubeVirt: there is no KubeVirt/);
  });

  describe("with Twinrun and KubeVirt installed", () => {
    beforeAll(async () => {
      spawnSync(findPrograms(["kubectl"]).get("kubectl") ?? "", ["apply", "--server-side", "-f", "crds/"], {
        ...{ env: environment(), cwd: root },
      });
      await defineOpen("kubevirts", "KubeVirt");
      await defineOpen("virtualmachines", "VirtualMachine");
      await defineOpen("virtualmachineinstances", "VirtualMachineInstance");
      expect(await kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")).toMatchObject({
        status: 0,
      });
      await waitUntilServed(pairPath);
      await waitUntilServed("/apis/kubevirt.io/v1/namespaces/shop/virtualmachineinstances");
      await createInstallation();
      await createVirtualMachine("web", {});
      await send("POST", vmPath, buildProtectedVm());
      await setStatus(`${vmPath}/web`, buildProtectedVm({}, calmStatus));
      const pair = { ...buildGuestPair(), metadata: { name: "web-0a1b2c3d", namespace: "twinrun" } };
      await send("POST", pairPath, pair);
      const sides = [
        buildReportedSide("node-a", buildReport({ primaryNode: "node-a" })),
        buildReportedSide("node-b", buildReport({ role: "standby", primaryNode: "node-a" })),
      ];
      await setStatus(`${pairPath}/web-0a1b2c3d`, { ...pair, status: { sides } });
      await createEvent("Protected", "the standby on node-b is in sync");
    }, startMsMax);

    test("status is a table, JSON as kubectl's, YAML or names", async () => {
      const table = await twinrun("status", "-A");
      expect(table).toMatchObject({ status: 0, said: "" });
      const [heads = "", row = "", ...more] = table.out.split("\n");
      expect(heads.split(/ {2,}/)).toEqual([
        ...["NAMESPACE", "NAME", "READY", "REASON", "PRIMARY", "STANDBY", "IN-SYNC", "LAST-FAILOVER", "AGE"],
      ]);
      expect(row).toMatch(/^shop +web +True +Protected +node-a +node-b +yes +never +[0-9ms]+$/);
      expect(more).toEqual([""]);
      expect(table.out).not.toContain("\u001b");
      const list = JSON.parse((await twinrun("status", "-n", "shop", "-o", "json")).out) as { items: Json[] };
      expect(list.items).toHaveLength(1);
      expect(JSON.parse((await twinrun("-n", "shop", "status", "web", "-o=json")).out)).toMatchObject({
        ...{ kind: "ProtectedVM", metadata: { name: "web" }, status: { term: 3 } },
      });
      expect((await twinrun("status", "web", "-n", "shop", "-o", "yaml")).out).toContain("\nkind: ProtectedVM\n");
      expect((await twinrun("status", "-n", "shop", "-o", "name")).out).toBe("protectedvm.twinrun.dev/web\n");
      expect((await twinrun("status")).said).toContain(
        "No protected VMs in namespace default; -A shows all namespaces",
      );
      const missing = await twinrun("status", "wob", "-n", "shop");
      expect(missing).toMatchObject({ status: 1, out: "" });
      expect(missing.said).toContain("there is no ProtectedVM wob in namespace shop");
    });

    test("status --watch shows a change once", async () => {
      const child = spawn(join(bin, "kubectl-twinrun"), ["status", "-n", "shop", "-w"], { env: environment() });
      let out = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
      const ended = new Promise((resolve) => child.once("close", resolve));
      try {
        await waitFor(() => out.includes("node-a"));
        const conditions = [condition("Ready", "False", "Synchronising", "copying"), ...calmStatus.conditions.slice(1)];
        await setStatus(`${vmPath}/web`, buildProtectedVm({}, { ...calmStatus, conditions }));
        await waitFor(() => out.includes("Synchronising"));
        await setStatus(`${vmPath}/web`, buildProtectedVm({}, calmStatus));
        await waitFor(() => out.trimEnd().split("\n").length === 4);
      } finally {
        child.kill("SIGINT");
        await ended;
      }
      const lines = out.trimEnd().split("\n");
      expect(lines.map((line) => line.indexOf("node-a")).slice(1)).toEqual([
        lines[0]?.indexOf("PRIMARY"),
        expect.anything(),
        expect.anything(),
      ]);
    });

    test("describe shows what all of them say", async () => {
      const { out, status } = await twinrun("describe", "web", "-n", "shop");
      expect(status).toBe(0);
      expect(out).toMatch(/^Name: +web$/m);
      expect(out).toMatch(/^Primary: +node-a \(VirtualMachineInstance shop\/web\)$/m);
      expect(out).toMatch(/^ {2}Ready +True +.*Protected +the standby on node-b is in sync$/m);
      expect(out).toMatch(/^ {4}Role: +standby \(protected\), term 3, checkpoint 41$/m);
      expect(out).toMatch(/Normal +Protected +protectedvm\/web +the standby on node-b is in sync$/m);
    });

    test("events are those of the ProtectedVM alone, oldest first", async () => {
      await createEvent("Other", "of somebody else", "other");
      await createEvent("SwitchedOver", "the guest runs on node-a");
      const { out } = await twinrun("events", "web", "-n", "shop");
      expect(out).toMatch(
        /^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n.*Protected.*\n.*SwitchedOver.*the guest runs on node-a\n$/,
      );
    });

    test("protect checks first, and says each obstacle with its remedy", async () => {
      await createVirtualMachine("gamer", {
        domain: { devices: { gpus: [{ name: "a" }], filesystems: [{ name: "b", virtiofs: {} }] } },
        volumes: [{ name: "system", persistentVolumeClaim: { claimName: "gone" } }],
      });
      const refused = await twinrun("protect", "gamer", "-n", "shop", "--nodes", "node-a,node-c");
      expect(refused).toMatchObject({ status: 3, out: "" });
      expect(refused.said).toContain(
        "spec.template.spec.domain.devices.gpus of the VM: the state of a passed-through device",
      );
      expect(refused.said).toContain("-> remove filesystems; use a disk");
      expect(refused.said).toContain("spec.placement.nodes names node-c, and there is no such node");
      expect(refused.said).toContain("there is no volume gone in namespace shop");
      expect(refused.said).toContain("nothing was made: 4 to mend first");
      const nowhere = await twinrun("protect", "gamer", "-n", "shop");
      expect(nowhere).toMatchObject({ status: 2 });
      expect(nowhere.said).toContain("protect needs --nodes A,B or --selector KEY=VALUE; fit are: node-a, node-b");
      const twice = await twinrun("protect", "web", "-n", "shop", "--nodes", "node-a,node-b");
      expect(twice).toMatchObject({ status: 3 });
      expect(twice.said).toContain("VirtualMachine web is protected by ProtectedVM web already");
      expect((await twinrun("protect", "nobody", "-n", "shop", "--nodes", "a,b")).said).toContain(
        "there is no VirtualMachine nobody",
      );
    });

    test("protect makes a ProtectedVM, after a dry run that makes none; unprotect takes it away", async () => {
      await createVirtualMachine("db", {});
      const args = ["db", "-n", "shop", "--nodes", "node-b,node-a", "--max-added-latency", "80ms", "--allow-restart"];
      const dry = await twinrun("protect", ...args, "--dry-run");
      expect(dry).toMatchObject({ status: 0 });
      expect(dry.out).toContain("maxAddedLatencyMs: 80");
      expect((await plane.admin.send("GET", `${vmPath}/db`)).status).toBe(404);
      const made = await twinrun("protect", ...args);
      expect(made).toMatchObject({ status: 0, out: "protectedvm.twinrun.dev/db created\n" });
      expect(await send("GET", `${vmPath}/db`)).toMatchObject({
        metadata: { annotations: { "twinrun.dev/allow-restart": "true" } },
        spec: { virtualMachineRef: { name: "db" }, placement: { nodes: ["node-b", "node-a"] } },
      });
      const unconfirmed = await twinrun("unprotect", "db", "-n", "shop");
      expect(unconfirmed).toMatchObject({ status: 3 });
      expect(unconfirmed.said).toContain("VirtualMachine db runs on where it is, unprotected");
      expect(unconfirmed.said).toContain("give --yes");
      const gone = await twinrun("unprotect", "db", "-n", "shop", "--yes");
      expect(gone).toMatchObject({ status: 0 });
      expect(gone.out).toContain("db is not protected any more");
    });

    test("protect --wait tells what happens until it is ready", async () => {
      await createVirtualMachine("mail", {});
      const waiting = twinrun("protect", "mail", "-n", "shop", "--selector", "kubevirt.io/schedulable=true", "--wait");
      await waitFor(async () => (await plane.admin.send("GET", `${vmPath}/mail`)).status === 200);
      const object = { ...buildProtectedVm(), metadata: { name: "mail" } };
      await setStatus(`${vmPath}/mail`, {
        ...object,
        status: { conditions: [condition("Ready", "False", "Creating", "volumes are being made")] },
      });
      await sleep(500);
      await setStatus(`${vmPath}/mail`, { ...object, status: { conditions: [ready] } });
      const { status, said } = await waiting;
      expect(status).toBe(0);
      expect(said).toContain("volumes are being made\n");
      await send("DELETE", `${vmPath}/mail`);
    });

    test("switchover writes the annotation and waits until the sides have changed", async () => {
      const asked = answerRequest("twinrun.dev/switchover-to", async () => {
        const status = { ...calmStatus, primary: side("node-b"), standby: side("node-a") };
        await setStatus(`${vmPath}/web`, buildProtectedVm({}, status));
      });
      expect(await twinrun("switchover", "web", "-n", "shop")).toMatchObject({
        status: 0,
        out: "the guest runs on node-b\n",
      });
      expect(await asked).toBe("node-b");
      expect((await twinrun("switchover", "web", "-n", "shop", "--to", "node-b")).out).toBe(
        "the guest runs on node-b already\n",
      );
      expect(await twinrun("switchover", "web", "-n", "shop", "--to", "node-z")).toMatchObject({ status: 2 });
    });

    test("switchover says why the operator refused", async () => {
      const asked = answerRequest("twinrun.dev/switchover-to", () =>
        createEvent("SwitchoverRefused", "the standby is not in sync"),
      );
      const refused = await twinrun("switchover", "web", "-n", "shop", "--to", "node-a");
      expect(await asked).toBe("node-a");
      expect(refused).toMatchObject({ status: 3, out: "" });
      expect(refused.said).toContain("refused by the operator: the standby is not in sync");
    });

    test("switchover that nobody answers ends in time and says how to take it back", async () => {
      const late = await twinrun("switchover", "web", "-n", "shop", "--to", "node-a", "--timeout", "1500ms");
      expect(late).toMatchObject({ status: 4 });
      expect(late.said).toContain("take it back with: kubectl annotate pvm -n shop web twinrun.dev/switchover-to-");
      expect(await kubectl("annotate", "pvm", "-n", "shop", "web", "twinrun.dev/switchover-to-")).toMatchObject({
        status: 0,
      });
    });

    test("failover asks first, and tells how long the guest stood still", async () => {
      expect(await twinrun("failover", "web", "-n", "shop")).toMatchObject({ status: 3 });
      const lastFailover = { cause: "asked for", at: "2026-01-31T08:30:00Z", durationMs: 35, epoch: 41 };
      const asked = answerRequest("twinrun.dev/failover-from", async () => {
        await setStatus(`${vmPath}/web`, buildProtectedVm({}, { ...calmStatus, lastFailover }));
      });
      const done = await twinrun("failover", "web", "-n", "shop", "--yes");
      expect(done).toMatchObject({ status: 0, out: "the guest runs on node-a; it stood still for 35 ms\n" });
      expect(await asked).toBe("node-b");
    });

    test("maintenance marks and cordons a node, waits for the operator, and undoes it", async () => {
      const refused = await twinrun("maintenance", "node-b", "begin");
      expect(refused).toMatchObject({ status: 3 });
      expect(refused.said).toContain("nothing was done: this has to be confirmed");
      const settle = (async (): Promise<void> => {
        const since = await readMark("node-b");
        const annotations = { "twinrun.dev/settled-for": `node-b@${since}`, "twinrun.dev/protected-vm": "shop/web" };
        await send("PATCH", `${pairPath}/web-0a1b2c3d`, { metadata: { annotations } }, "application/merge-patch+json");
      })();
      const begun = await twinrun("maintenance", "node-b", "begin", "--yes", "--reason", "new memory");
      await settle;
      expect(begun).toMatchObject({
        status: 0,
        out: "node-b may be switched off now; unprotected until it is back: shop/web\n",
      });
      const node = await send("GET", "/api/v1/nodes/node-b");
      expect(node).toMatchObject({ spec: { unschedulable: true } });
      const other = await twinrun("maintenance", "node-a", "begin", "--yes");
      expect(other).toMatchObject({ status: 3, out: "" });
      expect(other.said).toContain("kubectl twinrun maintenance node-b end");
      const status = await twinrun("maintenance", "node-b", "status");
      expect(status.out).toMatch(/^node-b is in maintenance since .*, by .+: new memory\nGUEST /);
      expect(JSON.parse((await twinrun("maintenance", "node-b", "status", "-o", "json")).out)).toMatchObject({
        ...{ node: "node-b", mayBeSwitchedOff: true, maintenance: { reason: "new memory", wasCordoned: false } },
        guests: [{ guest: "shop/web", here: "standby", runsOn: "node-a" }],
      });
      expect(await twinrun("maintenance", "node-b", "end")).toMatchObject({
        status: 0,
        out: "node-b works again, and every guest with a side there is protected\n",
      });
      expect(await twinrun("maintenance", "node-b", "end")).toMatchObject({ out: "node-b is not in maintenance\n" });
      const after = await send("GET", "/api/v1/nodes/node-b");
      expect(after["spec"]).not.toHaveProperty("unschedulable");
      expect(await twinrun("maintenance", "node-z", "status")).toMatchObject({ status: 1 });
      expect(await twinrun("maintenance", "node-b", "stop")).toMatchObject({ status: 2 });
    });

    test("an override needs a reason and a word, says who asks, and ends with the operator's", async () => {
      const force = ["failover", "web", "-n", "shop", "--force-owner", "node-a"];
      expect(await twinrun(...force, "--yes")).toMatchObject({ status: 2 });
      const because = [...force, "--reason", "the other site burnt down"];
      const unasked = await twinrun(...because);
      expect(unasked).toMatchObject({ status: 3 });
      expect(unasked.said).toContain("TWO GUESTS ARE SEEN BY CLIENTS");
      const annotation = "twinrun.dev/force-owner";
      const refusing = answerRequest(annotation, () => createEvent("OverrideRefused", "node-b may run the guest"));
      const refused = await twinrun(...because, "--yes");
      expect(refused).toMatchObject({ status: 3, out: "" });
      expect(refused.said).toContain("refused by the operator: node-b may run the guest");
      expect(JSON.parse(await refusing)).toMatchObject({ node: "node-a", isCertain: false });
      const asked = answerRequest(annotation, () => createEvent("OwnerForced", "somebody made node-a the owner"));
      const done = await twinrun(...because, "--yes", "--i-know-the-other-side-is-down");
      expect(done).toMatchObject({ status: 0, out: expect.stringContaining("node-a owns the guest now") });
      expect(JSON.parse(await asked)).toMatchObject({
        ...{ node: "node-a", why: "the other site burnt down", isCertain: true },
        who: expect.stringMatching(/./),
      });
    });

    test("doctor finds nothing to mend, and warns of what is less than it could be", async () => {
      const { out, status } = await twinrun("doctor", "-o", "wide");
      expect({ status, failures: out.match(/FAIL.*/g) }).toEqual({ status: 0, failures: null });
      expect(out).toMatch(
        /WARN {2}QuorumStore: the quorum keeps its records in Leases: a failover waits while the API server is away/,
      );
      expect(out).toMatch(/ok {4}NodeFit: Ready, schedulable, and its agent is Ready/);
      expect(out).toMatch(/WARN {2}QuorumPlaces: every replica of the quorum is on node-a or node-b/);
      expect(out).toMatch(/ok {4}HookAdmission: the feature gate Sidecar is on/);
    });

    test("doctor exits with 1 for what must be mended, and tells programs", async () => {
      await setStatus(
        `${vmPath}/web`,
        buildProtectedVm(
          {},
          { ...calmStatus, conditions: [condition("Stalled", "True", "NodesMissing", "node-b is gone: add one")] },
        ),
      );
      const { out, status } = await twinrun("doctor", "web", "-n", "shop", "-o", "json");
      const report = JSON.parse(out) as { healthy: boolean; findings: Json[] };
      expect({ status, healthy: report.healthy }).toEqual({ status: 1, healthy: false });
      expect(report.findings).toContainEqual({
        ...{ subject: "ProtectedVM shop/web", level: "failure", check: "Stalled" },
        message: "NodesMissing: node-b is gone: add one",
      });
      await setStatus(`${vmPath}/web`, buildProtectedVm({}, calmStatus));
    });

    test("faults shows what failed with what to do, and clear asks the operator", async () => {
      const record = buildSeenFault({ state: "Isolated" });
      await setStatus(`${vmPath}/web`, buildProtectedVm({}, { ...calmStatus, faults: [record] }));
      const table = await twinrun("faults", "-A");
      expect(table.out).toMatch(
        /^NAMESPACE +NAME +NODE +COMPONENT +STATE +FAULT +COUNT +LAST SEEN +REPAIRED +MESSAGE$/m,
      );
      expect(table.out).toMatch(/^shop +web +node-a +disk[/]system +Isolated +DiskFailed +2 .* write failed: EIO$/m);
      expect(table.out).toContain("then kubectl twinrun faults clear web node-a/disk/system -n shop");
      const list = JSON.parse((await twinrun("faults", "web", "-n", "shop", "-o", "json")).out) as { faults: Json[] };
      expect(list.faults).toEqual([{ namespace: "shop", protectedVm: "web", ...record }]);
      expect((await twinrun("describe", "web", "-n", "shop")).out).toMatch(/^Faults:\n +NODE +COMPONENT/m);
      const unasked = await twinrun("faults", "clear", "web", "-n", "shop");
      expect(unasked.status).toBe(3);
      expect(unasked.said).toContain("nothing was done: this has to be confirmed");
      const wrong = await twinrun("faults", "clear", "web", "roof", "-n", "shop", "--yes");
      expect(wrong.said).toContain("web has no roof to clear: what failed of it is node-a/disk/system");
      const answer = answerRequest("twinrun.dev/clear-faults", () => createEvent("FaultsCleared", "used again"));
      const cleared = await twinrun("faults", "clear", "web", "node-a/disk/system", "-n", "shop", "--yes");
      expect(cleared).toMatchObject({ status: 0, out: "what failed before does not count any more\n" });
      expect(await answer).toBe("node-a/disk/system");
      const typed = ["faults", "clear", "-n", "shop", "web", ""];
      expect((await kubectl("__complete", "twinrun", ...typed)).out).toContain("node-a/disk/system\n");
      await setStatus(`${vmPath}/web`, buildProtectedVm({}, calmStatus));
      expect((await twinrun("faults", "-n", "shop")).said).toContain("Nothing has failed in namespace shop");
    });

    test("logs makes a tar of objects, events and logs, without any secret", async () => {
      const directory = mkdtempSync(join(tmpdir(), "twinrun-bundle-"));
      try {
        const made = await twinrun("logs", "-f", join(directory, "a.tar"));
        expect(made).toMatchObject({ status: 0, out: "" });
        const tar = (...args: string[]): string => spawnSync("tar", args, { cwd: directory, encoding: "utf8" }).stdout;
        const names = tar("-tf", "a.tar").trimEnd().split("\n");
        const find = (end: string): string => names.find((name) => name.endsWith(end)) ?? `nothing ends in ${end}`;
        const read = (end: string): string => tar("-xOf", "a.tar", find(end));
        expect(read("objects/protectedvms/shop/web.yaml")).toContain("kind: ProtectedVM");
        expect(read("objects/guestpairs/twinrun/web-0a1b2c3d.yaml")).toContain("kind: GuestPair");
        expect(read("objects/nodes/node-a.yaml")).toContain("kernelVersion: 6.12.0");
        expect(read("logs/twinrun/twinrun-agent-a/agent.log")).toContain(
          "the log of /containerLogs/twinrun/twinrun-agent-a/agent",
        );
        expect(read("doctor.txt")).toContain("QuorumStore");
        expect(read("faults.txt")).toContain("NAMESPACE   NAME   NODE   COMPONENT");
        const everything = names.map((name) => tar("-xOf", "a.tar", name)).join("\n");
        for (const secret of ["hunter2", "the-private-key-of-all", "eyJhbGciOiJIUzI1NiJ9", "kind: Secret"]) {
          expect(everything).not.toContain(secret);
        }
      } finally {
        rmSync(directory, { recursive: true });
      }
    });

    test("version names what runs in the cluster", async () => {
      const { out } = await twinrun("version", "-o", "json");
      expect(JSON.parse(out)).toMatchObject({ kubevirt: "v1.9.0", operator: `0.1.0 (${image})` });
    });

    test("kubectl and shells are told what could come next", async () => {
      const completed = await kubectl("__complete", "twinrun", "switchover", "-n", "shop", "");
      expect(completed.out.split("\n")).toContain("web");
      expect((await kubectl("__complete", "twinrun", "sw")).out).toContain("switchover\t");
      expect((await kubectl("__complete", "twinrun", "switchover", "web", "--to", "node-")).out).toMatch(
        /node-a\nnode-b\n/,
      );
    });

    test("kubectl lists it as a plugin", async () => {
      expect((await kubectl("plugin", "list")).out).toContain(join(bin, "kubectl-twinrun"));
    });

    test("who may read only the own namespace is told what is not shown", async () => {
      await send("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings", {
        metadata: { name: "tenant" },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "tenant" },
        subjects: [{ kind: "User", name: "tenant", apiGroup: "rbac.authorization.k8s.io" }],
      });
      await send("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles", {
        metadata: { name: "tenant" },
        rules: [
          { apiGroups: ["twinrun.dev"], resources: ["protectedvms"], verbs: ["get", "list", "watch"] },
          { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["get", "list", "watch"] },
        ],
      });
      const certificate = await plane.authority.issue({ name: "tenant", subject: "/CN=tenant" });
      const kubeconfig = plane.writeKubeconfig("tenant", certificate);
      const tenant = ["--kubeconfig", kubeconfig, "-n", "shop"];
      const described = await twinrun("describe", "web", ...tenant);
      expect(described).toMatchObject({ status: 0 });
      expect(described.out).toMatch(/Agents' reports:\n {2}not shown: .*guestpairs/);
      expect(described.out).toContain("the standby on node-b is in sync");
      const all = await twinrun("status", "-A", "--kubeconfig", kubeconfig);
      expect(all).toMatchObject({ status: 5, out: "" });
      expect(all.said).toContain('User "tenant" cannot list resource "protectedvms"');
      const doctor = await twinrun("doctor", ...tenant);
      expect(doctor.out).toMatch(/\? {5}FitNodes: the list of nodes: .*forbidden/);
    });
  });

  test("says that no server answers, and exits with 5", async () => {
    const kubeconfig = join(bin, "nowhere.kubeconfig");
    spawnSync("sh", ["-c", `sed 's#https://[^"]*#https://127.0.0.1:1#' "$0" > "$1"`, plane.kubeconfigPath, kubeconfig]);
    const nowhere = await twinrun("status", "--kubeconfig", kubeconfig);
    expect(nowhere).toMatchObject({ status: 5, out: "" });
    expect(nowhere.said).toContain("the API server at 127.0.0.1:1 cannot be reached");
    expect(await twinrun("version", "--client", "--kubeconfig", kubeconfig)).toMatchObject({ status: 0 });
  });
});

/** Only what the API server asks for a pod's log. */
async function startKubelet(): Promise<Server> {
  const { certPath, keyPath } = await plane.authority.issue({
    name: "kubelet",
    subject: "/CN=kubelet",
    hosts: ["127.0.0.1"],
  });
  const server = createServer({ cert: readFileSync(certPath), key: readFileSync(keyPath) }, (request, answer) => {
    const path = (request.url ?? "").split("?")[0] ?? "";
    answer.end(`the log of ${path}\nauthorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl\n`);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  return server;
}

async function waitUntilServed(path: string): Promise<void> {
  await waitFor(async () => (await plane.admin.send("GET", path)).status === 200);
}

async function waitFor(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; !(await holds()); waitedMs += 50) {
    expect(waitedMs).toBeLessThan(60_000);
    await sleep(50);
  }
}
