/** The certificates of an installation in front of a real API server, with tokens as real pods get them. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from "@jest/globals";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ensureNodeCertificate, type NodeCertificate } from "../../../src/agent/node-certificate.ts";
import { NODE_CERTIFICATE_USAGES, NODE_SIGNER } from "../../../src/decide/certificate-request.ts";
import { openServiceAccount } from "../../../src/kube/access.ts";
import { Cluster } from "../../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../../src/kube/kube-object.ts";
import { present } from "../../../src/lib/assert.ts";
import { isIssuedBy, readCertificate, readCertificates } from "../../../src/net/certificate.ts";
import { CertificateDirectory } from "../../../src/net/certificate-directory.ts";
import { makeAuthority, makeRequest } from "../../../src/net/pki.ts";
import { connectSecurely } from "../../../src/net/secure-connect.ts";
import { SecureListener } from "../../../src/net/secure-listener.ts";
import { TlsCredentials } from "../../../src/net/tls.ts";
import { type SecretObject } from "../../../src/operator/certificates/authority-secret.ts";
import {
  startCertificates,
  type Certificates,
  type CertificatesOptions,
} from "../../../src/operator/certificates/certificates.ts";
import { openOwnCertificate } from "../../../src/operator/certificates/own-certificate.ts";
import { silentLog } from "../../../src/telemetry/log.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";
import { create, createAccount, createPod, mountToken, type Rule, writeTokenKubeconfig } from "./service-accounts.ts";

const startMsMax = 180_000;
/** For a machine that has other things to do. */
jest.setTimeout(startMsMax);
const dayMs = 86_400_000;
const patienceMs = 60_000;
const agentScript = new URL("../../../src/main/agent.ts", import.meta.url).pathname;
const timing = { pollEveryMs: 100, retryMsMin: 100, requestMs: 30_000 } as const;

/** As in charts/twinrun, which has a Role for what is in the namespace of the release. */
const operatorRules: readonly Rule[] = [
  { apiGroups: ["certificates.k8s.io"], resources: ["certificatesigningrequests"], verbs: ["get", "list", "watch"] },
  {
    apiGroups: ["certificates.k8s.io"],
    resources: ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
    verbs: ["update", "patch"],
  },
  {
    apiGroups: ["certificates.k8s.io"],
    resources: ["signers"],
    resourceNames: [NODE_SIGNER],
    verbs: ["approve", "sign"],
  },
  { apiGroups: [""], resources: ["secrets", "configmaps"], verbs: ["get", "create", "update", "patch"] },
  { apiGroups: [""], resources: ["services"], verbs: ["list"] },
];
const agentRules: readonly Rule[] = [
  { apiGroups: ["certificates.k8s.io"], resources: ["certificatesigningrequests"], verbs: ["get", "create"] },
  { apiGroups: [""], resources: ["configmaps"], resourceNames: ["twinrun-ca"], verbs: ["get"] },
];

let plane: ControlPlane;
let directory = "";
let count = 0;
/** Each test has an installation of its own. */
let namespace = "";
let operator: Cluster;
const running: { stop(): Promise<void> }[] = [];
const clusters: Cluster[] = [];

const keep = <T extends { stop(): Promise<void> }>(started: T): T => {
  running.push(started);
  return started;
};

function openCluster(mounted: string): Cluster {
  const { hostname, port } = new URL(plane.url);
  const environment = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
  const cluster = new Cluster(openServiceAccount(mounted, environment));
  clusters.push(cluster);
  return cluster;
}

/** As whom an agent on this node comes. */
async function openAgent(node: string, account = "twinrun-agent"): Promise<Cluster> {
  const name = `${account}-${node}`;
  const pod = await createPod(plane, { namespace, name, account, node });
  return openCluster(await mountToken(plane, { namespace, account, pod }, join(directory, namespace, name)));
}

const startOperator = (options: Partial<CertificatesOptions> = {}, cluster = operator): Certificates =>
  keep(startCertificates(cluster, { namespace, log: silentLog, ...options }));

const startAgent = async (node: string, nowMs: () => number = Date.now): Promise<NodeCertificate> => {
  const cluster = await openAgent(node);
  const path = join(directory, namespace, `pki-${node}`);
  return keep(
    await ensureNodeCertificate(cluster, { node, directory: path, namespace, log: silentLog, timing, nowMs }),
  );
};

const readSecret = (name: string): Promise<SecretObject | undefined> =>
  operator.read<SecretObject>({ kind: kindOf("v1", "Secret"), namespace, name });
