/**
 * A real node for a control plane of test/lab/kubernetes: kubelet, containerd and CNI in namespaces of its own (node.sh).
 *
 * containerd, runc and the CNI plugins come from Debian's packages, unpacked beside the built programs by build.sh and not
 * installed. There is no registry: images are made here of a few files, and pods ask for them with IfNotPresent.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { Failure } from "../../../src/lib/failure.ts";
import { cachePath } from "../images.ts";
import { type LabRecord, removeLeftovers, writeLabRecord } from "../hosts.ts";
import { type ControlPlane } from "./control-plane.ts";
import { requirePrograms } from "./programs.ts";

export class NodeFailure extends Failure<{ readonly code: "NodeNotReady" | "ImageNotMade" | "DebianNotUnpacked" }> {}

export type NodeOptions = {
  readonly plane: ControlPlane;
  readonly name: string;
  /** A network namespace from which the control plane can be reached, and the node's address in it. */
  readonly namespace: string;
  readonly address: string;
  /** Where its pods get their addresses, as `A.B.C.0/24`. */
  readonly podRange: string;
};

/** The image that every node has: busybox, and nothing else. */
export const busyboxImage = "docker.io/lab/busybox:1";

const patienceMs = 120_000;

/** What build.sh unpacked of Debian; undefined when it did not yet. */
export function findDebianRoot(): string | undefined {
  const root = join(cachePath(), "kubernetes/debian");
  return existsSync(root) ? root : undefined;
}

/** Made by {@link startNode}. */
export class LabNode {
  readonly #record: LabRecord;
  readonly #init: ChildProcess;

  constructor(record: LabRecord, init: ChildProcess) {
    this.#record = record;
    this.#init = init;
  }

  get isRunning(): boolean {
    return this.#init.exitCode === null && this.#init.signalCode === null;
  }

  /** As if the power went: everything in it dies at once, and its disk is thrown away. */
  async stop(): Promise<void> {
    if (this.isRunning) {
      const ended = new Promise((resolve) => this.#init.once("exit", resolve));
      this.#init.kill("SIGKILL");
      await ended;
    }
    await removeLeftovers(this.#record);
  }
}

/** Names what is the node's on this machine: its directory, its control groups, its record. */
const idOf = (name: string): string => `tr${process.pid.toString(36)}-n-${name}`;

/** A node that is Ready. Its processes end with this one, its files are removed by the next lab if `stop` was not called. */
export async function startNode(options: NodeOptions): Promise<LabNode> {
  const { plane, name, namespace } = options;
  const kubelet = present(requirePrograms(["kubelet"]).get("kubelet"), "kubelet");
  const debian = findDebianRoot();
  if (debian === undefined) {
    throw new NodeFailure({ code: "DebianNotUnpacked" }, "there is no containerd: make lab-binaries PROGRAMS=debian");
  }
  const id = idOf(name);
  const directory = `/tmp/twinrun-lab-${id}`;
  const record = writeLabRecord(id, { namespaces: [], directories: [directory], controlGroups: [id] });
  await writeFiles(options, directory, debian);
  const command = [
    ...["ip", "netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"],
    ...["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"],
    ...["bash", join(import.meta.dirname, "node.sh"), directory, name, id],
  ];
  const environment = { ...process.env, DEBIAN_ROOT: debian, KUBELET: kubelet, NODE_ADDRESS: options.address };
  const init = spawn(present(command[0], "a command"), command.slice(1), {
    detached: true,
    stdio: ["ignore", "ignore", "inherit"],
    env: environment,
  });
  const node = new LabNode(record, init);
  try {
    await waitUntilReady(plane, name, node);
  } catch (cause) {
    await node.stop();
    throw cause;
  }
  return node;
}

async function waitUntilReady(plane: ControlPlane, name: string, node: LabNode): Promise<void> {
  const startedAtMs = performance.now();
  for (;;) {
    const { body } = await plane.admin.send("GET", `/api/v1/nodes/${name}`);
    const { status } = body as { status?: { conditions?: { type: string; status: string }[] } };
    const conditions = typeof status === "object" ? (status.conditions ?? []) : [];
    if (conditions.some((condition) => condition.type === "Ready" && condition.status === "True")) {
      return;
    }
    if (!node.isRunning || performance.now() - startedAtMs > patienceMs) {
      throw new NodeFailure({ code: "NodeNotReady" }, `node ${name} is not ready: ${JSON.stringify(conditions)}`);
    }
    await sleep(100);
  }
}

async function writeFiles(options: NodeOptions, directory: string, debian: string): Promise<void> {
  const { plane, name } = options;
  for (const part of ["cni", "images"]) {
    mkdirSync(join(directory, part), { recursive: true, mode: 0o700 });
  }
  const certificate = await plane.authority.issue({ name, subject: `/O=system:nodes/CN=system:node:${name}` });
  copyFileSync(plane.writeKubeconfig(name, certificate), join(directory, "kubeconfig"));
  writeFileSync(join(directory, "resolv.conf"), "nameserver 127.0.0.1\n");
  writeFileSync(join(directory, "containerd.toml"), encodeContainerdConfig(directory, debian));
  writeFileSync(join(directory, "kubelet.yaml"), JSON.stringify(kubeletConfig(options, directory)));
  writeFileSync(join(directory, "cni/10-lab.conflist"), JSON.stringify(networkConfig(options, directory)));
  writeBusyboxImage(join(directory, "images"), debian);
}

function encodeContainerdConfig(directory: string, debian: string): string {
  return `version = 2
root = "${directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${busyboxImage}"
  # Without CAP_SYS_RESOURCE nothing may get a lower score than its parent.
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "${debian}/usr/lib/cni"
  conf_dir = "${directory}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`;
}

function kubeletConfig({ plane, name }: NodeOptions, directory: string): object {
  return {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    failCgroupV1: false,
    cgroupDriver: "cgroupfs",
    cgroupRoot: `/${idOf(name)}`,
    enforceNodeAllocatable: [],
    failSwapOn: false,
    // The machine's root device need not be one that the kubelet knows.
    localStorageCapacityIsolation: false,
    resolvConf: join(directory, "resolv.conf"),
    podLogsDir: join(directory, "pods"),
    containerRuntimeEndpoint: "unix:///run/containerd.sock",
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: plane.authority.certPath },
    },
    authorization: { mode: "Webhook" },
  };
}

