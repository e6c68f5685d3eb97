/**
 * A real node for a control plane of test/lab/kubernetes: kubelet, containerd, CNI and kube-proxy in namespaces of its own
 * (node.sh).
 *
 * containerd, runc and the CNI plugins come from Debian's packages, unpacked beside the built programs by build.sh and not
 * installed. There is no registry: images are given as archives, and pods ask for them with IfNotPresent or Never.
 *
 * A node sees this machine's files, but /var/lib and /var/log are its own: they are its disk, a directory here, and stay when
 * it loses power. /run is in memory and does not. Paths are those that every node has: /var/lib/kubelet, /var/log/pods,
 * /run/containerd/containerd.sock.
 */
import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../../src/lib/assert.ts";
import { Failure } from "../../../src/lib/failure.ts";
import { collectOutput } from "../command-output.ts";
import { type LabRecord, removeLeftovers, writeLabRecord } from "../hosts.ts";
import { busyboxImage, copyImageStore } from "./image-store.ts";
import { type ControlPlane } from "./control-plane.ts";
import { type NodePlace, podRange } from "./network.ts";
import { requireDebianRoot, requirePrograms } from "./programs.ts";

export { findDebianRoot } from "./programs.ts";

export class NodeFailure extends Failure<{ readonly code: "NodeNotReady" }> {}

export type NodeOptions = {
  readonly plane: ControlPlane;
  readonly name: string;
  readonly place: NodePlace;
  /** The node's disk. */
  readonly directory: string;
  /** What it has of images at first, of image-store.ts. */
  readonly imageStore: Promise<string>;
  /** Names the node's control groups, as no other on this machine. */
  readonly id: string;
};

export type KeptProgram = "containerd" | "kube-proxy" | "kubelet";

const patienceMs = 120_000;

type Running = { readonly record: LabRecord; readonly init: ChildProcess; readonly initPid?: number };

export const containerdSocket = "/run/containerd/containerd.sock";

