/**
 * A real Kubernetes on this machine: a control plane and nodes (three, if nobody says otherwise) on the networks of network.ts,
 * a storage class whose volumes are directories on the nodes, and all ways in which hardware fails.
 *
 * Nothing stays behind. A lab ends with `stop`; one whose process was killed with -9 loses its programs at once, as each asks
 * the kernel to be killed with its parent, and its files when the next lab starts or by `node test/lab/hosts.ts clean`.
 */
import { type ChildProcess } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { present } from "../../../src/lib/assert.ts";
import { REPLICATION_LINKS_ANNOTATION } from "../../../src/api/requests.ts";
import { type LabRecord, removeDeadLabs, removeLeftovers, type SpawnOptions, writeLabRecord } from "../hosts.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { FaultyVolumes } from "./faulty-volumes.ts";
import { provideImageStore } from "./image-store.ts";
import { LabClient } from "./lab-client.ts";
import { LabNetwork, type NetworkName } from "./network.ts";
import { LabNode } from "./node.ts";
import { LabStorage } from "./storage.ts";

export type KubernetesLabOptions = {
  /** Names of at most ten characters. */
  readonly nodes?: readonly string[];
  /** docker-archives that every node gets. */
  readonly images?: readonly string[];
  /** Where disks of nodes are, several GiB. */
  readonly diskBase?: string;
  readonly say?: (line: string) => void;
};

let startedCount = 0;

/** A lab whose nodes are Ready and have all images. */
export async function startLab(options: KubernetesLabOptions = {}): Promise<KubernetesLab> {
  const { nodes = ["node-a", "node-b", "node-c"], images = [], diskBase = "/tmp", say = () => undefined } = options;
  await removeDeadLabs(say);
  startedCount += 1;
  const id = `tr${process.pid.toString(36)}-l${startedCount}`;
  const directory = join(diskBase, `twinrun-lab-${id}`);
  const namespaces = LabNetwork.listNamespaces(id, nodes);
  const record = writeLabRecord(id, { namespaces, directories: [directory] });
  mkdirSync(directory, { mode: 0o700 });
  const imageStore = provideImageStore(images, say);
  // Whoever boots a node gets to know.
  imageStore.catch(() => undefined);
  let lab: KubernetesLab | undefined;
  try {
    const network = LabNetwork.create(id, nodes);
    const plane = await startControlPlane({
      namespace: network.planeNamespace,
      address: network.planeAddress,
      with: ["kube-controller-manager", "kube-scheduler"],
    });
    say("the control plane serves");
    lab = new KubernetesLab({ record, directory, network, plane, nodes, imageStore });
    await lab.boot(say);
    return lab;
  } catch (cause) {
    await (lab === undefined ? removeLeftovers(record) : lab.stop());
    throw cause;
  }
}

type Parts = {
  readonly record: LabRecord;
  readonly directory: string;
  readonly network: LabNetwork;
  readonly plane: ControlPlane;
  readonly nodes: readonly string[];
  readonly imageStore: Promise<string>;
};

/** Made by {@link startLab}. */
export class KubernetesLab {
  readonly plane: ControlPlane;
  readonly network: LabNetwork;
  readonly #record: LabRecord;
  readonly #nodes: ReadonlyMap<string, LabNode>;
  readonly #storage: LabStorage;
  readonly #client: LabClient;
  #end: Promise<void> | undefined;