/** The route is for addresses of services, which are on no interface. */
function networkConfig({ podRange }: NodeOptions, directory: string): object {
  const ipam = {
    type: "host-local",
    dataDir: join(directory, "addresses"),
    ranges: [[{ subnet: podRange }]],
    routes: [{ dst: "0.0.0.0/0" }],
  };
  return {
    cniVersion: "0.4.0",
    name: "lab",
    plugins: [{ type: "bridge", bridge: "cni0", isGateway: true, ipam }],
  };
}

/** A docker-archive: the layer, a config that knows the layer's hash, and a manifest with the image's name. */
function writeBusyboxImage(directory: string, debian: string): void {
  const layer = join(directory, "layer.tar");
  runTar("--create", "--file", layer, "--directory", debian, "bin/busybox");
  const hash = createHash("sha256").update(readFileSync(layer)).digest("hex");
  const config = {
    architecture: process.arch === "x64" ? "amd64" : process.arch,
    os: "linux",
    config: { Cmd: ["/bin/busybox", "sleep", "2147483647"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [`sha256:${hash}`] },
  };
  writeFileSync(join(directory, "config.json"), JSON.stringify(config));
  const manifest = [{ Config: "config.json", RepoTags: [busyboxImage], Layers: ["layer.tar"] }];
  writeFileSync(join(directory, "manifest.json"), JSON.stringify(manifest));
  const parts = ["config.json", "manifest.json", "layer.tar"];
  runTar("--create", "--file", join(directory, "busybox.image"), "--directory", directory, ...parts);
}

function runTar(...args: string[]): void {
  const { status, stderr } = spawnSync("tar", args, { encoding: "utf8" });
  if (status !== 0) {
    throw new NodeFailure({ code: "ImageNotMade" }, `tar ${args.join(" ")} failed: ${stderr}`);
  }
}