const textOf = (secret: SecretObject | undefined, key: string): string =>
  Buffer.from(secret?.data?.[key] ?? "", "base64").toString();
const readBundle = async (): Promise<string> => {
  const ref = { kind: kindOf("v1", "ConfigMap"), namespace, name: "twinrun-ca" };
  return (await operator.read<KubeObject & { data?: { "ca.crt"?: string } }>(ref))?.data?.["ca.crt"] ?? "";
};

async function waitFor<T>(what: string, read: () => Promise<T | undefined>): Promise<T> {
  const endMs = performance.now() + patienceMs;
  for (;;) {
    const found = await read();
    if (found !== undefined) {
      return found;
    }
    expect({ what, isLate: performance.now() > endMs }).toEqual({ what, isLate: false });
    await sleep(50);
  }
}

/** Whether two peers with these files take each other. */
async function connect(server: NodeCertificate, client: NodeCertificate): Promise<boolean> {
  const [ofServer, ofClient] = await Promise.all([server, client].map(({ files }) => TlsCredentials.open(files)));
  let settle: (isTaken: boolean) => void = () => undefined;
  const accepted = new Promise<boolean>((resolve) => {
    settle = resolve;
  });
  const listener = await SecureListener.open({
    hosts: ["127.0.0.1"],
    port: 0,
    credentials: present(ofServer, "server"),
    expected: { service: "node" },
    onSocket: () => {
      settle(true);
    },
    onProblem: () => {
      settle(false);
    },
  });
  const dialling = connectSecurely({
    target: { host: "127.0.0.1", port: listener.port },
    credentials: present(ofClient, "client"),
    expected: { service: "node" },
    timeoutMs: 10_000,
  });
  const isDialled = await dialling.then(
    ({ socket }) => {
      socket.on("error", () => undefined);
      return true;
    },
    () => false,
  );
  const isTaken = isDialled && (await accepted);
  await listener.close();
  ofServer?.close();
  ofClient?.close();
  return isTaken;
}

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("certificates on a real API server", () => {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "certificates-"));
    plane = await startControlPlane();
  }, startMsMax);

  beforeEach(async () => {
    count += 1;
    namespace = `installation-${count}`;
    await create(plane, "/api/v1/namespaces", { metadata: { name: namespace } });
    await createAccount(plane, { namespace, name: "twinrun-operator", rules: operatorRules });
    await createAccount(plane, { namespace, name: "twinrun-agent", rules: agentRules });
    const wish = { namespace, account: "twinrun-operator" };
    operator = openCluster(await mountToken(plane, wish, join(directory, namespace, "operator")));
  });

  /** An installation denies what another one's agents ask for: a cluster has only one. */
  afterEach(async () => {
    await Promise.all(running.splice(0).map((started) => started.stop()));
    clusters.splice(0).forEach((cluster) => {
      cluster.close();
    });
  });

  afterAll(async () => {
    await (plane as ControlPlane | undefined)?.stop();
    rmSync(directory, { recursive: true, force: true });
  }, startMsMax);

  describe("a node", () => {
    test("gets a certificate for itself, and two of them take each other", async () => {
      startOperator();
      const [one, other] = await Promise.all([startAgent("node-1"), startAgent("node-2")]);
      const credentials = await TlsCredentials.open(one.files);
      expect(credentials.identity).toEqual({ service: "node", name: "node-1" });
      expect(Math.round((credentials.expiresAtMs - Date.now()) / dayMs)).toBe(90);
      credentials.close();
      expect(await connect(one, other)).toBe(true);
    });

    test("gets it also when the operator comes later", async () => {
      const starting = startAgent("node-1");
      await sleep(500);
      startOperator();
      expect((await starting).files.certPath).toContain("pki-node-1");
    });

    test.each([
      { when: "for another node", from: "node-1", ask: "node-2", account: "twinrun-agent", reason: "ForeignNode" },
      { when: "as another account", from: "node-1", ask: "node-1", account: "intruder", reason: "ForeignAccount" },
    ])("is denied one $when", async ({ from, ask, account, reason }) => {
      startOperator();
      await createAccount(plane, { namespace, name: account, rules: agentRules });
      const asking = await openAgent(from, account);
      const made = await askFor(asking, ask);
      expect(await awaitVerdict(made)).toMatchObject({ type: "Denied", reason });
    });

    test("is denied one with a token that is bound to no pod", async () => {
      startOperator();
      const wish = { namespace, account: "twinrun-agent" };
      const unbound = openCluster(await mountToken(plane, wish, join(directory, namespace, "unbound")));
      expect(await awaitVerdict(await askFor(unbound, "node-1"))).toMatchObject({ reason: "NodeUnknown" });
    });

    test("gets none for what somebody else has approved by hand", async () => {
      await createAccount(plane, { namespace, name: "intruder", rules: agentRules });
      const made = await askFor(await openAgent("node-1", "intruder"), "node-1");
      const path = `/apis/certificates.k8s.io/v1/certificatesigningrequests/${made}`;
      const request = (await plane.admin.send("GET", path)).body as object;
      const approval = { type: "Approved", status: "True", reason: "ByHand", message: "" };
      const body = { ...request, status: { conditions: [approval] } };
      expect(await plane.admin.send("PUT", `${path}/approval`, { body })).toMatchObject({ status: 200 });
      startOperator();
      const failed = await waitFor("verdict", async () =>
        (await readRequestStatus(made)).conditions?.find(({ type }) => type === "Failed"),
      );
      expect(failed).toMatchObject({ reason: "ForeignAccount" });
      expect((await readRequestStatus(made)).certificate).toBeUndefined();
    });

    test("is not let at the authority's key", async () => {
      startOperator();
      await waitFor("authority", () => readSecret("twinrun-ca"));
      const agent = await openAgent("node-1");
      const reading = agent.read({ kind: kindOf("v1", "Secret"), namespace, name: "twinrun-ca" });
      await expect(reading).rejects.toMatchObject({ detail: { code: "Forbidden" } });
    });

    test("renews at two thirds of its life, with a new key", async () => {
      startOperator();
      let aheadMs = 0;
      const certificate = await startAgent("node-1", () => Date.now() + aheadMs);
      const before = (await TlsCredentials.open(certificate.files)).material();
      await certificate.check();
      expect((await TlsCredentials.open(certificate.files)).material().cert).toEqual(before.cert);
      aheadMs = 61 * dayMs;
      await certificate.check();
      const after = (await TlsCredentials.open(certificate.files)).material();
      expect(after.cert).not.toEqual(before.cert);
      expect(after.key).not.toEqual(before.key);
    });
  });

  test("the agent's process asks for its certificate before it starts", async () => {
    const started = startOperator();
    await started.keep();
    const wish = { namespace, name: "agent-1", account: "twinrun-agent", node: "node-1" };
    const pod = await createPod(plane, wish);
    const mounted = await mountToken(plane, { ...wish, pod }, join(directory, namespace, "agent"));
    const state = join(directory, namespace, "state");
    const agent = spawn(
      process.execPath,
      [
        ...[agentScript, "--assignments=kubernetes", "--node=node-1", `--namespace=${namespace}`],
        ...[`--run-directory=${join(directory, namespace, "run")}`, `--state-directory=${state}`],
        ...[`--kubeconfig=${writeTokenKubeconfig(plane, mounted)}`, "--quorum-service=twinrun-quorum"],
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    try {
      let said = "";
      agent.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
      await waitFor("the agent", () => Promise.resolve(/"agent started"/.exec(said) ?? undefined));
      const { files } = new CertificateDirectory(join(state, "pki"));
      expect(readCertificate(readFileSync(files.certPath, "utf8"))?.identity).toEqual({
        service: "node",
        name: "node-1",
      });
      expect(statSync(files.keyPath).mode & 0o777).toBe(0o600);
    } finally {
      agent.kill("SIGKILL");
    }
  });

  describe("the authority", () => {
    test("is made once by many operators that start together", async () => {
      const many = Array.from({ length: 4 }, () => startOperator());
      await Promise.all(many.map((one) => one.keep()));
      const authorities = readCertificates(await readBundle());
      expect(authorities.length).toBe(1);
      for (const name of ["twinrun-quorum-tls", "twinrun-operator-tls", "twinrun-metrics-tls"]) {
        const secret = await readSecret(name);
        expect(isIssuedBy(textOf(secret, "tls.crt"), textOf(await readSecret("twinrun-ca"), "tls.crt"))).toBe(true);
        expect(textOf(secret, "ca.crt")).toBe(await readBundle());
      }
      expect(readCertificate(textOf(await readSecret("twinrun-quorum-tls"), "tls.crt"))?.identity).toEqual({
        service: "quorum",
        name: "twinrun",
      });
    });

    test("nothing is written while nothing is due", async () => {
      const started = startOperator();
      await started.keep();
      const names = ["twinrun-ca", "twinrun-quorum-tls", "twinrun-operator-tls", "twinrun-metrics-tls"];
      const versions = async (): Promise<unknown> =>
        Promise.all(names.map(async (name) => (await readSecret(name))?.metadata.resourceVersion));
      const before = await versions();
      await started.keep();
      await started.keep();
      expect(await versions()).toEqual(before);
    });

    test("a certificate that somebody deleted or damaged is made anew", async () => {
      const started = startOperator();
      await started.keep();
      const path = `/api/v1/namespaces/${namespace}/secrets`;
      await plane.admin.send("DELETE", `${path}/twinrun-quorum-tls`);
      const patch = { body: { data: { "tls.key": "AAAA" } }, type: "application/merge-patch+json" };
      await plane.admin.send("PATCH", `${path}/twinrun-operator-tls`, patch);
      await started.keep();
      for (const name of ["twinrun-quorum-tls", "twinrun-operator-tls"]) {
        expect(readCertificate(textOf(await readSecret(name), "tls.crt"))).toBeDefined();
      }
      expect(textOf(await readSecret("twinrun-operator-tls"), "tls.key")).toContain("PRIVATE KEY");
    });

    test("that is damaged is not replaced, and it is said", async () => {
      const started = startOperator();
      await started.keep();
      const patch = { body: { data: { "tls.key": "AAAA" } }, type: "application/merge-patch+json" };
      await plane.admin.send("PATCH", `/api/v1/namespaces/${namespace}/secrets/twinrun-ca`, patch);
      await expect(started.keep()).rejects.toThrow("restore it from a backup");
    });

    test("is rotated while any two nodes take each other at every step", async () => {
      let aheadMs = 0;
      const nowMs = (): number => Date.now() + aheadMs;
      // The operator's clock is turned; the nodes' is not, so that they renew for the authority's sake alone.
      const started = startOperator({ nowMs });
      const [one, other] = await Promise.all([startAgent("node-1"), startAgent("node-2")]);
      const first = present(readCertificate(await readBundle()), "authority");
      const expectAllConnect = async (): Promise<void> => {
        expect([await connect(one, other), await connect(other, one)]).toEqual([true, true]);
      };

      await askForRotation();
      await started.keep();
      const announced = readCertificates(await readBundle());
      expect(announced.map(({ id }) => id === first.id)).toEqual([true, false]);
      await one.check();
      await expectAllConnect();
      await other.check();
      await expectAllConnect();

      await started.keep();
      expect(readCertificate(await readBundle())?.id).toBe(first.id);
      aheadMs = 2 * dayMs;
      await started.keep();
      const second = present(readCertificate(await readBundle()), "second authority");
      expect(second.id).toBe(announced[1]?.id);
      expect(isIssuedBy(textOf(await readSecret("twinrun-quorum-tls"), "tls.crt"), second.pem)).toBe(true);
      await expectAllConnect();
      await one.check();
      await expectAllConnect();
      await other.check();
      await expectAllConnect();
      const credentials = await TlsCredentials.open(one.files);
      expect(isIssuedBy(credentials.material().cert.toString(), second.pem)).toBe(true);
      credentials.close();

      aheadMs += 92 * dayMs;
      await started.keep();
      expect(readCertificates(await readBundle()).map(({ id }) => id)).toEqual([second.id]);
      await Promise.all([one.check(), other.check()]);
      await expectAllConnect();
    });

    test("a person may ask for another one", async () => {
      const started = startOperator();
      await started.keep();
      await askForRotation();
      await started.keep();
      await started.keep();
      expect(readCertificates(await readBundle()).length).toBe(2);
      const annotations = (await readSecret("twinrun-ca"))?.metadata.annotations ?? {};
      expect(annotations["twinrun.dev/rotate-authority"]).toBeUndefined();
    });

    test("is waited for where cert-manager is to make it", async () => {
      const started = startOperator({ isOfCertManager: true });
      await expect(started.keep()).rejects.toThrow("cert-manager is to make Secret twinrun-ca");
      expect(await readSecret("twinrun-ca")).toBeUndefined();
      const { certPem, keyPem } = await makeAuthority("twinrun-ca", 30 * 86_400);
      const data = { "tls.crt": certPem, "tls.key": keyPem, "ca.crt": certPem };
      await create(plane, `/api/v1/namespaces/${namespace}/secrets`, {
        metadata: { name: "twinrun-ca", annotations: { "cert-manager.io/certificate-name": "twinrun-ca" } },
        type: "kubernetes.io/tls",
        stringData: data,
      });
      await started.keep();
      expect(isIssuedBy(textOf(await readSecret("twinrun-quorum-tls"), "tls.crt"), certPem)).toBe(true);
      expect(textOf(await readSecret("twinrun-ca"), "tls.crt")).toBe(certPem);
    });

    test("of cert-manager's making signs, and stays as it is", async () => {
      const started = startOperator();
      await started.keep();
      const secret = present(await readSecret("twinrun-ca"), "secret");
      const path = `/api/v1/namespaces/${namespace}/secrets/twinrun-ca`;
      const patch = {
        body: { metadata: { annotations: { "cert-manager.io/certificate-name": "ca" } } },
        type: "application/merge-patch+json",
      };
      await plane.admin.send("PATCH", path, patch);
      await started.stop();
      const later = startOperator({ nowMs: () => Date.now() + 3_000 * dayMs });
      await later.keep();
      expect((await readSecret("twinrun-ca"))?.data).toEqual(secret.data);
    });
  });

  test("etcd of the chart gets certificates of an authority of its own, with its Services' addresses", async () => {
    const labels = { "app.kubernetes.io/name": "twinrun", "app.kubernetes.io/component": "etcd" };
    await create(plane, `/api/v1/namespaces/${namespace}/services`, {
      metadata: { name: "twinrun-etcd-0", labels },
      spec: { ports: [{ port: 2379 }] },
    });
    const started = startOperator();
    await started.keep();
    const [authority, server, client] = await Promise.all(
      ["twinrun-etcd-ca", "twinrun-etcd-tls", "twinrun-etcd-client-tls"].map(readSecret),
    );
    const authorityPem = textOf(authority, "tls.crt");
    expect(authorityPem).not.toBe(textOf(await readSecret("twinrun-ca"), "tls.crt"));
    expect([server, client].map((secret) => isIssuedBy(textOf(secret, "tls.crt"), authorityPem))).toEqual([true, true]);
    expect(server?.metadata.annotations?.["twinrun.dev/issued-for"]).toMatch(
      new RegExp(`^twinrun://quorum/etcd,10[.]96[.][0-9.]+,twinrun-etcd-0[.]${namespace}[.]svc$`),
    );
  });

  test("an operator takes its own certificate from the Secret, and what replaces it", async () => {
    const stopping = new AbortController();
    const path = join(directory, namespace, "own");
    const opening = openOwnCertificate(operator, {
      ...{ namespace, directory: path, log: silentLog, signal: stopping.signal, checkEveryMs: 50 },
    });
    const started = startOperator();
    const credentials = await TlsCredentials.open(await opening, 50);
    expect(credentials.identity).toEqual({ service: "operator", name: "twinrun" });
    const replaced = new Promise((resolve) => credentials.onReloaded(resolve));
    await plane.admin.send("DELETE", `/api/v1/namespaces/${namespace}/secrets/twinrun-operator-tls`);
    await started.keep();
    expect(await replaced).toBeUndefined();
    stopping.abort();
    credentials.close();
  });
});

