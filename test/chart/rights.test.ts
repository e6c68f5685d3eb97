/**
 * The chart, installed by a real Helm on a real API server: what each service account may do and what it is refused, what the
 * policies keep people from, what removal leaves. There are no nodes, so nothing runs. Skipped, with a line that says how to mend
 * that, where the programs are missing.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type PeerIdentity } from "../../src/net/peer-identity.ts";
import { present } from "../../src/lib/assert.ts";
import { createAuthority, issueCertificate } from "../../src/net/pki.ts";
import { buildReportedSide } from "../build/guest-pair-rows.ts";
import { buildReport } from "../build/engine-report.ts";
import { buildGuestPair, buildProtectedVm } from "../build/resources.ts";
import { type ApiAnswer, applyPatch } from "../lab/kubernetes/api-client.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control-plane.ts";
import { findPrograms, findRemedy } from "../lab/kubernetes/programs.ts";
import { chartPath, type Json, parseObjects, renderChart, runHelm, systemNamespace } from "./chart.ts";
import { kubevirtCrds } from "./kubevirt-kinds.ts";
import { kustomizeBasePath } from "./kustomize.ts";

const remedy = findRemedy(["etcd", "kube-apiserver", "kube-controller-manager", "helm", "kubectl"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED in rights.test.ts: ${remedy}\n`);
}
const root = join(import.meta.dirname, "../..");
const startMsMax = 240_000;
const twinrun = "/apis/twinrun.dev/v1alpha1";
const pairs = `${twinrun}/namespaces/${systemNamespace}/guestpairs`;
const shop = "shop";
const vmis = (namespace: string): string => `/apis/kubevirt.io/v1/namespaces/${namespace}/virtualmachineinstances`;
const vms = `/apis/kubevirt.io/v1/namespaces/${shop}/virtualmachines`;
const replicaSets = `/apis/kubevirt.io/v1/namespaces/${shop}/virtualmachineinstancereplicasets`;
const leases = (namespace: string): string => `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
const migrations = `/apis/kubevirt.io/v1/namespaces/${shop}/virtualmachineinstancemigrations`;
const requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const jsonMergePatch = "application/merge-patch+json";

type Caller = { readonly user: string; readonly groups?: readonly string[]; readonly node?: string };
const account = (name: string, node?: string): Caller => ({
  user: `system:serviceaccount:${systemNamespace}:${name}`,
  ...(node === undefined ? {} : { node }),
});
const operator = account("twinrun-operator");
const agentOf = (node: string): Caller => account("twinrun-agent", node);
const quorum = account("twinrun-quorum");
const tenant: Caller = { user: "tenant" };
const administrator: Caller = { user: "root", groups: ["system:masters"] };
const virtController: Caller = {
  user: "system:serviceaccount:kubevirt:kubevirt-controller",
  groups: ["system:masters"],
};

const virtHandler: Caller = { user: "system:serviceaccount:kubevirt:kubevirt-handler", groups: ["system:masters"] };

let plane: ControlPlane;

type Call = { readonly body?: unknown; readonly type?: string };

/** A request as somebody else; RBAC and policies see only that one. */
function send(caller: Caller, method: string, path: string, { body, type }: Call = {}): Promise<ApiAnswer> {
  const headers: Record<string, string> = { "Impersonate-User": caller.user };
  for (const group of caller.groups ?? []) {
    headers["Impersonate-Group"] = group;
  }
  if (caller.node !== undefined) {
    headers["Impersonate-Extra-authentication.kubernetes.io%2fnode-name"] = caller.node;
  }
  return plane.admin.send(method, path, { body, headers, ...(type === undefined ? {} : { type }) });
}

async function ask(method: string, path: string, body?: unknown): Promise<Json> {
  const answer = await plane.admin.send(method, path, { body });
  expect({ path, ...answer, ok: answer.status < 300 }).toMatchObject({ path, ok: true });
  return answer.body as Json;
}

function expectDone(answer: ApiAnswer): void {
  expect({ ...answer, done: answer.status < 300 }).toMatchObject({ done: true });
}

function expectRefused(answer: ApiAnswer, says: string | RegExp): void {
  expect(answer).toMatchObject({ status: 403 });
  expect((answer.body as { readonly message: string }).message).toMatch(says);
}

const rbac = /cannot \w+ (resource|path)/;

function installChart(): void {
  const { status, stdout, stderr } = runHelm(
    ...["install", "twinrun", chartPath, "--namespace", systemNamespace, "--create-namespace"],
    ...["--kubeconfig", plane.kubeconfigPath, "--set", "quorum.store=lease"],
  );
  expect({ status, stdout, stderr }).toMatchObject({ status: 0 });
}

/** An agent's report, applied as agents do it. */
function report(caller: Caller, sides: readonly unknown[], more = ""): Promise<ApiAnswer> {
  const guest = "web";
  const body = { apiVersion: "twinrun.dev/v1alpha1", kind: "GuestPair", metadata: { name: guest }, status: { sides } };
  const manager = `twinrun-agent-${caller.node ?? "nowhere"}`;
  return send(caller, "PATCH", `${pairs}/${guest}/status?fieldManager=${manager}&force=true${more}`, {
    body,
    type: applyPatch,
  });
}

const sideA = buildReportedSide("node-a", buildReport());
const sideB = buildReportedSide("node-b", buildReport({ role: "standby" }));

const inSystem = (object: { readonly metadata: Json }): Json => ({
  ...object,
  metadata: { ...object.metadata, namespace: systemNamespace },
});