/** It has no power until {@link boot}. Its network is the caller's to make before that, and to remove after {@link kill}. */
export class LabNode {
  readonly #options: NodeOptions;
  readonly #files: Promise<void>;
  #running: Running | undefined;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.#files = writeFiles(options);
    // Whoever boots it gets to know.
    this.#files.catch(() => undefined);
  }

  get name(): string {
    return this.#options.name;
  }

  get place(): NodePlace {
    return this.#options.place;
  }

  /** As this machine's processes know the node's first one. */
  get initPid(): number | undefined {
    return this.#running?.initPid;
  }

  /** What the node has at `path` in /var/lib or /var/log, for who is on this machine; there too while it has no power. */
  diskPath(path: string): string {
    const inside = /^[/]var[/](lib|log)[/](.*)$/.exec(path);
    assert(inside !== null, `${path} is on the node's disk`);
    return join(this.#options.directory, `var-${inside[1] ?? ""}`, inside[2] ?? "");
  }

  /** Gives it power. Resolves as soon as containerd answers. */
  async boot(): Promise<void> {
    const { id, name, place, directory } = this.#options;
    assert(this.#running === undefined, `node ${name} has no power`);
    await this.#files;
    const kubelet = present(requirePrograms(["kubelet", "kube-proxy"]).get("kubelet"), "kubelet");
    const record = writeLabRecord(id, { namespaces: [place.namespace], directories: [], controlGroups: [id] });
    mkdirSync(this.diskPath("/var/log/"), { recursive: true });
    const log = openSync(this.diskPath("/var/log/init.log"), "a");
    const init = spawn(
      "ip",
      [
        ...["netns", "exec", place.namespace, "setpriv", "--pdeathsig", "KILL"],
        ...["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"],
        ...["bash", join(import.meta.dirname, "node.sh"), directory, name, id],
      ],
      {
        detached: true,
        stdio: ["ignore", log, log],
        env: {
          ...process.env,
          DEBIAN_ROOT: requireDebianRoot(),
          PROGRAMS: dirname(kubelet),
          NODE_ADDRESS: place.address,
        },
      },
    );
    closeSync(log);
    this.#running = { record, init };
    this.#running = { record, init, initPid: await this.#waitForInit(init) };
    await this.#waitForSocket();
  }

  /** As if the power went: everything in it dies at once. What it had on its disk stays, its network namespace does not. */
  async kill(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    if (running !== undefined) {
      await killInit(running);
      await removeLeftovers(running.record);
    }
  }

  /** A program inside the node, as its root would start it; in every namespace but those of pods. */
  spawn(command: readonly string[], stdio: StdioOptions = ["ignore", "pipe", "pipe"]): ChildProcess {
    const initPid = present(this.initPid, `node ${this.name} has power`);
    const path = `/run/lab/programs:/run/lab/debian/usr/bin:/run/lab/debian/usr/sbin:${process.env["PATH"] ?? ""}`;
    return spawn(
      "nsenter",
      [
        ...["--target", String(initPid), "--mount", "--net", "--pid", "--uts", "--wd=/"],
        "env",
        `PATH=${path}`,
        ...command,
      ],
      { detached: true, stdio },
    );
  }

  /** Runs it to its end; its standard output, or a failure with what it said. */
  execute(command: readonly string[], input: "ignore" | number = "ignore"): Promise<string> {
    return collectOutput(this.spawn(command, [input, "pipe", "pipe"]), command, this.name);
  }

  /** Pods may name what is in it from now on, with imagePullPolicy IfNotPresent or Never. */
  async importImage(archive: string): Promise<void> {
    const file = openSync(archive, "r");
    try {
      await this.execute(
        ["ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", "-"],
        file,
      );
    } finally {
      closeSync(file);
    }
  }

  /** Kills it with -9, and it is not started again. Pods go on. */
  async stopProgram(name: KeptProgram): Promise<void> {
    await this.execute(["sh", "-c", `touch /run/lab/stopped/${name} && kill -9 "$(cat /run/lab/${name}.pid)"`]);
  }

  async startProgram(name: KeptProgram): Promise<void> {
    await this.execute(["rm", "-f", `/run/lab/stopped/${name}`]);
  }

  async #waitForInit(init: ChildProcess): Promise<number> {
    for (;;) {
      assertBoots(init, this.name);
      // Until it is forked the parent still becomes one program after the other.
      const pid = init.pid === undefined ? undefined : findChild(init.pid);
      if (pid !== undefined) {
        return pid;
      }
      await sleep(10);
    }
  }

  async #waitForSocket(): Promise<void> {
    // In the first moments its /run may still be this machine's, which may have a containerd of its own.
    const command = ["sh", "-c", `test -e /run/lab/containerd.pid && ctr --address ${containerdSocket} version`];
    const startedAtMs = performance.now();
    while (
      !(await this.execute(command).then(
        () => true,
        () => false,
      ))
    ) {
      assertBoots(present(this.#running, "power").init, this.name);
      if (performance.now() - startedAtMs > patienceMs) {
        throw new NodeFailure(
          { code: "NodeNotReady" },
          `no containerd on ${this.name}: ${this.#readLogEnd("containerd")}`,
        );
      }
      await sleep(100);
    }
  }

  /** Until the kubelet of this boot says so: what the API server knows of the one before is worth nothing. */
  async waitUntilReady(bootedAt: Date): Promise<void> {
    const startedAtMs = performance.now();
    while (!(await this.#isReady(bootedAt))) {
      assertBoots(present(this.#running, "power").init, this.name);
      if (performance.now() - startedAtMs > patienceMs) {
        throw new NodeFailure(
          { code: "NodeNotReady" },
          `node ${this.name} is not ready: ${this.#readLogEnd("kubelet")}`,
        );
      }
      await sleep(100);
    }
  }

  async #isReady(bootedAt: Date): Promise<boolean> {
    const { admin } = this.#options.plane;
    const [node, lease] = await Promise.all([
      admin.send("GET", `/api/v1/nodes/${this.name}`),
      admin.send("GET", `/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/${this.name}`),
    ]);
    if (node.status !== 200 || lease.status !== 200) {
      return false;
    }
    const { status } = node.body as { status: { conditions?: { type: string; status: string }[] } };
    const { spec } = lease.body as { spec: { renewTime: string } };
    const isReady = status.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;
    return isReady && new Date(spec.renewTime) > bootedAt;
  }

  #readLogEnd(name: KeptProgram): string {
    return readFileSync(this.diskPath(`/var/log/${name}.log`), "utf8")
      .trimEnd()
      .split("\n")
      .slice(-5)
      .join("\n");
  }
}

function assertBoots({ exitCode, signalCode }: ChildProcess, name: string): void {
  if (exitCode !== null || signalCode !== null) {
    throw new NodeFailure({ code: "NodeNotReady" }, `node ${name} ended with ${signalCode ?? String(exitCode)}`);
  }
}

function findChild(pid: number): number | undefined {
  try {
    const [child = ""] = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ");
    return child === "" ? undefined : Number(child);
  } catch {
    return undefined; // It ended.
  }
}

/** With its first process a PID namespace dies; the parent ends when all of it is dead. */
async function killInit({ init, initPid }: Running): Promise<void> {
  if (init.exitCode !== null || init.signalCode !== null) {
    return;
  }
  const ended = new Promise((resolve) => init.once("exit", resolve));
  if (initPid === undefined) {
    init.kill("SIGKILL");
  } else {
    process.kill(initPid, "SIGKILL");
  }
  await ended;
}

async function writeFiles({ plane, name, directory, imageStore, id, place }: NodeOptions): Promise<void> {
  const own = join(directory, "var-lib/lab");
  mkdirSync(join(own, "cni"), { recursive: true, mode: 0o700 });
  const [, kubelet, proxy] = await Promise.all([
    imageStore.then((store) => copyImageStore(store, join(directory, "var-lib/containerd"))),
    plane.authority.issue({ name, subject: `/O=system:nodes/CN=system:node:${name}` }),
    plane.authority.issue({ name: `${name}-proxy`, subject: "/CN=system:kube-proxy" }),
  ]);
  copyFileSync(plane.writeKubeconfig(name, kubelet), join(own, "kubeconfig"));
  copyFileSync(plane.writeKubeconfig(`${name}-proxy`, proxy), join(own, "proxy-kubeconfig"));
  copyFileSync(plane.authority.certPath, join(own, "ca.crt"));
  writeFileSync(join(own, "resolv.conf"), "nameserver 127.0.0.1\n");
  writeFileSync(join(own, "containerd.toml"), containerdConfig);
  writeFileSync(join(own, "kubelet.yaml"), JSON.stringify(kubeletConfig(id)));
  writeFileSync(join(own, "kube-proxy.yaml"), JSON.stringify(proxyConfig(name)));
  writeFileSync(join(own, "cni/10-lab.conflist"), JSON.stringify(networkConfig(place)));
}

const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "${containerdSocket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${busyboxImage}"
  # Without CAP_SYS_RESOURCE nothing may get a lower score than its parent.
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/run/lab/debian/usr/lib/cni"
  conf_dir = "/var/lib/lab/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`;

const kubeletConfig = (id: string): object => ({
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  failCgroupV1: false,
  cgroupDriver: "cgroupfs",
  cgroupRoot: `/${id}`,
  enforceNodeAllocatable: [],
  failSwapOn: false,
  // The machine's root device need not be one that the kubelet knows.
  localStorageCapacityIsolation: false,
  // How full this machine is has nothing to do with the lab.
  evictionHard: { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%" },
  imageGCHighThresholdPercent: 100,
  resolvConf: "/var/lib/lab/resolv.conf",
  volumePluginDir: "/var/lib/kubelet/volume-plugins",
  containerRuntimeEndpoint: `unix://${containerdSocket}`,
  authentication: {
    anonymous: { enabled: false },
    webhook: { enabled: true },
    x509: { clientCAFile: "/var/lib/lab/ca.crt" },
  },
  authorization: { mode: "Webhook" },
});

const proxyConfig = (name: string): object => ({
  apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
  kind: "KubeProxyConfiguration",
  mode: "nftables",
  hostnameOverride: name,
  clusterCIDR: podRange,
  clientConnection: { kubeconfig: "/var/lib/lab/proxy-kubeconfig" },
  // These limits are the machine's.
  conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
});

/**
 * A pair of interfaces for each pod, no bridge: then also what goes from pod to pod of a node by a service's address comes back
 * through the node, which alone knows the way back. The route is for such addresses, which are on no interface.
 */
function networkConfig(place: NodePlace): object {
  const ipam = {
    type: "host-local",
    // A node that boots has no pods, so no address is taken.
    dataDir: "/run/cni/addresses",
    ranges: [[{ subnet: place.podRange }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  return { cniVersion: "0.4.0", name: "lab", plugins: [{ type: "ptp", ipam }] };
}
