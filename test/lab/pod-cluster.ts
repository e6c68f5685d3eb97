/**
 * The system under test on a node of Kubernetes, without a kubelet: a real API server with GuestPairs, an agent on hosts A and B
 * that follows them, a quorum on Q, and QEMUs in pods of their own (test/build/launcher-pod.ts) that somebody here makes as the
 * operator and KubeVirt would: one of the shape that a side's agent waits for, whenever that side has none.
 *
 * The API server is outside of the lab's networks; agents reach it over a relay, which can be taken away.
 */
import { chownSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { API_VERSION, encodeCrd } from "../../src/api/custom-resource.ts";
import { guestPairResource, type GuestPairSpec, type GuestPairStatus } from "../../src/api/guest-pair.ts";
import { present } from "../../src/lib/assert.ts";
import { type GuestShape } from "../../src/protocol/assignment.ts";
import { LauncherPod, QEMU_USER } from "../build/launcher-pod.ts";
import { listGuestArguments } from "./guests.ts";
import { addressOf, type HostName, type Lab } from "./hosts.ts";
import { type ControlPlane } from "./kubernetes/control-plane.ts";
import { issueCertificates, type LabCertificates, nodeName } from "./lab-certificates.ts";
import { otherHost, pairHosts, type PairHost, type PlacedGuest } from "./placement.ts";
import { Supervised } from "./supervised.ts";

const root = new URL("../..", import.meta.url).pathname;
const main = (name: string): string => join(root, "src/main", `${name}.ts`);

const namespace = "twinrun";
const quorumPort = 7400;
const LAST_LINES = 30;
const pairsPath = `/apis/${API_VERSION}/namespaces/${namespace}/guestpairs`;

export type SideSeen = NonNullable<GuestPairStatus["sides"]>[number];
/** What a disk of the guest is in its pods; one that is not told is a raw file on a volume. */
export type PodDisk =
  /** A qcow2 image in the pod over the file of the host, as KubeVirt makes it of a containerDisk. */
  | { readonly tag: "overlay" }
  /** A raw file that KubeVirt makes in the pod. */
  | { readonly tag: "settings" }
  | { readonly tag: "device"; readonly paths: Readonly<Record<PairHost, string>> };
export type PodDisks = Readonly<Record<string, PodDisk>>;

export type PairSeen = Readonly<Record<PairHost, SideSeen | undefined>>;

export class PodCluster {
  readonly lab: Lab;
  readonly plane: ControlPlane;
  readonly guest: PlacedGuest;
  readonly #tls: LabCertificates;
  readonly #podDisks: PodDisks;
  readonly quorum: Supervised;
  readonly agents: Readonly<Record<PairHost, Supervised>>;
  readonly #relays: Readonly<Record<PairHost, Supervised>>;
  readonly #pods = new Map<PairHost, LauncherPod>();
  readonly #sockets = new Set<Socket>();
  #gate: Server | undefined;
  /** Every pod that was made, in order. */
  readonly shapes: string[] = [];
  #keeping: NodeJS.Timeout | undefined;

  constructor(
    parts: Pick<PodCluster, "lab" | "plane" | "guest"> & {
      readonly tls: PodCluster["tls"];
      readonly podDisks: PodDisks;
    },
  ) {
    const { lab } = parts;
    this.#podDisks = parts.podDisks;
    this.lab = lab;
    this.plane = parts.plane;
    this.guest = parts.guest;
    this.#tls = parts.tls;
    const { certPath, keyPath, caPath } = this.#tls.q;
    this.quorum = this.#supervise("q", "quorum", [
      ...[main("quorum"), "--listen", `${addressOf("q", "management")}:${quorumPort}`],
      ...["--store", `file:${join(lab.diskDirectory("q"), "quorum")}`],
      ...["--cert", certPath, "--key", keyPath, "--ca", caPath],
    ]);
    this.agents = { a: this.#planAgent("a"), b: this.#planAgent("b") };
    this.#relays = { a: this.#planRelay("a"), b: this.#planRelay("b") };
  }

  get tls(): LabCertificates {
    return this.#tls;
  }

  /** Everything but the pair itself. */
  async start(): Promise<void> {
    await this.#expect("POST", "/api/v1/namespaces", { metadata: { name: namespace } });
    await this.#expect("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", encodeCrd(guestPairResource));
    await this.#openGate();
    this.quorum.start();
    for (const host of pairHosts) {
      this.#relays[host].start();
      this.agents[host].start();
    }
    this.#keeping = setInterval(() => void this.#keepPods().catch(() => undefined), 200);
  }

  async createPair(): Promise<void> {
    const sides = pairHosts.map((host) => ({
      node: nodeName(host),
      vmi: { namespace, name: `${this.guest.name}-${host}` },
      links: (["replication1", "replication2"] as const).map((name) => ({ name, host: addressOf(host, name) })),
    }));
    const spec = {
      ...{ guest: this.guest.name, mode: "FaultTolerant", roles: { term: 1, primary: nodeName("a") }, sides },
      ...{
        disks: this.guest.specs.a.disks.map(({ id }) => id),
        podDisks: Object.keys(this.#podDisks).filter((id) => this.#podDisks[id]?.tag !== "device"),
        port: 7500,
        checkpoint: {},
        failover: { detectionTimeoutMs: 2_000 },
      },
    };
    const metadata = { name: this.guest.name, namespace };
    for (;;) {
      // The kind is served a moment after its definition was taken.
      const { status } = await this.plane.admin.send("POST", pairsPath, {
        body: { apiVersion: API_VERSION, kind: "GuestPair", metadata, spec },
      });
      if (status === 201) {
        return;
      }
    }
  }

  async patchPair(patch: { readonly spec?: Partial<GuestPairSpec>; readonly metadata?: object }): Promise<void> {
    const type = "application/merge-patch+json";
    await this.plane.admin.send("PATCH", `${pairsPath}/${this.guest.name}`, { body: patch, type });
  }

  async deletePair(): Promise<void> {
    await this.#expect("DELETE", `${pairsPath}/${this.guest.name}`);
  }

  async readPair(): Promise<PairSeen> {
    const { body } = await this.plane.admin.send("GET", `${pairsPath}/${this.guest.name}`);
    const { status } = body as { readonly status?: GuestPairStatus };
    const find = (host: PairHost): SideSeen | undefined => status?.sides?.find(({ node }) => node === nodeName(host));
    return { a: find("a"), b: find("b") };
  }

  /** Polls until `holds`; fails with what was seen last. */
  async waitFor(what: string, holds: (pair: PairSeen) => boolean, timeoutMs: number): Promise<PairSeen> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      const pair = await this.readPair();
      if (holds(pair)) {
        return pair;
      }
      if (Date.now() > deadlineMs) {
        throw new Error(`waited ${timeoutMs} ms for: ${what}\n${JSON.stringify(pair, undefined, 1)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  waitUntilProtected(primary: PairHost, timeoutMs: number): Promise<PairSeen> {
    const standby = otherHost(primary);
    return this.waitFor(
      `the guest is protected on ${primary}`,
      (pair) => pair[primary]?.state === "protected" && pair[standby]?.state === "holding",
      timeoutMs,
    );
  }

  /** On whichever side, as after a fault of an agent. */
  waitUntilWhole(timeoutMs: number): Promise<PairSeen> {
    return this.waitFor(
      "somebody runs the guest in sync",
      ({ a, b }) =>
        [a, b].some((side) => side?.state === "protected") && [a, b].some((side) => side?.state === "holding"),
      timeoutMs,
    );
  }

  podOf(host: PairHost): LauncherPod {
    return present(this.#pods.get(host), `a pod on host ${host}`);
  }

  /** Until {@link openApi} no agent reaches the API server, and none is answered any more. */
  async closeApi(): Promise<void> {
    const closed = new Promise((resolve) => this.#gate?.close(resolve));
    this.#sockets.forEach((socket) => socket.destroy());
    await closed;
  }

  openApi(): Promise<void> {
    return this.#openGate();
  }

  /** The last words of everybody, for a person who has to find out why it does not go on. */
  describe(): string {
    const logs = readdirSync(this.lab.logDirectory).map((name) => {
      const lines = readFileSync(join(this.lab.logDirectory, name), "utf8").trimEnd().split("\n");
      return `${name}:\n${lines.slice(-LAST_LINES).join("\n")}`;
    });
    const pods = [...this.#pods].map(
      ([host, { output, isOver }]) => `pod ${host}, over ${isOver}:\n${output.slice(-2_000)}`,
    );
    return [...logs, ...pods].join("\n");
  }

  async stop(): Promise<void> {
    clearInterval(this.#keeping);
    await Promise.all(
      [...Object.values(this.agents), ...Object.values(this.#relays), this.quorum].map((each) => each.stop("SIGKILL")),
    );
    await Promise.all([...this.#pods.values()].map((pod) => pod.end()));
    await this.closeApi();
  }

  /** As the operator does: a pod where a side has none, of the shape that its agent waits for. */
  async #keepPods(): Promise<void> {
    const pair = await this.readPair();
    for (const host of pairHosts) {
      const wanted = pair[host]?.wantedShape;
      const pod = this.#pods.get(host);
      if (wanted !== undefined && (pod === undefined || pod.isOver)) {
        await pod?.end();
        this.#pods.set(host, this.startPod(host, wanted));
      }
    }
  }

  startPod(host: PairHost, shape: GuestShape): LauncherPod {
    const spec = this.guest.specs[host];
    this.shapes.push(`${shape} on ${host}`);
    writeFileSync(spec.serialLog, "", { flag: "a" });
    const owned = [spec.serialLog, ...spec.disks.map(({ path }) => path)];
    const devices = Object.values(this.#podDisks).flatMap((disk) => (disk.tag === "device" ? [disk.paths[host]] : []));
    [...owned, ...devices].forEach((path) => {
      chownSync(path, QEMU_USER, QEMU_USER);
    });
    const toPod = (argument: string): string =>
      Object.entries(this.#podDisks).reduce((text, [id, disk]) => placeInPod(text, id, disk, host), argument);
    const pod = new LauncherPod({
      ...{ guest: this.guest.name, node: nodeName(host), shape },
      root: join(this.lab.diskDirectory(host), `pod-${this.shapes.length}`),
      kubelet: {
        ...{ namespace, name: `virt-launcher-${this.guest.name}-${this.shapes.length}` },
        logsDirectory: this.#logsDirectoryOf(host),
      },
      qemuArgs: listGuestArguments(spec).map((argument) => nameAsLibvirt(toPod(argument), host)),
      prepare: spec.disks.flatMap(({ id, path }) => prepareDisk(id, path, this.#podDisks[id])).join("\n"),
      mounts: [...owned, dirname(spec.image.kernel)],
      prefix: ["ip", "netns", "exec", this.lab.namespaceOf(host)],
    });
    pod.process.once("exit", () => {
      writeFileSync(join(this.lab.logDirectory, `pod-${host}.log`), pod.output, { flag: "a" });
    });
    return pod;
  }

  #supervise(host: HostName, name: string, program: readonly string[]): Supervised {
    const logPath = join(this.lab.logDirectory, `${name}.log`);
    return new Supervised({ lab: this.lab, host, logPath, command: [process.execPath, ...program] });
  }

  #planAgent(host: PairHost): Supervised {
    const config = {
      node: nodeName(host),
      runDirectory: this.lab.runDirectory(host),
      assignments: "kubernetes",
      kubernetes: { namespace, kubeconfig: this.plane.kubeconfigPath },
      quorum: [{ host: addressOf("q", "management"), port: quorumPort }],
      tls: this.#tls[host],
      cacheDirectory: join(this.lab.diskDirectory(host), "code-cache"),
      podLogsDirectory: this.#logsDirectoryOf(host),
    };
    const path = join(this.lab.diskDirectory(host), "agent.json");
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, JSON.stringify(config, undefined, 2));
    return this.#supervise(host, `agent-${host}`, [main("agent"), "--config", path]);
  }

  /** Kubelet's. */
  #logsDirectoryOf(host: PairHost): string {
    return join(this.lab.diskDirectory(host), "pod-logs");
  }

  get #gatePath(): string {
    return join(this.lab.diskDirectory("q"), "api.sock");
  }

  /** On the host's own loopback, where the kubeconfig says that the API server is. */
  #planRelay(host: PairHost): Supervised {
    const script = `const net = require("node:net");
      net.createServer((near) => {
        const far = net.connect(${JSON.stringify(this.#gatePath)});
        for (const [one, other] of [[near, far], [far, near]]) {
          one.pipe(other);
          one.on("error", () => other.destroy()).on("close", () => other.destroy());
        }
      }).listen(${new URL(this.plane.url).port}, "127.0.0.1");`;
    return this.#supervise(host, `relay-${host}`, ["-e", script]);
  }

  #openGate(): Promise<void> {
    rmSync(this.#gatePath, { force: true });
    const { hostname: host, port } = new URL(this.plane.url);
    this.#gate = createServer((near) => {
      const far = connect({ host, port: Number(port) });
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(one);
        one.pipe(other);
        one.on("error", () => other.destroy());
        one.on("close", () => {
          this.#sockets.delete(one);
          other.destroy();
        });
      }
    });
    return new Promise((resolve) => this.#gate?.listen(this.#gatePath, resolve));
  }

  async #expect(method: string, path: string, body?: unknown): Promise<void> {
    const { status, body: answer } = await this.plane.admin.send(method, path, body === undefined ? {} : { body });
    if (status >= 300) {
      throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`);
    }
  }
}

/** Where KubeVirt keeps what is written to a containerDisk. */
export const overlayPathOf = (id: string): string => `/var/run/kubevirt-ephemeral-disks/disk-data/${id}/disk.qcow2`;

function prepareDisk(id: string, path: string, disk: PodDisk | undefined): readonly string[] {
  const overlay = overlayPathOf(id);
  return disk?.tag === "overlay"
    ? [`mkdir -p ${dirname(overlay)}`, `qemu-img create -q -f qcow2 -b ${path} -F raw ${overlay}`]
    : [];
}

/** The argument of a raw file, for what the disk is in the pod. */
function placeInPod(argument: string, id: string, disk: PodDisk, host: PairHost): string {
  const place = (driver: string, format: string, path: string): string =>
    argument
      .replace(new RegExp(`^driver=file,(node-name=${id}-file),filename=[^,]+`), `driver=${driver},$1,filename=${path}`)
      .replace(new RegExp(`^driver=raw,(node-name=${id}),`), `driver=${format},$1,`);
  switch (disk.tag) {
    case "overlay":
      return place("file", "qcow2", overlayPathOf(id));
    case "device":
      return place("host_device", "raw", disk.paths[host]);
    case "settings":
      return argument;
  }
}

/** Devices as the hook's VMIs have them; nodes numbered as libvirt does, and not alike on both sides. */
function nameAsLibvirt(argument: string, host: PairHost): string {
  const number = (disk: string): number => (host === "a" ? 1 + Number(disk) : 9 - Number(disk));
  return argument
    .replace(/disk(\d)-device/, (_, disk: string) => `ua-disk${disk}`)
    .replace(
      /((?:node-name|file)=)disk(\d)-file/,
      (_, key: string, disk: string) => `${key}libvirt-${number(disk)}-storage`,
    )
    .replace(
      /((?:node-name|drive)=)disk(\d)(?=,)/,
      (_, key: string, disk: string) => `${key}libvirt-${number(disk)}-format`,
    );
}

/** Makes the certificates and the configuration of everything; starts nothing. */
export async function createPodCluster(
  lab: Lab,
  plane: ControlPlane,
  guest: PlacedGuest,
  podDisks: PodDisks = {},
): Promise<PodCluster> {
  return new PodCluster({ lab, plane, guest, podDisks, tls: await issueCertificates(lab) });
}