const guestMarks = {
  labels: { "twinrun.dev/guest": "web" },
  annotations: {
    "twinrun.dev/guest": "web",
    "twinrun.dev/started-as": "primary",
    "twinrun.dev/protected-vm": "shop/web",
  },
};
const vmi = (name: string, metadata: Json = {}): Json => ({
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachineInstance",
  metadata: { name, ...metadata },
  spec: {},
});
const vm = (name: string, metadata: Json = {}): Json => ({
  apiVersion: "kubevirt.io/v1",
  kind: "VirtualMachine",
  metadata: { name },
  spec: { runStrategy: "Manual", template: { metadata, spec: {} } },
});

/** Policies and their bindings take effect a moment after they were made. */
async function waitForPolicies(): Promise<void> {
  const probe = { user: "probe", groups: ["system:masters"] };
  for (;;) {
    const answers = await Promise.all([
      send(probe, "POST", `${vmis(shop)}?dryRun=All`, { body: vmi("probe", guestMarks) }),
      report(agentOf("node-z"), [{ ...sideA, node: "node-z" }], "&dryRun=All"),
      send(probe, "DELETE", `${crds}/protectedvms.twinrun.dev?dryRun=All`),
      send(probe, "POST", `${migrations}?dryRun=All`, {
        body: {
          apiVersion: "kubevirt.io/v1",
          kind: "VirtualMachineInstanceMigration",
          metadata: { name: "probe" },
          spec: { vmiName: "web-node-a" },
        },
      }),
    ]);
    if (answers.every(({ status }) => status === 403)) {
      return;
    }
    await sleep(200);
  }
}

