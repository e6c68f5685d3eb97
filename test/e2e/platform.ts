/**
 * Twinrun as its users have it: the chart installed by Helm on the lab's Kubernetes of three nodes, with the lab's KubeVirt, and
 * a client in the guests' network.
 *
 * Nothing here is told to Twinrun otherwise than a user would: objects are applied, and what comes of them is read.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseGuestPair } from "../../src/api/guest-pair.ts";
import { parseProtectedVm, type ProtectedVm } from "../../src/api/protected-vm.ts";
import { present } from "../../src/lib/assert.ts";
import { Cluster } from "../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { collectOutput } from "../lab/command-output.ts";
import { etcdImage, provideTwinrunImages } from "../lab/kubernetes/images.ts";
import { type LabKubevirt, startKubevirt } from "../lab/kubernetes/kubevirt/lab-kubevirt.ts";
import {
  provideContainerDisk,
  provideKernelImage,
  provideLauncherImage,
} from "../lab/kubernetes/kubevirt/launcher-image.ts";
import { type KubernetesLab, startLab } from "../lab/kubernetes/lab.ts";
import { lanBridge } from "../lab/kubernetes/network.ts";
import { requirePrograms } from "../lab/kubernetes/programs.ts";
import { type GuestKind } from "../lab/guests.ts";
import { provideImage } from "../lab/images.ts";

export type PlatformOptions = {
  readonly store: "etcd" | "lease";
  /** The guests that will be made; their kernels and disks are brought along. */
  readonly kinds: readonly GuestKind[];
  /** Images in containers, for guests whose disks live in the pod. */
  readonly containerDisks?: readonly GuestKind[];
  readonly say: (line: string) => void;
};

export const systemNamespace = "twinrun";
export const tenantNamespace = "shop";
export const chart = join(import.meta.dirname, "../../charts/twinrun");
const pollMs = 100;

/** Of the chart on the lab. */
export function chartValues(store: PlatformOptions["store"]): {
  readonly quorum: { readonly store: string; readonly etcd: object };
} {
  const [repository = "", tag = ""] = etcdImage.split(/:(?=[^:]*$)/);
  return { quorum: { store, etcd: { image: { repository, tag }, storageClassName: "lab-local" } } };
}

/** Resolves when everything of Twinrun is ready. */
export async function startPlatform(options: PlatformOptions): Promise<Platform> {
  const { kinds, containerDisks = [], say } = options;
  const launcher = await provideLauncherImage(say);
  const images = [launcher.archive, ...(await provideTwinrunImages(say))];
  const disks: Record<string, string> = {};
  for (const kind of kinds) {
    images.push(await provideKernelImage(kind, say));
    const { rootDisk } = await provideImage(kind, say);
    if (rootDisk !== undefined) {
      disks[kind] = rootDisk;
    }
  }
  for (const kind of containerDisks) {
    images.push(await provideContainerDisk(kind));
  }
  const lab = await startLab({ images, say });
  let kubevirt: LabKubevirt | undefined;
  let platform: Platform | undefined;
  try {
    kubevirt = await startKubevirt({
      plane: lab.plane,
      launcher,
      address: lab.network.machineAddress,
      images: disks,
      say,
    });
    platform = new Platform(lab, kubevirt);
    await platform.install(options);
    return platform;
  } catch (cause) {
    await (platform ?? kubevirt)?.stop();
    await lab.stop();
    throw cause;
  }
}

/** Twinrun on a cluster, as the API server shows it. */
export class Installation {
  readonly cluster: Cluster;
  readonly kubeconfigPath: string;

  constructor(kubeconfigPath: string) {
    this.kubeconfigPath = kubeconfigPath;
    this.cluster = Cluster.fromKubeconfig(kubeconfigPath);
  }

  /** Installs the chart, or upgrades it, and waits for everything of Twinrun. */
  async installChart(values: object, say: (line: string) => void): Promise<void> {
    await this.helm(["upgrade", "--install", "twinrun", chart, "--create-namespace"], values);
    await this.#waitForPods(say);
  }

  /** Runs Helm in the system namespace, with values where the command takes any; throws what it said when it failed. */
  async helm(command: readonly string[], values?: object): Promise<string> {
    const program = present(requirePrograms(["helm"]).get("helm"), "helm");
    const directory = mkdtempSync(join(tmpdir(), "twinrun-helm-"));
    try {
      const path = join(directory, "values.json");
      writeFileSync(path, JSON.stringify(values ?? {}));
      const place = ["--kubeconfig", this.kubeconfigPath, "--namespace", systemNamespace];
      const args = [...command, ...place, ...(values === undefined ? [] : ["--values", path])];
      return await collectOutput(
        spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] }),
        ["helm", ...args],
        "here",
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  apply(object: KubeObject): Promise<KubeObject> {
    return this.cluster.apply(object, "e2e");
  }

