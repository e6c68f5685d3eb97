/**
 * The storage class `lab-local` of a lab: a claim becomes a directory on the disk of the node that the scheduler chose for the
 * first pod that uses it, bound to that node. Deleting the claim deletes the directory.
 *
 * One of mode Block is a loop device on a file there, as large as it was claimed. It stays when the node loses power, as a disk
 * does. Nothing keeps one of mode Filesystem within its size: it has all the room that this machine has.
 */
import { chmodSync, existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type ApiClient } from "./api-client.ts";
import { type FaultyVolumes } from "./faulty-volumes.ts";
import { parseQuantity } from "./kubevirt/vmi.ts";
import { detachLoops, runCommand } from "../hosts.ts";

export const storageClass = "lab-local";

const provisioner = "twinrun.dev/lab";
/** On nodes. */
const directoriesPath = "/var/lib/lab-volumes";
const claimsPath = "/api/v1/persistentvolumeclaims";
const volumesPath = "/api/v1/persistentvolumes";
const retryMs = 500;

type Claim = {
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly uid: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec: {
    readonly storageClassName?: string;
    readonly volumeName?: string;
    readonly volumeMode?: string;
    readonly accessModes: readonly string[];
    readonly resources: { readonly requests: { readonly storage: string } };
  };
};
type Volume = {
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec: { readonly local?: { readonly path: string } };
  readonly status?: { readonly phase?: string };
};

export class LabStorage {
  /** What volumes that are made from now on are; left out: directories of the nodes' disks. */
  faulty: FaultyVolumes | undefined;
  readonly #admin: ApiClient;
  readonly #diskPath: (node: string, path: string) => string | undefined;
  readonly #abort = new AbortController();

  /** `diskPath` says where on this machine a path of a node's disk is; undefined when there is no such node. */
  constructor(admin: ApiClient, diskPath: (node: string, path: string) => string | undefined) {
    this.#admin = admin;
    this.#diskPath = diskPath;
  }

  async start(): Promise<void> {
    await this.#admin.send("POST", "/apis/storage.k8s.io/v1/storageclasses", {
      body: {
        metadata: { name: storageClass, annotations: { "storageclass.kubernetes.io/is-default-class": "true" } },
        provisioner,
        volumeBindingMode: "WaitForFirstConsumer",
      },
    });
    void this.#serve();
  }

  stop(): void {
    this.#abort.abort();
  }

  async #serve(): Promise<void> {
    while (!this.#abort.signal.aborted) {
      // The API server may be away; what was not done is done in a later round.
      await this.#serveOnce().catch(() => sleep(retryMs));
    }
  }

  async #serveOnce(): Promise<void> {
    const [claims, volumes] = await Promise.all([this.#list(claimsPath), this.#list(volumesPath)]);
    for (const claim of (claims.items as Claim[]).filter(isWaiting)) {
      await this.#provide(claim);
    }
    for (const volume of (volumes.items as Volume[]).filter(isReleased)) {
      await this.#remove(volume);
    }
    const round = new AbortController();
    const signal = AbortSignal.any([round.signal, this.#abort.signal]);
    const changes = [
      this.#admin.waitForChange(claimsPath, claims.version, signal),
      this.#admin.waitForChange(volumesPath, volumes.version, signal),
    ];
    await Promise.race(changes);
    round.abort();
    await Promise.allSettled(changes);
  }

  async #list(path: string): Promise<{ items: unknown[]; version: string }> {
    const { body } = await this.#admin.send("GET", path);
    const { items, metadata } = body as { items: unknown[]; metadata: { resourceVersion: string } };
    return { items, version: metadata.resourceVersion };
  }

  async #provide(claim: Claim): Promise<void> {
    const { name, namespace, uid } = claim.metadata;
    const node = claim.metadata.annotations?.[selectedNode] ?? "";
    const path = `${directoriesPath}/pvc-${uid}`;
    const directory = this.#diskPath(node, path);
    if (directory === undefined) {
      return;
    }
    const bytes = parseQuantity(claim.spec.resources.requests.storage);
    if (claim.spec.volumeMode === "Block") {
      makeDevice(directory, bytes);
    } else {
      mkdirSync(directory, { recursive: true });
      // As many drivers have it; what a pod wants otherwise it says by fsGroup.
      chmodSync(directory, 0o777);
      await this.faulty?.make(node, path, bytes);
    }
    await this.#admin.send("POST", volumesPath, {
      body: {
        metadata: {
          name: `pvc-${uid}`,
          annotations: { "pv.kubernetes.io/provisioned-by": provisioner, [nodeAnnotation]: node },
        },
        spec: {
          storageClassName: storageClass,
          volumeMode: claim.spec.volumeMode,
          capacity: { storage: claim.spec.resources.requests.storage },
          accessModes: claim.spec.accessModes,
          persistentVolumeReclaimPolicy: "Delete",
          claimRef: { apiVersion: "v1", kind: "PersistentVolumeClaim", name, namespace, uid },
          local: { path },
          nodeAffinity: {
            required: {
              nodeSelectorTerms: [
                { matchExpressions: [{ key: "kubernetes.io/hostname", operator: "In", values: [node] }] },
              ],
            },
          },
        },
      },
    });
  }

  async #remove({ metadata, spec }: Volume): Promise<void> {
    const node = metadata.annotations?.[nodeAnnotation] ?? "";
    const directory = this.#diskPath(node, spec.local?.path ?? "");
    if (directory !== undefined) {
      detachLoops([directory, imageOf(directory)]);
      rmSync(directory, { recursive: true, force: true });
      rmSync(imageOf(directory), { force: true });
    }
    await this.#admin.send("DELETE", `${volumesPath}/${metadata.name}`);
  }
}

const imageOf = (device: string): string => `${device}.image`;

/** The device has its place where the volume is, as any node has one for a disk. Nothing is done when it is there. */
function makeDevice(path: string, bytes: number): void {
  if (existsSync(path)) {
    return;
  }
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(imageOf(path), "");
  truncateSync(imageOf(path), bytes);
  const loop = runCommand(["losetup", "--find", "--show", imageOf(path)]).trim();
  runCommand(["mknod", path, "b", "7", loop.replace("/dev/loop", "")]);
}

const selectedNode = "volume.kubernetes.io/selected-node";
const nodeAnnotation = `${provisioner}-node`;

const isWaiting = ({ metadata, spec }: Claim): boolean =>
  spec.storageClassName === storageClass &&
  (spec.volumeName ?? "") === "" &&
  metadata.annotations?.[selectedNode] !== undefined;

const isReleased = ({ metadata, status }: Volume): boolean =>
  status?.phase === "Released" && metadata.annotations?.["pv.kubernetes.io/provisioned-by"] === provisioner;