  constructor({ record, directory, network, plane, nodes, imageStore }: Parts) {
    this.#record = record;
    this.network = network;
    this.plane = plane;
    this.#nodes = new Map(
      nodes.map((name) => {
        const place = network.placeOf(name);
        const files = { directory: join(directory, name), imageStore };
        return [name, new LabNode({ plane, name, place, ...files, id: place.namespace })];
      }),
    );
    this.#client = new LabClient(network.clientNamespace);
    this.#storage = new LabStorage(plane.admin, (node, path) => this.#nodes.get(node)?.diskPath(path));
  }

  get kubeconfigPath(): string {
    return this.plane.kubeconfigPath;
  }

  get nodeNames(): readonly string[] {
    return [...this.#nodes.keys()];
  }

  node(name: string): LabNode {
    return present(this.#nodes.get(name), `there is a node ${name}`);
  }

  /** Used while the lab is being made: everything at once, for most of it is waiting. */
  async boot(say: (line: string) => void): Promise<void> {
    await this.#storage.start();
    await Promise.all(
      [...this.#nodes.values()].map(async (node) => {
        const bootedAt = new Date();
        this.network.addNode(node.name);
        await node.boot();
        await this.#finish(node, bootedAt);
        say(`${node.name} is ready`);
      }),
    );
  }

  isPoweredOn(name: string): boolean {
    return this.node(name).initPid !== undefined;
  }

  /** Takes the power from a node: silence first, then everything in it is gone. Its disk stays as it is. */
  async powerOff(name: string): Promise<void> {
    if (!this.isPoweredOn(name)) {
      return;
    }
    this.network.dropCarrier(name);
    await this.node(name).kill();
  }

  /**
   * Resolves when the node is Ready; its pods are then still to be started. Its links are whole again, but for what was cut
   * between it and another node.
   */
  async powerOn(name: string): Promise<void> {
    if (this.isPoweredOn(name)) {
      return;
    }
    const bootedAt = new Date();
    this.network.addNode(name);
    await this.node(name).boot();
    await this.#storage.faulty?.mountAgain(name);
    await this.#finish(this.node(name), bootedAt);
  }

  /** Silence between a node and a network; with a `peer` only between these two. Nobody sees a carrier go. */
  cutLink(node: string, network: NetworkName, peer?: string): void {
    this.network.cutLink(node, network, peer);
  }

  mendLink(node: string, network: NetworkName, peer?: string): void {
    this.network.mendLink(node, network, peer);
  }

  /** The cable of a node in a network is pulled out, and the node sees its carrier go; or it is put back. */
  pullCable(node: string, network: NetworkName): void {
    this.network.setCarriers(node, [network], "down");
  }

  plugCable(node: string, network: NetworkName): void {
    this.network.setCarriers(node, [network], "up");
  }

  /** Volumes that are made from now on fail when they are told to. */
  provideFaultyVolumes(): FaultyVolumes {
    this.#storage.faulty ??= new FaultyVolumes((name) => this.node(name));
    return this.#storage.faulty;
  }

  /** The API server crashes, and is not started again before {@link startApiServer}. */
  stopApiServer(): Promise<void> {
    return this.plane.kill("kube-apiserver");
  }

  /**
   * Resolves when it serves. After a minute without it that takes as long again: Kubernetes' own programs have by then come to
   * look for it every thirty seconds or so. Until they do, controllers see no changes, and nodes are taken for lost.
   */
  startApiServer(): Promise<void> {
    this.plane.start("kube-apiserver");
    return this.plane.waitUntilReady();
  }

  stopKubelet(node: string): Promise<void> {
    return this.node(node).stopProgram("kubelet");
  }

  startKubelet(node: string): Promise<void> {
    return this.node(node).startProgram("kubelet");
  }

  /** Runs a command on a node, as its root in all its namespaces; its standard output, or a failure with what it said. */
  nodeExec(node: string, command: readonly string[]): Promise<string> {
    return this.node(node).execute(command);
  }

  async importImage(node: string, archive: string): Promise<void> {
    await this.node(node).importImage(archive);
  }

  /** A program on the client ({@link LabClient}). */
  spawn(host: "c", command: readonly string[], options?: SpawnOptions): ChildProcess {
    return this.#client.spawn(host, command, options);
  }

  execute(host: "c", command: readonly string[]): Promise<string> {
    return this.#client.execute(host, command);
  }

  /** Idempotent: whoever calls waits for the same end. */
  stop(): Promise<void> {
    this.#end ??= this.#destroy();
    return this.#end;
  }

  async #destroy(): Promise<void> {
    this.#storage.stop();
    await this.#storage.faulty?.mendDisks();
    await Promise.all([...this.#nodes.values()].map((node) => node.kill()));
    await this.#storage.faulty?.close();
    await this.plane.stop();
    this.network.close();
    await removeLeftovers(this.#record);
  }

  /** Waits until it is Ready, and says on its behalf what a kubelet does not find out. */
  async #finish(node: LabNode, bootedAt: Date): Promise<void> {
    await node.waitUntilReady(bootedAt);
    const { address, replicationAddress } = node.place;
    const annotations = {
      [REPLICATION_LINKS_ANNOTATION]: `management=${address},replication=${replicationAddress}`,
    };
    const storage = { "ephemeral-storage": "50Gi" };
    const patch = (path: string, body: object) =>
      this.plane.admin.send("PATCH", path, { body, type: "application/merge-patch+json" });
    await patch(`/api/v1/nodes/${node.name}`, { metadata: { annotations } });
    await patch(`/api/v1/nodes/${node.name}/status`, { status: { capacity: storage, allocatable: storage } });
  }
}