/** As a person does it. */
async function askForRotation(): Promise<void> {
  const body = { metadata: { annotations: { "twinrun.dev/rotate-authority": "now" } } };
  const path = `/api/v1/namespaces/${namespace}/secrets/twinrun-ca`;
  await plane.admin.send("PATCH", path, { body, type: "application/merge-patch+json" });
}

type RequestStatus = {
  readonly certificate?: string;
  readonly conditions?: readonly { readonly type: string; readonly reason?: string; readonly message?: string }[];
};

/** The name of a request for the certificate of `node`, made by whoever `cluster` speaks for. */
async function askFor(cluster: Cluster, node: string): Promise<string> {
  count += 1;
  const name = `asked-${count}`;
  const { requestPem } = await makeRequest({ service: "node", name: node });
  const spec = {
    signerName: NODE_SIGNER,
    usages: NODE_CERTIFICATE_USAGES,
    request: Buffer.from(requestPem).toString("base64"),
  };
  const kind = "CertificateSigningRequest";
  await cluster.create({ apiVersion: "certificates.k8s.io/v1", kind, metadata: { name }, spec } as KubeObject);
  return name;
}

async function readRequestStatus(name: string): Promise<RequestStatus> {
  const path = `/apis/certificates.k8s.io/v1/certificatesigningrequests/${name}`;
  return ((await plane.admin.send("GET", path)).body as { status?: RequestStatus }).status ?? {};
}

const awaitVerdict = (name: string): Promise<unknown> =>
  waitFor("verdict", async () => (await readRequestStatus(name)).conditions?.[0]);