(remedy === undefined ? describe : describe.skip)("the chart on a real API server", () => {
  beforeAll(async () => {
    plane = await startControlPlane({ with: ["kube-controller-manager"] });
    installChart();
    await ask("POST", "/api/v1/namespaces", { metadata: { name: shop } });
    for (const crd of kubevirtCrds) {
      await ask("POST", crds, crd);
    }
    while ((await plane.admin.send("GET", migrations)).status !== 200) {
      await sleep(100);
    }
    await ask("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings", {
      metadata: { name: "tenant" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "admin" },
      subjects: [{ apiGroup: "rbac.authorization.k8s.io", kind: "User", name: "tenant" }],
    });
    await ask("POST", pairs, inSystem(buildGuestPair()));
    await waitForPolicies();
  }, startMsMax);

  afterAll(async () => {
    await (plane as ControlPlane | undefined)?.stop();
  }, startMsMax);

  test("Helm finds nothing to change when it is applied again", () => {
    const before = renderChart({ quorum: { store: "lease" } });
    const { status, stderr } = runHelm(
      ...["upgrade", "twinrun", chartPath, "--namespace", systemNamespace, "--reuse-values"],
      ...["--kubeconfig", plane.kubeconfigPath],
    );
    expect({ status, stderr }).toMatchObject({ status: 0 });
    expect(renderChart({ quorum: { store: "lease" } })).toEqual(before);
  });

  test("says what to do in KubeVirt for the hook that was chosen", () => {
    const notes = (mode: string): string =>
      runHelm(
        ...["upgrade", "twinrun", chartPath, "--namespace", systemNamespace, "--dry-run=client", "--reuse-values"],
        ...["--kubeconfig", plane.kubeconfigPath, "--set", `hook.mode=${mode}`],
      ).stdout;
    expect(notes("Sidecar")).toContain("feature gate Sidecar");
    expect(notes("NetworkBinding")).toMatch(
      /kubectl patch kubevirt[^]*"sidecarImage":"docker.io\/twinrun\/twinrun-hook:/,
    );
  });

  test("the API server finds nothing wrong with the expressions of the policies", async () => {
    for (const name of [
      ...["agent-reports", "crd-deletion", "guest-devices", "guest-marks", "guest-migrations", "guest-snapshots"],
      ...["one-protection", "guest-records"],
    ]) {
      let policy: Json = {};
      do {
        policy = await ask("GET", `${policies}/twinrun-${name}`);
        await sleep(100);
      } while ((policy["status"] as Json)["observedGeneration"] === undefined);
      expect({
        name,
        warnings: (policy["status"] as { typeChecking?: Json }).typeChecking?.["expressionWarnings"],
      }).toEqual({
        name,
      });
    }
  });

  test("each account may do what rights.txt says, and nothing else", async () => {
    const accounts = { operator, agent: agentOf("node-a"), quorum, tenant };
    const lines: string[] = [];
    for (const [name, caller] of Object.entries(accounts)) {
      for (const namespace of [systemNamespace, "twinrun-guests", shop, "kube-system"]) {
        lines.push(`${name} in ${namespace}`, ...(await listRights(caller, namespace)).map((line) => `  ${line}`));
      }
    }
    const path = join(import.meta.dirname, "rights.txt");
    const text = `${lines.join("\n")}\n`;
    if (process.env["UPDATE"] === "1") {
      writeFileSync(path, text);
    }
    expect(text).toBe(readFileSync(path, "utf8"));
  });

  describe("an agent", () => {
    const agent = agentOf("node-a");

    test.each([
      ["lists GuestPairs", "GET", pairs],
      ["watches GuestPairs", "GET", `${pairs}?watch=1&timeoutSeconds=1`],
      ["lists the quorum's addresses", "GET", `/apis/discovery.k8s.io/v1/namespaces/${systemNamespace}/endpointslices`],
      ["reads requests for certificates", "GET", requests],
    ])("%s", async (_what, method, path) => {
      expectDone(await send(agent, method, path));
    });

    test("asks for a certificate, and does not grant it itself", async () => {
      const body = {
        metadata: { generateName: "twinrun-node-a-" },
        spec: {
          request: certificateRequest,
          signerName: "twinrun.dev/node",
          usages: ["digital signature", "client auth"],
        },
      };
      const made = await send(agent, "POST", requests, { body });
      expectDone(made);
      const { metadata } = made.body as { readonly metadata: { readonly name: string } };
      const condition = { type: "Approved", status: "True", reason: "Mine", message: "" };
      const granted = { ...(made.body as Json), status: { conditions: [condition] } };
      expectRefused(await send(agent, "PUT", `${requests}/${metadata.name}/approval`, { body: granted }), rbac);
      expectRefused(await send(agent, "PUT", `${requests}/${metadata.name}/status`, { body: granted }), rbac);
      expectDone(await send(operator, "PUT", `${requests}/${metadata.name}/approval`, { body: granted }));
    });

    test.each([
      ["GuestPairs elsewhere", "GET", `${twinrun}/namespaces/${shop}/guestpairs`],
      ["ProtectedVMs", "GET", `${twinrun}/protectedvms`],
      ["the Secrets of its namespace", "GET", `/api/v1/namespaces/${systemNamespace}/secrets`],
      ["the authority's key", "GET", `/api/v1/namespaces/${systemNamespace}/secrets/twinrun-ca`],
      ["another ConfigMap", "GET", `/api/v1/namespaces/${systemNamespace}/configmaps/other`],
      ["pods", "GET", `/api/v1/namespaces/${systemNamespace}/pods`],
      ["nodes", "GET", "/api/v1/nodes"],
      ["VirtualMachineInstances", "GET", vmis(shop)],
      ["Leases", "GET", `/apis/coordination.k8s.io/v1/namespaces/${systemNamespace}/leases`],
    ])("does not read %s", async (_what, method, path) => {
      expectRefused(await send(agent, method, path), rbac);
    });

    test("does not write a GuestPair's spec, nor make or delete one", async () => {
      const patch = { body: { spec: { intent: "Release" } }, type: jsonMergePatch };
      expectRefused(await send(agent, "PATCH", `${pairs}/web`, patch), rbac);
      expectRefused(await send(agent, "POST", pairs, { body: inSystem(buildGuestPair()) }), rbac);
      expectRefused(await send(agent, "DELETE", `${pairs}/web`), rbac);
    });

    test("reports for its own node, and for no other", async () => {
      expectDone(await report(agentOf("node-a"), [sideA]));
      expectDone(await report(agentOf("node-b"), [sideB]));
      expectRefused(
        await report(agentOf("node-a"), [sideA, { ...sideB, term: 9 }]),
        "may write the report of that node only",
      );
      expectRefused(
        await report(agentOf("node-a"), [{ ...sideB, epoch: 0 }]),
        "may write the report of that node only",
      );
      expectRefused(await report(agentOf("node-c"), [{ ...sideA, node: "node-c" }]), "node-c is no side of this guest");
      const { status } = (await ask("GET", `${pairs}/web`)) as { status: Json };
      expect(status).toEqual({ sides: [sideA, sideB] });
      // What another wrote does not go away with a plain patch either.
      const patch = { body: { status: { sides: [sideA] } }, type: jsonMergePatch };
      expectRefused(await send(agent, "PATCH", `${pairs}/web/status`, patch), "may write the report of that node only");
      expectDone(await report(agentOf("node-a"), [{ ...sideA, term: 4 }]));
      expectDone(await report(agentOf("node-a"), []));
    });

    test("reports nothing with a token that names no node", async () => {
      expectRefused(await report(account("twinrun-agent"), [sideA]), "does not name its node");
    });
  });

  describe("the quorum", () => {
    const lease = (name: string): Json => ({ apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: { name } });

    test("keeps records in Leases of its namespace", async () => {
      expectDone(await send(quorum, "POST", leases(systemNamespace), { body: lease("guest") }));
      const read = await send(quorum, "GET", `${leases(systemNamespace)}/guest`);
      expectDone(read);
      const { metadata } = read.body as { metadata: { resourceVersion: string } };
      const body = { metadata: { resourceVersion: metadata.resourceVersion, annotations: { record: "{}" } } };
      const change = { body, type: "application/merge-patch+json" };
      expectDone(await send(quorum, "PATCH", `${leases(systemNamespace)}/guest`, change));
    });

    test.each([
      ["list Leases", "GET", leases(systemNamespace)],
      ["delete a record", "DELETE", `${leases(systemNamespace)}/guest`],
      ["read Leases elsewhere", "GET", `${leases("default")}/guest`],
      ["read GuestPairs", "GET", pairs],
      ["read Secrets", "GET", `/api/v1/namespaces/${systemNamespace}/secrets/twinrun-ca`],
    ])("does not %s", async (_what, method, path) => {
      expectRefused(await send(quorum, method, path), rbac);
    });

    test("has no rights at all when its store is an etcd", () => {
      const objects = renderChart();
      const bound = objects.filter(
        ({ kind, ...rest }) => kind.endsWith("RoleBinding") && JSON.stringify(rest).includes("twinrun-quorum"),
      );
      expect(bound).toEqual([]);
    });
  });

  describe("the operator", () => {
    test.each<[string, string, string, unknown?]>([
      ["lists ProtectedVMs everywhere", "GET", `${twinrun}/protectedvms`],
      ["makes GuestPairs", "POST", `${pairs}?dryRun=All`, inSystem({ ...buildGuestPair(), metadata: { name: "x" } })],
      ["makes sides of guests", "POST", `${vmis(shop)}?dryRun=All`, vmi("web-1", guestMarks)],
      ["makes second sides", "POST", `${vmis("twinrun-guests")}?dryRun=All`, vmi("web-2", guestMarks)],
      ["reads nodes", "GET", "/api/v1/nodes"],
      ["reads where volumes can be used", "GET", "/api/v1/persistentvolumes"],
      ["reads pods of agents", "GET", `/api/v1/namespaces/${systemNamespace}/pods`],
      ["reads addresses of etcd", "GET", `/api/v1/namespaces/${systemNamespace}/services`],
      ["makes volumes", "GET", `/api/v1/namespaces/${shop}/persistentvolumeclaims`],
      [
        "copies Secrets beside second sides",
        "POST",
        "/api/v1/namespaces/twinrun-guests/secrets?dryRun=All",
        { metadata: { name: "s" } },
      ],
      [
        "keeps certificates",
        "POST",
        `/api/v1/namespaces/${systemNamespace}/secrets?dryRun=All`,
        { metadata: { name: "s" } },
      ],
      [
        "writes events",
        "POST",
        `/apis/events.k8s.io/v1/namespaces/${shop}/events?dryRun=All`,
        {
          metadata: { name: "e" },
          eventTime: "2026-01-31T08:30:00.000000Z",
          reportingController: "twinrun.dev/operator",
          reportingInstance: "x",
          action: "Create",
          reason: "Created",
          type: "Normal",
          regarding: { kind: "ProtectedVM", namespace: shop, name: "web" },
        },
      ],
    ])("%s", async (...[, method, path, body]) => {
      expectDone(await send(operator, method, path, { body }));
    });

    test.each<[string, string, string, unknown?]>([
      ["list Secrets of tenants", "GET", `/api/v1/namespaces/${shop}/secrets`],
      ["delete volumes themselves", "DELETE", "/api/v1/persistentvolumes/x"],
      [
        "write Secrets of tenants",
        "POST",
        `/api/v1/namespaces/${shop}/secrets?dryRun=All`,
        { metadata: { name: "s" } },
      ],
      ["make pods", "POST", `/api/v1/namespaces/${systemNamespace}/pods?dryRun=All`, { metadata: { name: "p" } }],
      ["make ProtectedVMs", "POST", `${twinrun}/namespaces/${shop}/protectedvms?dryRun=All`, buildProtectedVm()],
      ["delete VirtualMachines", "DELETE", `${vms}/web`],
      ["write nodes", "PATCH", "/api/v1/nodes/node-a", { metadata: { labels: { a: "b" } } }],
      [
        "give rights",
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles?dryRun=All",
        { metadata: { name: "r" }, rules: [] },
      ],
      ["change its policies", "DELETE", `${policies}/twinrun-agent-reports`],
      ["change definitions", "DELETE", `${crds}/protectedvms.twinrun.dev`],
    ])("does not %s", async (...[, method, path, body]) => {
      expectRefused(
        await send(operator, method, path, { body, ...(method === "PATCH" ? { type: jsonMergePatch } : {}) }),
        rbac,
      );
    });

    test("signs for its own signer only", async () => {
      const body = {
        metadata: { name: "kubelet" },
        spec: {
          request: certificateRequest,
          signerName: "kubernetes.io/kube-apiserver-client",
          usages: ["digital signature", "client auth"],
        },
      };
      const made = (await ask("POST", requests, body)) as { readonly metadata: Json };
      const condition = { type: "Approved", status: "True", reason: "Mine", message: "" };
      const granted = { ...made, status: { conditions: [condition] } };
      expectRefused(
        await send(operator, "PUT", `${requests}/kubelet/approval`, { body: granted }),
        /not permitted to approve/,
      );
    });
  });

  describe("a tenant with the role admin in a namespace", () => {
    const own = `${twinrun}/namespaces/${shop}/protectedvms`;

    test("makes, reads and deletes ProtectedVMs there", async () => {
      expectDone(await send(tenant, "POST", own, { body: buildProtectedVm() }));
      expectDone(await send(tenant, "GET", own));
      expectDone(await send(tenant, "DELETE", `${own}/web`));
    });

    test.each([
      ["GuestPairs", "GET", pairs],
      ["ProtectedVMs of others", "GET", `${twinrun}/namespaces/default/protectedvms`],
      ["second sides", "GET", vmis("twinrun-guests")],
    ])("does not see %s", async (_what, method, path) => {
      expectRefused(await send(tenant, method, path), rbac);
    });

    test("does not write a ProtectedVM's status", async () => {
      await ask("POST", own, buildProtectedVm());
      const patch = { body: { status: { term: 9 } }, type: jsonMergePatch };
      expectRefused(await send(tenant, "PATCH", `${own}/web/status`, patch), rbac);
      await ask("DELETE", `${own}/web`);
    });
  });

  describe("nobody, not even an administrator,", () => {
    test("passes a VirtualMachineInstance off as a guest's side, but the operator and KubeVirt", async () => {
      const { labels, annotations } = guestMarks;
      for (const marks of [
        guestMarks,
        { labels },
        { annotations: { "twinrun.dev/started-as": annotations["twinrun.dev/started-as"] } },
      ]) {
        const call = { body: vmi("web-x", marks) };
        expectRefused(
          await send(administrator, "POST", vmis(shop), call),
          "Twinrun's to write: make a ProtectedVM instead",
        );
      }
      expectDone(await send(virtController, "POST", `${vmis(shop)}?dryRun=All`, { body: vmi("web-x", guestMarks) }));
      expectDone(
        await send(administrator, "POST", `${vmis(shop)}?dryRun=All`, { body: vmi("plain", { labels: { a: "b" } }) }),
      );
    });

    test("changes those marks of one that is there, but everything else", async () => {
      await send(operator, "POST", vmis(shop), { body: vmi("web-y", guestMarks) }).then(expectDone);
      const patch = (metadata: Json): Promise<ApiAnswer> =>
        send(administrator, "PATCH", `${vmis(shop)}/web-y`, { body: { metadata }, type: jsonMergePatch });
      expectRefused(await patch({ annotations: { "twinrun.dev/guest": "other" } }), "Twinrun's to write");
      expectRefused(await patch({ annotations: { "twinrun.dev/guest": null } }), "Twinrun's to write");
      expectRefused(await patch({ labels: null }), "Twinrun's to write");
      expectDone(await patch({ annotations: { note: "mine" } }));
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/web-y`));
    });

    test("puts them into a VirtualMachine's template", async () => {
      const call = { body: vm("web-z", guestMarks) };
      expectRefused(await send(administrator, "POST", vms, call), "Twinrun's to write");
      expectDone(await send(administrator, "POST", vms, { body: vm("web-z") }));
      const patch = { body: { spec: { template: { metadata: guestMarks } } }, type: jsonMergePatch };
      expectRefused(await send(administrator, "PATCH", `${vms}/web-z`, patch), "Twinrun's to write");
      expectDone(await send(operator, "PATCH", `${vms}/web-z`, patch));
      const run = { body: { spec: { runStrategy: "Halted" } }, type: jsonMergePatch };
      expectDone(await send(administrator, "PATCH", `${vms}/web-z`, run));
    });

    test("lets KubeVirt make such a VirtualMachine or replica set, as a clone or a restored snapshot would be", async () => {
      const clone = "clone a protected VirtualMachine without them (spec.template.annotationFilters";
      expectRefused(await send(virtController, "POST", vms, { body: vm("web-clone", guestMarks) }), clone);
      const replicas = { ...vm("web-set", guestMarks), kind: "VirtualMachineInstanceReplicaSet" };
      expectRefused(await send(administrator, "POST", replicaSets, { body: replicas }), clone);
      expectDone(await send(administrator, "POST", `${replicaSets}?dryRun=All`, { body: { ...replicas, spec: {} } }));
    });

    test("takes those marks for a right of every part of KubeVirt", async () => {
      expectRefused(
        await send(virtHandler, "POST", vmis(shop), { body: vmi("web-h", guestMarks) }),
        "Twinrun's to write",
      );
      await send(operator, "POST", vmis(shop), { body: vmi("web-h", guestMarks) }).then(expectDone);
      const patch = { body: { metadata: { annotations: { "twinrun.dev/guest": "other" } } }, type: jsonMergePatch };
      expectRefused(await send(virtController, "PATCH", `${vmis(shop)}/web-h`, patch), "Twinrun's to write");
      const status = { body: { status: { phase: "Running" } }, type: jsonMergePatch };
      expectDone(await send(virtHandler, "PATCH", `${vmis(shop)}/web-h`, status));
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/web-h`));
    });

    test("writes what undoes an adoption", async () => {
      const says = "annotation twinrun.dev/original is Twinrun's to write";
      const original = { "twinrun.dev/original": JSON.stringify({ template: { metadata: guestMarks } }) };
      const made = { ...vm("web-o"), metadata: { name: "web-o", annotations: original } };
      expectRefused(await send(tenant, "POST", vms, { body: made }), rbac);
      expectRefused(await send(administrator, "POST", vms, { body: made }), says);
      expectDone(await send(administrator, "POST", vms, { body: vm("web-o") }));
      const patch = { body: { metadata: { annotations: original } }, type: jsonMergePatch };
      expectRefused(await send(administrator, "PATCH", `${vms}/web-o`, patch), says);
      expectDone(await send(operator, "PATCH", `${vms}/web-o`, patch));
      const run = { body: { spec: { runStrategy: "Halted" } }, type: jsonMergePatch };
      expectDone(await send(virtController, "PATCH", `${vms}/web-o`, run));
    });

    test("live-migrates a protected guest; others may be", async () => {
      const migration = (vmiName: string): Json => ({
        apiVersion: "kubevirt.io/v1",
        kind: "VirtualMachineInstanceMigration",
        metadata: { name: "move" },
        spec: { vmiName },
      });
      const says = "web-node-a is protected by Twinrun and cannot be live-migrated";
      expectRefused(await send(administrator, "POST", migrations, { body: migration("web-node-a") }), says);
      expectRefused(await send(virtController, "POST", migrations, { body: migration("web-node-a") }), says);
      expectDone(await send(administrator, "POST", `${migrations}?dryRun=All`, { body: migration("other") }));
    });

    test("plugs a disk or a network card into a protected guest, or one out of it; others may have them", async () => {
      const spec = (volumes: readonly string[], cards: readonly Json[]): Json => ({
        spec: { volumes: volumes.map((name) => ({ name })), domain: { devices: { interfaces: cards } } },
      });
      const lan = { name: "lan", bridge: {} };
      expectDone(
        await send(operator, "POST", vmis(shop), { body: { ...vmi("web-d", guestMarks), ...spec(["a"], [lan]) } }),
      );
      expectDone(
        await send(administrator, "POST", vmis(shop), { body: { ...vmi("plain-d", {}), ...spec(["a"], [lan]) } }),
      );
      const change = (name: string, body: Json): Promise<ApiAnswer> =>
        send(virtController, "PATCH", `${vmis(shop)}/${name}`, { body, type: jsonMergePatch });
      const [plugged, taken] = [spec(["a", "b"], [lan]), spec([], [lan])];
      const moved = { spec: { volumes: [{ name: "a", persistentVolumeClaim: { claimName: "elsewhere" } }] } };
      const backup = { spec: { utilityVolumes: [{ name: "backup", claimName: "scratch" }] } };
      const [card, unplugged] = [spec(["a"], [lan, { name: "dmz" }]), spec(["a"], [{ ...lan, state: "absent" }])];
      expectRefused(await change("web-d", plugged), "no volume can be plugged into a guest");
      expectRefused(await change("web-d", taken), "no volume can be plugged into a guest");
      expectRefused(await change("web-d", moved), "no volume can be plugged into a guest");
      expectRefused(await change("web-d", backup), "no volume can be plugged into a guest");
      expectRefused(await change("web-d", card), "no network card can be plugged into a guest or out of it");
      expectRefused(await change("web-d", unplugged), "no network card can be plugged into a guest or out of it");
      expectDone(await change("web-d", { status: { phase: "Running" } }));
      expectDone(await change("web-d", { spec: { terminationGracePeriodSeconds: 5 } }));
      for (const body of [plugged, taken, moved, backup, card, unplugged]) {
        expectDone(await change("plain-d", body));
      }
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/web-d`));
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/plain-d`));
    });

    test("changes processors or memory of a protected guest; others may be", async () => {
      const size = (sockets: number, guest: string): Json => ({
        spec: { domain: { cpu: { sockets, cores: 1 }, memory: { guest } } },
      });
      const small = size(1, "1Gi");
      expectDone(await send(operator, "POST", vmis(shop), { body: { ...vmi("web-s", guestMarks), ...small } }));
      expectDone(await send(administrator, "POST", vmis(shop), { body: { ...vmi("plain-s"), ...small } }));
      for (const body of [size(2, "1Gi"), size(1, "2Gi")]) {
        const call = { body, type: jsonMergePatch };
        const says = "processors and memory of a guest cannot be changed while Twinrun protects it";
        expectRefused(await send(virtController, "PATCH", `${vmis(shop)}/web-s`, call), says);
        expectDone(await send(virtController, "PATCH", `${vmis(shop)}/plain-s`, call));
      }
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/web-s`));
      expectDone(await send(administrator, "DELETE", `${vmis(shop)}/plain-s`));
    });

    test("changes what would be plugged in of a VirtualMachine that is protected; the rest of it may be, and others", async () => {
      const spec = { volumes: [{ name: "a" }], domain: { cpu: { sockets: 1 } } };
      for (const name of ["web-m", "plain-m"]) {
        const made = { ...vm(name), spec: { runStrategy: "Manual", template: { metadata: {}, spec } } };
        expectDone(await send(administrator, "POST", vms, { body: made }));
      }
      const adopt = { body: { spec: { template: { metadata: guestMarks } } }, type: jsonMergePatch };
      expectDone(await send(operator, "PATCH", `${vms}/web-m`, adopt));
      const change = (caller: Caller, name: string, changed: Json): Promise<ApiAnswer> =>
        send(caller, "PATCH", `${vms}/${name}`, {
          body: { spec: { template: { spec: changed } } },
          type: jsonMergePatch,
        });
      const plugged = { volumes: [{ name: "a" }, { name: "b" }] };
      const larger = { domain: { cpu: { sockets: 2 } } };
      const virtApi = { user: "system:serviceaccount:kubevirt:kubevirt-apiserver", groups: ["system:masters"] };
      for (const caller of [administrator, virtApi]) {
        expectRefused(await change(caller, "web-m", plugged), "no volume can be plugged into a guest");
        expectRefused(await change(caller, "web-m", larger), "processors and memory of a guest cannot be changed");
      }
      expectDone(await change(administrator, "web-m", { terminationGracePeriodSeconds: 5 }));
      expectDone(await change(operator, "web-m", plugged));
      expectDone(await change(administrator, "plain-m", plugged));
      expectDone(await change(administrator, "plain-m", larger));
      expectDone(await send(administrator, "DELETE", `${vms}/web-m`));
      expectDone(await send(administrator, "DELETE", `${vms}/plain-m`));
    });

    test.each([
      ["a snapshot", "snapshot.kubevirt.io/v1beta1", "VirtualMachineSnapshot", "source"],
      ["a restore", "snapshot.kubevirt.io/v1beta1", "VirtualMachineRestore", "target"],
      ["a backup", "backup.kubevirt.io/v1alpha1", "VirtualMachineBackup", "source"],
      ["a clone", "clone.kubevirt.io/v1beta1", "VirtualMachineClone", "source"],
    ])(
      "makes %s of a VirtualMachine that is protected; of others they may be made",
      async (_, apiVersion, kind, field) => {
        const own = `${twinrun}/namespaces/${shop}/protectedvms`;
        const ref = { virtualMachineTemplate: undefined, virtualMachineRef: { name: "books" } };
        await ask("POST", own, { ...buildProtectedVm(ref), metadata: { name: "shelf", namespace: shop } });
        const path = `/apis/${apiVersion}/namespaces/${shop}/${kind.toLowerCase()}s?dryRun=All`;
        const offer = (name: string): Promise<ApiAnswer> => {
          const subject = { apiGroup: "kubevirt.io", kind: "VirtualMachine", name };
          const body = { apiVersion, kind, metadata: { name: "one" }, spec: { [field]: subject } };
          return send(administrator, "POST", path, { body });
        };
        const says =
          /VirtualMachine books is protected by Twinrun \(ProtectedVM shelf\).*kubectl twinrun export shelf --live/;
        // The policy sees a new ProtectedVM a moment later.
        let answer = await offer("books");
        while (answer.status < 300) {
          await sleep(100);
          answer = await offer("books");
        }
        expectRefused(answer, says);
        expectDone(await offer("others"));
        await ask("DELETE", `${own}/shelf`);
      },
    );

    test("deletes the definitions while a guest is protected", async () => {
      const says = "guest shop.web is protected: delete every ProtectedVM first";
      expectRefused(await send(administrator, "DELETE", `${crds}/protectedvms.twinrun.dev`), says);
      expectRefused(await send(administrator, "DELETE", `${crds}/guestpairs.twinrun.dev`), says);
      expectRefused(await send(administrator, "DELETE", `${crds}?dryRun=All`), says);
    });

    test("deletes the namespaces of Twinrun then; others may be", async () => {
      const says = "guest shop.web is protected: delete every ProtectedVM first";
      for (const name of [systemNamespace, "twinrun-guests"]) {
        expectRefused(await send(administrator, "DELETE", `/api/v1/namespaces/${name}`), says);
      }
      expectDone(await send(administrator, "DELETE", `/api/v1/namespaces/${shop}?dryRun=All`));
    });

    test("protects a VirtualMachine twice", async () => {
      const own = `${twinrun}/namespaces/${shop}/protectedvms`;
      const of = (name: string, machine: string): Json => ({
        ...buildProtectedVm({ virtualMachineTemplate: undefined, virtualMachineRef: { name: machine } }),
        metadata: { name, namespace: shop },
      });
      await ask("POST", own, of("one", "db"));
      const other = { body: of("other", "db") };
      let answer: ApiAnswer;
      do {
        await sleep(100); // The policy is asked with a copy of what there is.
        answer = await send(tenant, "POST", `${own}?dryRun=All`, other);
      } while (answer.status < 300);
      expect(answer).toMatchObject({ status: 422 });
      expect((answer.body as { message: string }).message).toContain(
        "spec.virtualMachineRef.name: VirtualMachine db is protected by ProtectedVM one already: change that one, or delete it first",
      );
      expectDone(await send(tenant, "POST", `${own}?dryRun=All`, { body: of("other", "web") }));
      expectDone(
        await send(tenant, "POST", `${twinrun}/namespaces/${shop}/protectedvms?dryRun=All`, {
          body: buildProtectedVm(),
        }),
      );
      await ask("DELETE", `${own}/one`);
    });

    test("deletes or changes the quorum's record of a guest while it is protected", async () => {
      const records = leases(systemNamespace);
      const record = (name: string, guest: string): Json =>
        inSystem({ metadata: { name, labels: { "twinrun.dev/guest": guest } } });
      await ask("POST", records, record("guest-shop.web", "shop.web"));
      await ask("POST", records, record("guest-gone", "gone"));
      expectRefused(await send(administrator, "DELETE", `${records}/guest-shop.web`), "delete its ProtectedVM instead");
      expectRefused(await send(administrator, "DELETE", `${records}?dryRun=All`), "delete its ProtectedVM instead");
      const patch = { body: { metadata: { annotations: { a: "b" }, labels: null } }, type: jsonMergePatch };
      expectRefused(await send(administrator, "PATCH", `${records}/guest-shop.web`, patch), "delete its ProtectedVM");
      expectDone(await send(quorum, "PATCH", `${records}/guest-shop.web?dryRun=All`, patch));
      expectDone(await send(administrator, "DELETE", `${records}/guest-gone`));
      expectDone(await send(operator, "DELETE", `${records}/guest-shop.web`));
    });
  });

  test("the check before removal refuses while there is a ProtectedVM, and names it", async () => {
    const check = (): { readonly status: number | null; readonly stdout: string } => {
      const args = ["src/main/preflight.ts", "uninstall", "--kubeconfig", plane.kubeconfigPath];
      return spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" });
    };
    expect(check()).toMatchObject({ status: 0, stdout: "good: there is no ProtectedVM\n" });
    await ask("POST", `${twinrun}/namespaces/${shop}/protectedvms`, buildProtectedVm());
    const { status, stdout } = check();
    expect({ status, stdout }).toEqual({ status: 1, stdout: expect.stringContaining("still there: shop/web") });
    await ask("DELETE", `${twinrun}/namespaces/${shop}/protectedvms/web`);
  });

  test("helm test asks operator, agents and quorum, and says what is not ready", async () => {
    const directory = mkdtempSync(join(tmpdir(), "twinrun-preflight-"));
    const tls = async (identity: PeerIdentity): Promise<string[]> => {
      const files = await issueCertificate(directory, { identity });
      return ["--cert", files.certPath, "--key", files.keyPath, "--ca", files.caPath];
    };
    await createAuthority(directory);
    const listen = ["--listen", "127.0.0.1:17999", "--store", `file:${join(directory, "store")}`];
    const quorumArgs = ["src/main/quorum.ts", ...listen, ...(await tls({ service: "quorum", name: "q" }))];
    const service = spawn(process.execPath, quorumArgs, { cwd: root, stdio: "ignore" });
    try {
      const args = ["installation", "--namespace", systemNamespace, "--kubeconfig", plane.kubeconfigPath];
      const asked = [...args, "--quorum", "127.0.0.1:17999", ...(await tls({ service: "operator", name: "twinrun" }))];
      const check = spawn(process.execPath, ["src/main/preflight.ts", ...asked, "--patience-ms=1000"], { cwd: root });
      let said = "";
      check.stdout.setEncoding("utf8").on("data", (part: string) => (said += part));
      expect(await new Promise((resolve) => check.once("close", resolve))).toBe(1);
      // There are no nodes to run them.
      expect(said.trim().split("\n")).toEqual([
        expect.stringMatching(/^WRONG: Deployment twinrun-operator: 0 of 2 pods are ready/),
        expect.stringMatching(/^WRONG: DaemonSet twinrun-agent: 0 of 0 pods are ready/),
        "good: quorum 127.0.0.1:17999 answers, and so does its store",
      ]);
    } finally {
      service.kill("SIGKILL");
      rmSync(directory, { recursive: true, force: true });
    }
  });

  test(
    "two thousand pairs do not keep a migration waiting",
    async () => {
      const count = 2_000;
      const names = Array.from({ length: count }, (_, index) => `many-${index}`);
      for (let start = 0; start < count; start += 50) {
        await Promise.all(
          names.slice(start, start + 50).map((name) =>
            ask("POST", pairs, {
              ...buildGuestPair({ guest: name }),
              metadata: { name, namespace: systemNamespace },
            }),
          ),
        );
      }
      await sleep(1_000);
      const startedAtMs = performance.now();
      const body = {
        apiVersion: "kubevirt.io/v1",
        kind: "VirtualMachineInstanceMigration",
        metadata: { name: "m" },
        spec: { vmiName: "other" },
      };
      expectDone(await send(administrator, "POST", `${migrations}?dryRun=All`, { body }));
      expect(performance.now() - startedAtMs).toBeLessThan(5_000);
      await ask("DELETE", pairs);
    },
    startMsMax,
  );

  test("removal leaves the definitions, and nothing that anybody could use", async () => {
    const { status, stderr } = runHelm(
      ...["uninstall", "twinrun", "--namespace", systemNamespace, "--kubeconfig", plane.kubeconfigPath, "--no-hooks"],
    );
    expect({ status, stderr }).toMatchObject({ status: 0 });
    await ask("GET", `${crds}/protectedvms.twinrun.dev`);
    expect(await plane.admin.send("GET", `${policies}/twinrun-guest-marks`)).toMatchObject({ status: 404 });
    expectRefused(await send(operator, "GET", `${twinrun}/protectedvms`), rbac);
  });

  test("the kustomize base is taken whole by the server, and a second time changes nothing", async () => {
    const apply = (): string => {
      const kubectl = present(findPrograms(["kubectl"]).get("kubectl"), "kubectl");
      const args = ["apply", "--server-side", "--force-conflicts", "--kustomize", "config/kustomize/base"];
      const { status, stdout, stderr } = spawnSync(kubectl, [...args, "--kubeconfig", plane.kubeconfigPath], {
        ...{ cwd: root, encoding: "utf8" },
      });
      expect({ status, stderr }).toMatchObject({ status: 0 });
      return stdout;
    };
    expect(apply().trim().split("\n").length).toBe(
      parseObjects(readFileSync(kustomizeBasePath, "utf8")).length + 1, // The namespace of the system.
    );
    const read = async (): Promise<string> =>
      ((await ask("GET", `/apis/apps/v1/namespaces/${systemNamespace}/daemonsets/twinrun-agent`))["metadata"] as Json)[
        "generation"
      ] as string;
    const before = await read();
    apply();
    expect(await read()).toBe(before);
  });
});

type ResourceRule = {
  readonly verbs: readonly string[];
  readonly apiGroups?: readonly string[];
  readonly resources?: readonly string[];
  readonly resourceNames?: readonly string[];
};

/** What the API server says that the caller may do, but for what everybody may: ask about himself. */
async function listRights(caller: Caller, namespace: string): Promise<string[]> {
  const body = { apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectRulesReview", spec: { namespace } };
  const answer = await send(caller, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", { body });
  expectDone(answer);
  const { resourceRules } = (answer.body as { status: { resourceRules: readonly ResourceRule[] } }).status;
  const lines = resourceRules.flatMap(({ verbs, apiGroups = [], resources = [], resourceNames = [] }) =>
    apiGroups.flatMap((group) =>
      resources
        .filter((resource) => !resource.startsWith("selfsubject"))
        .map((resource) => {
          const names = resourceNames.length === 0 ? "" : ` ${resourceNames.join(",")}`;
          return `${group === "" ? "" : `${group}/`}${resource}${names}: ${[...verbs].sort().join(" ")}`;
        }),
    ),
  );
  const own = lines.filter((line) => caller !== tenant || line.startsWith("twinrun.dev/"));
  return [...new Set(own)].sort();
}

/** Of a key that was thrown away. */
const certificateRequest = [
  "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIL01JR21BZ0VBTUJFeER6QU5CZ05WQkFNTUJtNXZaR1V0WVRC",
  "Wk1CTUdCeXFHU000OUFnRUdDQ3FHU000OQpBd0VIQTBJQUJJbmFTc09Mei9MMnpIWElRNW9HZWRtY1FzMDJyUE1WWnZDby9vQThM",
  "ZUQ4TktGUTlOblYzcGJWCm5hQlE0NFZtMGxWRkRrMVZabVVySVc2dGRDQWFqRk9nTXpBeEJna3Foa2lHOXcwQkNRNHhKREFpTUNB",
  "R0ExVWQKRVFRWk1CZUdGWFIzYVc1eWRXNDZMeTl1YjJSbEwyNXZaR1V0WVRBS0JnZ3Foa2pPUFFRREFnTklBREJGQWlBWApaQlly",
  "Z0ZGSk1ZY2hCREZRaDYwcEhxRWVZQ3ZPSExlYWFLVHN1RkZ1Y2dJaEFPN0d1NDMzeGZWb2ZWU1VYMjUzCkhZYjNISG16TFFwR2FD",
  "bCtDNXdobDMzMQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K",
].join("");