  async readProtectedVm(name: string): Promise<ProtectedVm | undefined> {
    const ref = { kind: kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), namespace: tenantNamespace, name };
    const object = await this.cluster.read(ref);
    return object === undefined ? undefined : parseProtectedVm(object, `ProtectedVM ${name}`);
  }

  /** Waits until the object is as wanted; the failure shows how it was last. */
  async waitForProtectedVm(
    name: string,
    holds: (vm: ProtectedVm) => boolean,
    timeoutMs = 180_000,
  ): Promise<ProtectedVm> {
    const deadlineMs = Date.now() + timeoutMs;
    for (;;) {
      // An API server that is away just now is asked again.
      const vm = await this.readProtectedVm(name).catch(() => undefined);
      const guest = vm?.status?.guest ?? "";
      if (vm !== undefined && holds(vm) && (!isReady(vm) || (await this.#isProtected(guest).catch(() => false)))) {
        return vm;
      }
      if (Date.now() > deadlineMs) {
        throw new Error(`ProtectedVM ${name} is not as wanted after ${timeoutMs} ms: ${JSON.stringify(vm?.status)}`);
      }
      await sleep(pollMs);
    }
  }

  /**
   * Ready, and the primary's agent says so too: a ProtectedVM's status is as old as the last word of the leading operator, which
   * may have gone with a node, and the next one takes its time.
   */
  waitUntilReady(name: string, timeoutMs?: number): Promise<ProtectedVm> {
    return this.waitForProtectedVm(name, isReady, timeoutMs);
  }

  /** Whether the agent of the node that runs the guest reports that it is protected. */
  async #isProtected(guest: string): Promise<boolean> {
    const ref = { kind: kindOf("twinrun.dev/v1alpha1", "GuestPair"), namespace: systemNamespace, name: guest };
    const object = await this.cluster.read(ref);
    const sides = object === undefined ? [] : (parseGuestPair(object, `GuestPair ${guest}`).status?.sides ?? []);
    const latest = sides.toSorted((one, other) => one.term - other.term).at(-1)?.term;
    return sides.some(({ role, state, term }) => role === "primary" && state === "protected" && term === latest);
  }

  async #waitForPods(say: (line: string) => void): Promise<void> {
    const deadlineMs = Date.now() + 240_000;
    const pods = kindOf("v1", "Pod");
    for (;;) {
      const { items } = await this.cluster.list<Pod>(pods, { namespace: systemNamespace });
      const waiting = items.filter(({ status }) => !hasCondition(status?.conditions, "Ready"));
      if (items.length > 4 && waiting.length === 0) {
        say(`Twinrun runs: ${items.map(({ metadata }) => metadata.name).join(", ")}`);
        return;
      }
      if (Date.now() > deadlineMs) {
        throw new Error(`not ready: ${JSON.stringify(waiting.map(({ metadata, status }) => [metadata.name, status]))}`);
      }
      await sleep(500);
    }
  }
}

/** The lab's, made by {@link startPlatform}. */
export class Platform extends Installation {
  readonly lab: KubernetesLab;
  readonly #kubevirt: LabKubevirt;

  constructor(lab: KubernetesLab, kubevirt: LabKubevirt) {
    super(lab.kubeconfigPath);
    this.lab = lab;
    this.#kubevirt = kubevirt;
  }

  async stop(): Promise<void> {
    await this.#kubevirt.stop();
    this.cluster.close();
    await this.lab.stop();
  }

  /** Used while the platform is being made; again for an upgrade. */
  async install({ store, say }: PlatformOptions): Promise<void> {
    await this.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: tenantNamespace } });
    await this.apply({
      apiVersion: "k8s.cni.cncf.io/v1",
      kind: "NetworkAttachmentDefinition",
      metadata: { name: "lan", namespace: tenantNamespace },
      spec: { config: JSON.stringify({ cniVersion: "0.3.1", type: "bridge", bridge: lanBridge }) },
    } as KubeObject);
    say(`helm install twinrun, quorum store ${store}`);
    await this.installChart(chartValues(store), say);
  }
}

type Condition = { readonly type: string; readonly status: string };
type Pod = KubeObject & { readonly status?: { readonly conditions?: readonly Condition[] } };

const hasCondition = (conditions: readonly Condition[] | undefined, type: string): boolean =>
  conditions?.some((each) => each.type === type && each.status === "True") === true;

export const isReady = ({ metadata, status }: ProtectedVm): boolean =>
  status?.observedGeneration === metadata.generation && hasCondition(status?.conditions, "Ready");
