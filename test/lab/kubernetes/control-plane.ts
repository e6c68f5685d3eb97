/**
 * A real Kubernetes control plane for a test: etcd and kube-apiserver, with controller manager and scheduler when asked for.
 *
 * It lives on loopback of the machine, on a port of its own, or at an address inside a network namespace of the caller's, at
 * port 6443. etcd listens on a unix socket in a directory that only its owner may enter, so nobody else gets at the store.
 * Data are in memory and nothing is kept: `stop` kills, and removes the directory.
 *
 * A test that is killed takes the programs with it: each asks the kernel to kill it when its parent dies. Its directory is
 * removed by the next lab or control plane that starts, as those of labs are (test/lab/hosts.ts).
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { Failure } from "../../../src/lib/failure.ts";
import { type LabRecord, removeDeadLabs, removeLeftovers, volatileBase, writeLabRecord } from "../hosts.ts";
import { ApiClient } from "./api-client.ts";
import { Authority, type Certificate, createTokenKey } from "./certificates.ts";
import { serviceRange } from "./network.ts";
import { type ProgramName, type Programs, requirePrograms } from "./programs.ts";

export class ControlPlaneFailure extends Failure<
  | { readonly code: "ProgramEnded"; readonly program: ProgramName }
  | { readonly code: "NotReady"; readonly afterMs: number }
> {}

export type ControlPlaneOptions = {
  /** A network namespace (`ip netns`) whose loopback is up. The caller deletes it, after `stop`. */
  readonly namespace?: string;
  /** Where the API server listens; an address of the namespace, reachable from here. */
  readonly address?: string;
  readonly with?: readonly ("kube-controller-manager" | "kube-scheduler")[];
};

const basePrograms = ["etcd", "kube-apiserver"] as const;
const storeSocket = "store:2379";
const serviceAddress = "10.96.0.1";
/** For a machine that has other things to do; three seconds are usual. */
const patienceMs = 120_000;
let startedCount = 0;

/** A control plane that is ready, which means that the API server serves and has made its own first objects. */
export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const { namespace, address = "127.0.0.1" } = options;
  const programs = requirePrograms([...basePrograms, ...(options.with ?? [])]);
  await removeDeadLabs();
  startedCount += 1;
  const id = `tr${process.pid.toString(36)}-k${startedCount}`;
  const directory = join(volatileBase, `twinrun-run-${id}`);
  const record = writeLabRecord(id, { namespaces: [], directories: [directory] });
  const port = namespace === undefined ? await findFreePort(address) : 6443;
  const place = { record, directory, namespace, address, url: `https://${address}:${port}`, port };
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const plane = new ControlPlane(place, await createCertificates(directory, address), programs);
  try {
    basePrograms.forEach((name) => {
      plane.start(name);
    });
    // The others end when they have waited for ten seconds.
    await plane.waitUntilReady();
    options.with?.forEach((name) => {
      plane.start(name);
    });
    await plane.waitUntilReady();
  } catch (cause) {
    await plane.stop();
    throw cause;
  }
  return plane;
}

/** A port that nobody has. That somebody takes it before the API server does has not been seen. */
function findFreePort(address: string): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.on("error", reject).listen(0, address, () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}

type Certificates = Awaited<ReturnType<typeof createCertificates>>;

/** RBAC knows the users and groups in these subjects. */
async function createCertificates(directory: string, address: string) {
  const [authority, frontAuthority, tokenKey] = await Promise.all([
    Authority.create(directory, "ca"),
    Authority.create(directory, "front-ca"),
    createTokenKey(directory),
  ]);
  const hosts = ["localhost", "127.0.0.1", address, serviceAddress, "kubernetes", "kubernetes.default"];
  const [server, admin, controllerManager, scheduler, kubeletClient, frontClient] = await Promise.all([
    authority.issue({
      name: "server",
      subject: "/CN=kube-apiserver",
      hosts: [...new Set([...hosts, "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"])],
    }),
    authority.issue({ name: "admin", subject: "/O=system:masters/CN=admin" }),
    authority.issue({ name: "kube-controller-manager", subject: "/CN=system:kube-controller-manager" }),
    authority.issue({ name: "kube-scheduler", subject: "/CN=system:kube-scheduler" }),
    authority.issue({ name: "kubelet-client", subject: "/O=system:masters/CN=kube-apiserver-kubelet-client" }),
    frontAuthority.issue({ name: "front-client", subject: "/CN=front-proxy-client" }),
  ]);
  return { authority, tokenKey, server, admin, controllerManager, scheduler, kubeletClient, frontClient };
}

