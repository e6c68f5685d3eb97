/** The quorum's processes with their records in Leases of a real API server, and an agent's way to find them. */
import { afterAll, beforeAll, expect, jest, test } from "@jest/globals";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "node:tls";
import { QuorumEndpoints } from "../../../src/agent/quorum-endpoints.ts";
import { Cluster } from "../../../src/kube/cluster.ts";
import { createAuthority, filesOf, issueCertificate } from "../../../src/net/pki.ts";
import { QuorumConnection } from "../../../src/net/quorum-connection.ts";
import { TlsCredentials } from "../../../src/net/tls.ts";
import { type Endpoint } from "../../../src/protocol/assignment.ts";
import { silentLog } from "../../../src/telemetry/log.ts";
import { aRequest } from "../../quorum/records.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";
import { create, createAccount, mountToken, writeTokenKubeconfig } from "./service-accounts.ts";

const namespace = "twinrun";
const startMsMax = 180_000;
jest.setTimeout(startMsMax);
const script = new URL("../../../src/main/quorum.ts", import.meta.url).pathname;

let plane: ControlPlane;
let directory = "";
let kubeconfigPath = "";
const replicas: Replica[] = [];

type Replica = { readonly child: ChildProcess; readonly port: number; readonly healthDirectory: string };

const isReady = ({ healthDirectory }: Replica): boolean => existsSync(join(healthDirectory, "ready"));

function startReplica(name: string): Promise<Replica> {
  const { certPath, keyPath, caPath } = filesOf(directory, { service: "quorum", name: "twinrun" });
  const healthDirectory = join(directory, `health-${name}`);
  const args = [
    ...[script, "--listen", "127.0.0.1:0", "--store", "lease", "--namespace", namespace],
    ...["--cert", certPath, "--key", keyPath, "--ca", caPath, "--health-directory", healthDirectory],
  ];
  const env = { ...process.env, KUBECONFIG: kubeconfigPath };
  const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let said = "";
    child.stdout.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      const port = Number(/"port":([0-9]+),"msg":"quorum listens"/.exec(said)?.[1] ?? 0);
      if (port > 0) {
        const replica = { child, port, healthDirectory };
        replicas.push(replica);
        resolve(replica);
      }
    });
    child.once("close", () => {
      reject(new Error(said));
    });
  });
}

/** As the engine of this node asks, patiently. */
async function ask<T>(
  node: string,
  ports: readonly number[],
  act: (quorum: QuorumConnection) => Promise<T>,
): Promise<T> {
  const credentials = await TlsCredentials.open(filesOf(directory, { service: "node", name: node }));
  const endpoints = ports.map((port) => ({ host: "127.0.0.1", port }));
  const timing = { askTimeoutMs: 20_000, answerTimeoutMs: 5_000, connectTimeoutMs: 10_000 };
  const quorum = new QuorumConnection({ endpoints, credentials, timing });
  try {
    return await act(quorum);
  } finally {
    quorum.close();
    credentials.close();
  }
}

