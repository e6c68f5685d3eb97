/** src/kube in front of a real API server. */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { Cluster } from "../../../src/kube/cluster.ts";
import { EventRecorder } from "../../../src/kube/event-recorder.ts";
import { hasKubeCode, KubeFailure } from "../../../src/kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { type Change, Reflector } from "../../../src/kube/reflector.ts";
import { buildReport } from "../../build/engine-report.ts";
import { buildReportedSide } from "../../build/guest-pair-rows.ts";
import { buildGuestPair } from "../../build/resources.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";

const root = join(import.meta.dirname, "../../..");
const startMsMax = 180_000;

type ConfigMap = KubeObject & { readonly data?: Readonly<Record<string, string>> };
const configMaps = kindOf("v1", "ConfigMap");
const configMap = (name: string, data: Record<string, string> = {}): ConfigMap => ({
  ...{ apiVersion: "v1", kind: "ConfigMap", data },
  metadata: { name, namespace: "default", labels: { app: name } },
});
const podCommand = { namespace: "default", pod: "missing", container: "c", command: ["true"] };
const refOf = (name: string) => ({ kind: configMaps, namespace: "default", name });

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; !(await holds()); waitedMs += 10) {
    expect(waitedMs).toBeLessThan(30_000);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const codeOf = async (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "none",
    (error: unknown) => (error instanceof KubeFailure ? error.detail.code : String(error)),
  );

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("src/kube in front of a real API server", () => {
  let plane: ControlPlane;
  let cluster: Cluster;

  beforeAll(async () => {
    plane = await startControlPlane();
    cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
  }, startMsMax);

  afterAll(async () => {
    cluster.close();
    await plane.stop();
  }, startMsMax);

  test("an object is made, read, applied, patched, replaced and removed", async () => {
    const made = await cluster.create(configMap("a", { one: "1" }));
    expect(await cluster.read<ConfigMap>(refOf("a"))).toEqual(made);
    expect(await codeOf(cluster.create(configMap("a")))).toBe("AlreadyExists");
    const applied = await cluster.apply(configMap("a", { two: "2" }), "twinrun-test");
    expect(applied.data).toEqual({ one: "1", two: "2" });
    expect(await codeOf(cluster.apply(configMap("a", { one: "9" }), "other", { force: false }))).toBe("Conflict");
    const patched = await cluster.patch<ConfigMap>(refOf("a"), { data: { one: null } });
    expect(patched.data).toEqual({ two: "2" });
    expect(await codeOf(cluster.replace(made))).toBe("Conflict");
    const replaced = await cluster.replace({ ...patched, data: {} });
    expect(replaced.data).toBeUndefined();
    expect(await codeOf(cluster.remove(refOf("a"), { uid: "another" }))).toBe("Conflict");
    await cluster.remove(refOf("a"), { uid: replaced.metadata.uid });
    await cluster.remove(refOf("a"));
    expect(await cluster.read(refOf("a"))).toBeUndefined();
  });

  test("what the server refuses has a code and names the field", async () => {
    const failure: unknown = await cluster.create(configMap("Bad_Name")).catch((error: unknown) => error);
    expect(hasKubeCode(failure, "Refused")).toBe(true);
    expect(failure).toMatchObject({ detail: { fields: [{ field: "metadata.name" }] } });
    expect(await codeOf(cluster.create({ apiVersion: "no.such/v1", kind: "A", metadata: { name: "a" } }))).toBe(
      "NotFound",
    );
  });

  test("a list is paged and a reflector follows", async () => {
    await Promise.all(Array.from({ length: 20 }, (_, index) => cluster.create(configMap(`many-${index}`))));
    const pages: number[] = [];
    await cluster.listPages({ kind: configMaps, namespace: "default", pageSize: 7 }, ({ items }) =>
      pages.push(items.length),
    );
    expect(pages).toEqual([7, 7, 6]);
    const changes: Change<ConfigMap>[] = [];
    const reflector = new Reflector<ConfigMap>({
      ...{ cluster, kind: configMaps, scope: { namespace: "default" } },
      indexes: { app: ({ metadata }) => [metadata.labels?.["app"] ?? ""] },
    });
    reflector.onChange((change) => changes.push(change));
    reflector.start();
    try {
      await reflector.synced();
      expect(reflector.size).toBe(20);
      await cluster.create(configMap("later"));
      await until(() => reflector.listBy("app", "later").length === 1);
      await cluster.remove(refOf("later"));
      await until(() => reflector.get("default/later") === undefined);
      expect(reflector.listBy("app", "later")).toEqual([]);
      expect(changes.slice(20).map(({ key, after }) => [key, after === undefined])).toEqual([
        ["default/later", false],
        ["default/later", true],
      ]);
    } finally {
      await reflector.stop();
    }
  });

  test("fields of a custom resource's status belong to whoever applied them, and only the status is written", async () => {
    const pair = buildGuestPair();
    const { namespace } = pair.metadata as { namespace: string };
    await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }, "twinrun-operator");
    for (const name of ["guestpairs", "protectedvms"]) {
      await cluster.apply(
        parse(readFileSync(join(root, `crds/${name}.yaml`), "utf8")) as KubeObject,
        "twinrun-operator",
      );
    }
    const pairs = kindOf("twinrun.dev/v1alpha1", "GuestPair");
    await until(() => cluster.hasResource(pairs));
    const made = await cluster.create(pair as unknown as KubeObject);
    const intent = (node: string, state = "protected"): KubeObject & { status: object } => ({
      ...{ apiVersion: made.apiVersion, kind: made.kind, metadata: { name: made.metadata.name, namespace } },
      status: { sides: [{ ...buildReportedSide(node, buildReport()), state }] },
    });
    const first = await cluster.applyStatus(intent("node-a"), "twinrun-agent-node-a");
    const second = await cluster.applyStatus(intent("node-b"), "twinrun-agent-node-b");
    expect(first.status).toMatchObject({ sides: [{ node: "node-a" }] });
    expect(second.status).toMatchObject({ sides: [{ node: "node-a" }, { node: "node-b" }] });
    expect(second.metadata.generation).toBe(made.metadata.generation);
    const again = await cluster.applyStatus(intent("node-b"), "twinrun-agent-node-b");
    expect(again.metadata.resourceVersion).toBe(second.metadata.resourceVersion);
    const conflict: unknown = await cluster
      .applyStatus(intent("node-b", "synchronising"), "somebody", { force: false })
      .catch((error: unknown) => error);
    expect(hasKubeCode(conflict, "Conflict")).toBe(true);
    expect(String(conflict)).toContain("twinrun-agent-node-b");
    const gone = await cluster.applyStatus({ ...intent("node-b"), status: {} } as KubeObject, "twinrun-agent-node-b");
    expect((gone as { status?: unknown }).status).toMatchObject({ sides: [{ node: "node-a" }] });
    expect(
      await codeOf(
        cluster.applyStatus({ ...intent("node-a"), metadata: { name: "missing", namespace } }, "twinrun-agent-node-a"),
      ),
    ).toBe("NotFound");
  });

  test("a certificate is asked for, approved and signed through subresources", async () => {
    const requests = kindOf("certificates.k8s.io/v1", "CertificateSigningRequest");
    type Request = KubeObject & { readonly spec: object; readonly status?: { readonly certificate?: string } };
    const pem = execFileSync("openssl", [
      ...["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
      ...["-subj", "/CN=node-a", "-keyout", "/dev/null"],
    ]);
    const spec = { request: pem.toString("base64"), signerName: "twinrun.dev/node", usages: ["client auth"] };
    const metadata = { name: "node-a" };
    const made = await cluster.create<Request>({
      apiVersion: requests.apiVersion,
      kind: requests.kind,
      metadata,
      spec,
    });
    const ref = { kind: requests, name: "node-a" };
    const condition = { type: "Approved", status: "True", reason: "ByOperator", message: "It is an agent's." };
    const approved = await cluster.putSubresource<Request>(ref, "approval", {
      ...made,
      status: { conditions: [condition] },
    });
    const certificate = readFileSync(plane.authority.certPath).toString("base64");
    const status = { ...approved?.status, certificate };
    await cluster.putSubresource<Request>(ref, "status", { ...approved, status });
    expect((await cluster.read<Request>(ref))?.status?.certificate).toBe(certificate);
  });

  test("events are written in series, and what cannot be written hurts nobody", async () => {
    const regarding = await cluster.create(configMap("told"));
    const recorder = new EventRecorder({ cluster, controller: "twinrun.dev/operator", instance: "pod-1" });
    const event = { regarding, reason: "FailedOver", action: "Failover", type: "Warning" } as const;
    for (let count = 0; count < 3; count += 1) {
      recorder.record({ ...event, note: "node-a is silent" });
    }
    recorder.record({ ...event, note: "é".repeat(2_000) });
    const elsewhere = { ...regarding.metadata, namespace: "nowhere", uid: "u" };
    recorder.record({ ...event, regarding: { ...regarding, metadata: elsewhere }, note: "lost" });
    await recorder.stop(10_000);
    type Event = KubeObject & { readonly note: string; readonly series?: { readonly count: number } };
    const { items } = await cluster.list<Event>(kindOf("events.k8s.io/v1", "Event"), { namespace: "default" });
    const told = items.filter(({ metadata }) => metadata.name.startsWith("told."));
    expect(told.map(({ note, series }) => [note.length, series?.count]).sort()).toEqual([
      [16, 2],
      [499, undefined],
    ]);
    expect(told[0]).toMatchObject({ reportingController: "twinrun.dev/operator", type: "Warning" });
    expect(recorder.droppedCount).toBe(1);
    recorder.record({ ...event, note: "too late" });
  });

  test("a command in a pod that is not there is refused like any other request, and is not begun in vain", async () => {
    expect(await codeOf(cluster.openPodStream(podCommand))).toBe("NotFound");
    expect(await codeOf(cluster.openPodStream(podCommand, { signal: AbortSignal.abort() }))).toBe("Aborted");
  });

  test("an account without rights is Forbidden, one without a token Unauthorized", async () => {
    const other = await plane.authority.issue({ name: "nobody", subject: "/CN=nobody" });
    const nobody = Cluster.fromKubeconfig(plane.writeKubeconfig("nobody", other));
    expect(await codeOf(nobody.list(configMaps))).toBe("Forbidden");
    expect(await codeOf(nobody.openPodStream(podCommand))).toBe("Forbidden");
    nobody.close();
    const access = { server: new URL(plane.url), tls: { ca: readFileSync(plane.authority.certPath) } };
    const open = (tls: object, token: string): Cluster =>
      new Cluster({
        read: async () => ({ ...access, tls, headers: { authorization: `Bearer ${token}` } }),
        forget: () => undefined,
      });
    const stale = open(access.tls, "stale");
    expect(await codeOf(stale.list(configMaps))).toBe("Unauthorized");
    expect(await codeOf(stale.openPodStream(podCommand))).toBe("Unauthorized");
    stale.close();
    const distrustful = open({}, "t");
    expect(await codeOf(distrustful.list(configMaps))).toBe("Untrusted");
    expect(await codeOf(distrustful.openPodStream(podCommand))).toBe("Untrusted");
    distrustful.close();
  });
});