type Place = {
  readonly record: LabRecord;
  readonly directory: string;
  readonly namespace: string | undefined;
  readonly address: string;
  readonly url: string;
  readonly port: number;
};

/** Made by {@link startControlPlane}. */
export class ControlPlane {
  readonly #place: Place;
  readonly #certificates: Certificates;
  readonly #programs: Programs;
  readonly #children = new Map<ProgramName, ChildProcess>();
  #end: Promise<void> | undefined;
  /** Requests as a member of system:masters, who may do everything. */
  readonly admin: ApiClient;
  /** The same for kubectl. */
  readonly kubeconfigPath: string;

  constructor(place: Place, certificates: Certificates, programs: Programs) {
    this.#place = place;
    this.#certificates = certificates;
    this.#programs = programs;
    this.admin = new ApiClient(place.url, certificates.admin);
    this.kubeconfigPath = this.writeKubeconfig("admin", certificates.admin);
  }

  get url(): string {
    return this.#place.url;
  }

  /** Certificates for more users and nodes are issued by this one. */
  get authority(): Authority {
    return this.#certificates.authority;
  }

  /** What a program said, one file each; removed with everything else. */
  logPath(name: ProgramName): string {
    return join(this.#place.directory, `${name}.log`);
  }

  /** Requests as whoever has this certificate. */
  clientOf(certificate: Certificate): ApiClient {
    return new ApiClient(this.url, certificate);
  }

  /** A kubeconfig beside the others, for whoever has this certificate; JSON is YAML too. */
  writeKubeconfig(name: string, { certPath, keyPath, authorityPath }: Certificate): string {
    const path = join(this.#place.directory, `${name}.kubeconfig`);
    const content = {
      apiVersion: "v1",
      kind: "Config",
      "current-context": name,
      clusters: [{ name: "lab", cluster: { server: this.url, "certificate-authority": authorityPath } }],
      users: [{ name, user: { "client-certificate": certPath, "client-key": keyPath } }],
      contexts: [{ name, context: { cluster: "lab", user: name } }],
    };
    writeFileSync(path, JSON.stringify(content, undefined, 2), { mode: 0o600 });
    return path;
  }

  /** Starts one of the programs, with what it stored when it was {@link kill}ed. */
  start(name: ProgramName): void {
    const { namespace } = this.#place;
    const path = present(this.#programs.get(name), `${name} is one of this control plane's programs`);
    const enter = namespace === undefined ? [] : ["ip", "netns", "exec", namespace];
    const command = [...enter, "setpriv", "--pdeathsig", "KILL", path, ...this.#listArguments(name)];
    const log = openSync(this.logPath(name), "a");
    // A session of its own: ^C in the terminal reaches only the test, which then ends everything.
    const child = spawn(present(command[0], "a command"), command.slice(1), {
      cwd: this.#place.directory,
      detached: true,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    child.on("error", (error) => {
      writeFileSync(this.logPath(name), `${error.message}\n`, { flag: "a" });
    });
    this.#children.set(name, child);
  }

  /** Ends one of the programs as a crash would. */
  async kill(name: ProgramName): Promise<void> {
    const child = this.#children.get(name);
    if (child !== undefined) {
      await killChild(child);
    }
  }

  async waitUntilReady(): Promise<void> {
    const startedAtMs = performance.now();
    while (!(await this.#isReady())) {
      this.#assertAlive();
      const afterMs = Math.round(performance.now() - startedAtMs);
      if (afterMs > patienceMs) {
        const said = this.#readLogEnd("kube-apiserver");
        throw new ControlPlaneFailure({ code: "NotReady", afterMs }, `not ready after ${afterMs} ms:\n${said}`);
      }
      await sleep(50);
    }
  }

  /** Idempotent: whoever calls waits for the same end. */
  stop(): Promise<void> {
    this.#end ??= this.#destroy();
    return this.#end;
  }

  async #destroy(): Promise<void> {
    this.admin.close();
    await Promise.all([...this.#children.values()].map(killChild));
    await removeLeftovers(this.#place.record);
  }

  async #isReady(): Promise<boolean> {
    const isThere = async (path: string): Promise<boolean> =>
      this.admin.send("GET", path).then(
        ({ status }) => status === 200,
        () => false,
      );
    // Without its service account no pod can be made in a namespace; the controller manager makes it.
    const ofManager = this.#children.has("kube-controller-manager")
      ? ["/api/v1/namespaces/default/serviceaccounts/default"]
      : [];
    const answers = await Promise.all(["/readyz", "/api/v1/namespaces/default", ...ofManager].map(isThere));
    return answers.every(Boolean);
  }

  #assertAlive(): void {
    for (const [program, { exitCode, signalCode, pid }] of this.#children) {
      if (exitCode !== null || signalCode !== null || pid === undefined) {
        const said = this.#readLogEnd(program);
        throw new ControlPlaneFailure({ code: "ProgramEnded", program }, `${program} ended at once:\n${said}`);
      }
    }
  }

  #readLogEnd(name: ProgramName): string {
    return readFileSync(this.logPath(name), "utf8").trimEnd().split("\n").slice(-10).join("\n");
  }

  #listArguments(name: ProgramName): string[] {
    switch (name) {
      case "etcd":
        return this.#listEtcdArguments();
      case "kube-apiserver":
        return this.#listApiServerArguments();
      case "kube-controller-manager":
        return this.#listControllerManagerArguments();
      default:
        return [
          `--kubeconfig=${this.writeKubeconfig(name, this.#certificates.scheduler)}`,
          ...["--leader-elect=false", "--secure-port=0"],
        ];
    }
  }

  /** etcd takes a socket only in the form of a host and a port; it makes a file of that name where it was started. */
  #listEtcdArguments(): string[] {
    const [clients, peers] = [`unix://${storeSocket}`, "unix://peers:2380"];
    return [
      ...["--data-dir=etcd", "--name=lab", "--logger=zap", "--log-level=warn"],
      ...[`--listen-client-urls=${clients}`, `--advertise-client-urls=${clients}`],
      ...[`--listen-peer-urls=${peers}`, `--initial-advertise-peer-urls=${peers}`, `--initial-cluster=lab=${peers}`],
    ];
  }

  #listApiServerArguments(): string[] {
    const { directory, address, port } = this.#place;
    const { authority, server, kubeletClient, frontClient, tokenKey } = this.#certificates;
    return [
      `--etcd-servers=unix://${join(directory, storeSocket)}`,
      ...[`--bind-address=${address}`, `--advertise-address=${address}`, `--secure-port=${port}`],
      // What is on loopback cannot be an endpoint of the service `kubernetes`, and is said to be wrong every ten seconds.
      ...(address.startsWith("127.") ? ["--endpoint-reconciler-type=none"] : []),
      ...[`--tls-cert-file=${server.certPath}`, `--tls-private-key-file=${server.keyPath}`],
      ...[`--client-ca-file=${authority.certPath}`, `--service-cluster-ip-range=${serviceRange}`],
      ...["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"],
      ...["--service-account-issuer=https://kubernetes.default.svc"],
      ...[`--service-account-key-file=${tokenKey.publicPath}`],
      ...[`--service-account-signing-key-file=${tokenKey.privatePath}`],
      ...[`--kubelet-client-certificate=${kubeletClient.certPath}`, `--kubelet-client-key=${kubeletClient.keyPath}`],
      "--kubelet-preferred-address-types=InternalIP",
      // Webhooks and aggregated API servers are reached at their endpoints: there is no kube-proxy beside the API server.
      "--enable-aggregator-routing=true",
      ...[`--requestheader-client-ca-file=${frontClient.authorityPath}`],
      ...["--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User"],
      ...["--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-"],
      ...[`--proxy-client-cert-file=${frontClient.certPath}`, `--proxy-client-key-file=${frontClient.keyPath}`],
    ];
  }

  #listControllerManagerArguments(): string[] {
    const { authority, controllerManager, tokenKey } = this.#certificates;
    return [
      `--kubeconfig=${this.writeKubeconfig("kube-controller-manager", controllerManager)}`,
      ...["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials"],
      ...[`--root-ca-file=${authority.certPath}`, `--service-account-private-key-file=${tokenKey.privatePath}`],
      ...[`--cluster-signing-cert-file=${authority.certPath}`, `--cluster-signing-key-file=${authority.keyPath}`],
    ];
  }
}

/** Nothing of it is kept, so there is nothing to end in order. */
function killChild(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) {
    return Promise.resolve();
  }
  return new Promise((resolve) => {
    child.once("exit", () => {
      resolve();
    });
    child.kill("SIGKILL");
  });
}