async function waitUntil(what: string, holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 60_000;
  while (!holds()) {
    expect({ what, isLate: performance.now() > endMs }).toEqual({ what, isLate: false });
    await sleep(20);
  }
}

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("the quorum on Kubernetes", () => {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "quorum-service-"));
    plane = await startControlPlane();
    await create(plane, "/api/v1/namespaces", { metadata: { name: namespace } });
    await createAccount(plane, {
      ...{ namespace, name: "twinrun-quorum" },
      rules: [{ apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get", "create", "patch"] }],
    });
    const mounted = await mountToken(plane, { namespace, account: "twinrun-quorum" }, join(directory, "mounted"));
    kubeconfigPath = writeTokenKubeconfig(plane, mounted);
    await createAuthority(directory);
    await issueCertificate(directory, { identity: { service: "quorum", name: "twinrun" } });
    await Promise.all(["a", "b"].map((name) => issueCertificate(directory, { identity: { service: "node", name } })));
  }, startMsMax);

  afterAll(async () => {
    replicas.forEach(({ child }) => child.kill("SIGKILL"));
    await (plane as ControlPlane | undefined)?.stop();
    rmSync(directory, { recursive: true, force: true });
  }, startMsMax);

  test("replicas share the records, answer nobody without a certificate, and one of them may die at any moment", async () => {
    const [one, other] = await Promise.all([startReplica("one"), startReplica("other")]);
    await waitUntil("both are ready", () => isReady(one) && isReady(other));

    expect(await ask("a", [one.port], (quorum) => quorum.ask(aRequest()))).toMatchObject({ tag: "granted" });
    expect(await ask("b", [other.port], (quorum) => quorum.read("guest"))).toMatchObject({
      record: { owner: "a", peer: "b" },
    });
    expect(await ask("b", [other.port], (quorum) => quorum.ask(aRequest({ by: "a" })))).toMatchObject({
      failure: { detail: { code: "ForeignNode" } },
    });
    expect(await isLetIn(one.port)).toBe(false);

    one.child.kill("SIGKILL");
    const change = { tag: "declareInSync", epoch: 7 } as const;
    const request = aRequest({ requestId: "r2", expectedVersion: 1, change });
    const ports = [one.port, other.port];
    expect(await ask("a", ports, (quorum) => quorum.ask(request))).toMatchObject({ tag: "granted" });
    const takeOver = aRequest({ by: "b", requestId: "r3", expectedVersion: 2, change: { tag: "takeOver" } });
    expect(await ask("b", ports, (quorum) => quorum.ask(takeOver))).toMatchObject({
      tag: "granted",
      record: { owner: "b", term: 2 },
    });

    const ended = new Promise((resolve) => other.child.once("close", resolve));
    other.child.kill("SIGTERM");
    expect(await ended).toBe(0);
    expect(isReady(other)).toBe(false);
  });

  test("an agent follows the Service's replicas, and remembers them", async () => {
    const statePath = join(directory, "endpoints.json");
    const lists: (readonly Endpoint[])[] = [];
    const open = (): QuorumEndpoints => {
      const onChanged = (endpoints: readonly Endpoint[]): void => {
        lists.push(endpoints);
      };
      const cluster = Cluster.fromKubeconfig(plane.kubeconfigPath);
      return new QuorumEndpoints(cluster, {
        ...{ namespace, service: "twinrun-quorum", statePath, onChanged, log: silentLog },
      });
    };
    const hosts = (): string[] => (lists.at(-1) ?? []).map(({ host, port }) => `${host}:${port}`);
    const path = `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`;
    const slice = (...addresses: string[]): object => ({
      metadata: { name: "twinrun-quorum-x", labels: { "kubernetes.io/service-name": "twinrun-quorum" } },
      addressType: "IPv4",
      endpoints: addresses.map((address) => ({ addresses: [address] })),
      ports: [{ name: "quorum", port: 7000 }],
    });
    await create(plane, path, slice("10.0.0.1", "10.0.0.2"));
    await create(plane, path, {
      ...slice("10.9.9.9"),
      metadata: { name: "foreign", labels: { "kubernetes.io/service-name": "foreign" } },
    });
    const following = open();
    following.start();
    await waitUntil("both", () => hosts().join() === "10.0.0.1:7000,10.0.0.2:7000");
    await plane.admin.send("PUT", `${path}/twinrun-quorum-x`, { body: slice("10.0.0.2", "10.0.0.3") });
    await waitUntil("the new one", () => hosts().join() === "10.0.0.2:7000,10.0.0.3:7000");
    const count = lists.length;
    await plane.admin.send("PUT", `${path}/twinrun-quorum-x`, { body: slice() });
    await sleep(500);
    expect(lists.length).toBe(count);
    await following.stop();

    lists.length = 0;
    const next = open();
    next.start();
    expect(hosts()).toEqual(["10.0.0.2:7000", "10.0.0.3:7000"]);
    await next.stop();
  });

  test("while the API server is away nothing is granted and the replica is not ready", async () => {
    const replica = await startReplica("third");
    await waitUntil("it is ready", () => isReady(replica));
    await plane.stop();
    await waitUntil("it is not ready", () => !isReady(replica));
    const request = aRequest({ guest: "late", requestId: "late" });
    expect(await ask("a", [replica.port], (quorum) => quorum.ask(request))).toMatchObject({
      tag: "unreachable",
      failure: { detail: { code: "StoreUnavailable" } },
    });
  });
});

/** Whether somebody without a certificate gets as much as a byte. */
function isLetIn(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port, rejectUnauthorized: false });
    socket.on("secureConnect", () => socket.write(Buffer.from([0, 0, 0, 2, 0x7b, 0x7d])));
    socket.on("data", () => {
      resolve(true);
    });
    socket
      .on("error", () => undefined)
      .on("close", () => {
        resolve(false);
      });
  });
}
