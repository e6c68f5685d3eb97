/** VMIs: their pods, their launchers, their status. */
import { createHash } from "node:crypto";
import { type Cluster } from "../../../../src/kube/cluster.ts";
import { kindOf, type KubeObject, type ObjectRef } from "../../../../src/kube/kube-object.ts";
import { kubevirtNamespace } from "./admission.ts";
import { type Caches } from "./controller.ts";
import { fillVolume, importedAnnotation } from "./data-volumes.ts";
import { planLauncherPod, unpausedGate } from "./launcher-pod.ts";
import { type LauncherCommand, LauncherLink } from "./launcher-link.ts";
import { planMergePatch } from "./merge-patch.ts";
import { prepareNode } from "./node-part.ts";
import { type LauncherProcess } from "./pod-processes.ts";
import { type ClaimInfo, isDomainUp, isFinal, isPodOver, type LauncherPod, planVmiStatus } from "./vmi-status.ts";
import { type Vmi, type VmiVolume } from "./vmi.ts";

export type VmiTurnOptions = {
  readonly cluster: Cluster;
  readonly caches: Caches;
  readonly launcherImage: string;
  readonly images: Readonly<Record<string, string>>;
  readonly onChange: () => void;
};

const finalizer = "kubevirt.io/foregroundDeleteVirtualMachine";
const nodeNameLabel = "kubevirt.io/nodeName";

const keyOf = ({ metadata }: Vmi): string => `${metadata.namespace}/${metadata.name}`;
const refOf = ({ metadata }: Vmi): ObjectRef => ({
  kind: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  namespace: metadata.namespace,
  name: metadata.name,
});
const podRefOf = ({ metadata }: LauncherPod): ObjectRef => ({
  kind: kindOf("v1", "Pod"),
  namespace: metadata.namespace,
  name: metadata.name,
});

export class VmiTurn {
  readonly #options: VmiTurnOptions;
  /** By the pod's uid. */
  readonly #links = new Map<string, LauncherLink>();
  /** Why no pod could be made, by the VMI's uid. */
  readonly #troubles = new Map<string, string>();

  constructor(options: VmiTurnOptions) {
    this.#options = options;
    options.caches.vmis.onChange(({ after }) => {
      const pod = after === undefined ? undefined : this.#findPod(after);
      this.#links.get(pod?.metadata.uid ?? "")?.sync();
    });
  }

  stop(): void {
    for (const link of this.#links.values()) {
      link.stop();
    }
  }

  async send(vmi: Vmi, command: LauncherCommand): Promise<void> {
    const link = this.#links.get(this.#findPod(vmi)?.metadata.uid ?? "");
    if (link === undefined) {
      throw new Error("VMI is not running");
    }
    await link.send(command);
  }

  /** What goes wrong with one VMI does not hold up the others. */
  async take(): Promise<void> {
    const turns = this.#options.caches.vmis.list().map((vmi) => this.#takeOne(vmi));
    const failed = (await Promise.allSettled(turns)).find((result) => result.status === "rejected");
    this.#forgetLinks();
    if (failed !== undefined) {
      throw failed.reason;
    }
  }

  async #takeOne(vmi: Vmi & KubeObject): Promise<void> {
    const pod = this.#findPod(vmi);
    if (vmi.metadata.deletionTimestamp !== undefined) {
      await this.#end(vmi, pod);
    } else if (pod === undefined && (vmi.status?.phase ?? "Pending") === "Pending" && this.#hasClaims(vmi)) {
      await this.#createPod(vmi);
    } else if (isFinal(vmi) && pod !== undefined && !isPodOver(pod) && pod.metadata.deletionTimestamp === undefined) {
      await this.#options.cluster.remove(podRefOf(pod), { uid: pod.metadata.uid });
    }
    const link = pod === undefined ? undefined : this.#follow(vmi, pod);
    await this.#report(vmi, pod, link);
  }

  #findPod({ metadata }: Vmi): LauncherPod | undefined {
    return this.#options.caches.pods
      .list()
      .find((pod) => pod.metadata.labels?.["kubevirt.io/created-by"] === metadata.uid);
  }

  /** The pod's name follows from the VMI, so two turns cannot make two. */
  async #createPod(vmi: Vmi): Promise<void> {
    const { cluster, launcherImage } = this.#options;
    try {
      await this.#readBridges(vmi);
      const bindingSidecars = await this.#readBindingSidecars();
      const claims = this.#findClaims(vmi);
      const suffix = createHash("sha256").update(vmi.metadata.uid).digest("hex").slice(0, 5);
      await cluster.create(planLauncherPod(vmi, { launcherImage, suffix, bindingSidecars, claims }) as KubeObject);
      this.#troubles.delete(vmi.metadata.uid);
    } catch (cause) {
      this.#troubles.set(vmi.metadata.uid, cause instanceof Error ? cause.message : String(cause));
      await this.#report(vmi, undefined, undefined);
      throw cause;
    }
  }

  /** Until its node says that the pod is over the VMI stays, however long the node is silent. */
  async #end(vmi: Vmi, pod: LauncherPod | undefined): Promise<void> {
    const { cluster } = this.#options;
    const others = (vmi.metadata.finalizers ?? []).filter((name) => name !== finalizer);
    if (pod === undefined || isPodOver(pod)) {
      if (pod === undefined && (await this.#hasUnseenPod(vmi))) {
        return;
      }
      if (others.length !== (vmi.metadata.finalizers ?? []).length) {
        await cluster.patch(refOf(vmi), {
          metadata: { finalizers: others, resourceVersion: vmi.metadata.resourceVersion },
        });
      }
    } else if (pod.metadata.deletionTimestamp === undefined) {
      await cluster.remove(podRefOf(pod), { uid: pod.metadata.uid });
    }
  }

  /** One that was made a moment ago; KubeVirt keeps count of those. */
  async #hasUnseenPod({ metadata }: Vmi): Promise<boolean> {
    const { items } = await this.#options.cluster.list(kindOf("v1", "Pod"), {
      namespace: metadata.namespace,
      labelSelector: `kubevirt.io/created-by=${metadata.uid}`,
    });
    return items.length > 0;
  }

  #follow(vmi: Vmi, pod: LauncherPod): LauncherLink | undefined {
    const { uid } = pod.metadata;
    const known = this.#links.get(uid);
    if (known !== undefined || pod.spec.nodeName === undefined || isPodOver(pod)) {
      return known;
    }
    const link = new LauncherLink({
      podUid: uid,
      readVmi: () => this.#options.caches.vmis.get(keyOf(vmi)),
      prepare: (now, launcher) => this.#prepare(now, launcher),
      onChange: this.#options.onChange,
    });
    this.#links.set(uid, link);
    return link;
  }

  async #prepare(vmi: Vmi, launcher: LauncherProcess): Promise<void> {
    for (const volume of vmi.spec.volumes ?? []) {
      await this.#fill(vmi, volume, launcher);
    }
    await prepareNode(vmi, launcher, await this.#readBridges(vmi));
  }

  async #fill({ metadata: { namespace } }: Vmi, volume: VmiVolume, { pid }: LauncherProcess): Promise<void> {
    const { caches, cluster, images } = this.#options;
    const name = claimNameOf(volume);
    const dataVolume = name === undefined ? undefined : caches.dataVolumes.get(`${namespace}/${name}`);
    if (name === undefined || dataVolume === undefined) {
      return;
    }
    await fillVolume(volume.name, dataVolume, `/proc/${pid}/root`, images);
    const isKnown =
      caches.claims.get(`${namespace}/${name}`)?.metadata.annotations?.[importedAnnotation] === "Succeeded";
    if (!isKnown) {
      const ref = { kind: kindOf("v1", "PersistentVolumeClaim"), namespace, name };
      await cluster.patch(ref, { metadata: { annotations: { [importedAnnotation]: "Succeeded" } } });
    }
  }

  /** The nodes' bridges behind the VMI's Multus networks, which must be there before the pod is made. */
  async #readBridges({ metadata, spec }: Vmi): Promise<Map<string, string>> {
    const bridges = new Map<string, string>();
    for (const { name, multus } of spec.networks ?? []) {
      if (multus !== undefined) {
        const [network, namespace = metadata.namespace] = multus.networkName.split("/").reverse() as [string, string?];
        bridges.set(name, await this.#readBridge(namespace, network));
      }
    }
    return bridges;
  }

  async #readBridge(namespace: string, name: string): Promise<string> {
    type Attachment = KubeObject & { readonly spec?: { readonly config?: string } };
    const kind = kindOf("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition");
    const attachment = await this.#options.cluster.read<Attachment>({ kind, namespace, name });
    if (attachment === undefined) {
      throw new Error(`failed to locate network attachment definition ${namespace}/${name}`);
    }
    const { type, bridge } = JSON.parse(attachment.spec?.config ?? "{}") as { type?: string; bridge?: string };
    if (type !== "bridge" || bridge === undefined) {
      throw new Error(`network attachment definition ${namespace}/${name}: the lab knows only type bridge`);
    }
    return bridge;
  }

  async #readBindingSidecars(): Promise<Map<string, string>> {
    type Kubevirt = KubeObject & {
      readonly spec?: {
        readonly configuration?: {
          readonly network?: { readonly binding?: Record<string, { sidecarImage?: string }> };
        };
      };
    };
    const kind = kindOf("kubevirt.io/v1", "KubeVirt");
    const kubevirt = await this.#options.cluster.read<Kubevirt>({
      kind,
      namespace: kubevirtNamespace,
      name: "kubevirt",
    });
    const bindings = Object.entries(kubevirt?.spec?.configuration?.network?.binding ?? {});
    return new Map(
      bindings.flatMap(([name, { sidecarImage }]) => (sidecarImage === undefined ? [] : [[name, sidecarImage]])),
    );
  }

  /** Writes what differs, and nothing when nothing does. */
  async #report(vmi: Vmi, pod: LauncherPod | undefined, link: LauncherLink | undefined): Promise<void> {
    const { cluster } = this.#options;
    const { report } = link ?? {};
    const trouble = link?.trouble ?? this.#troubles.get(vmi.metadata.uid);
    const now = new Date().toISOString().replace(/[.][0-9]+Z$/, "Z");
    const status = planVmiStatus({ vmi, pod, report, trouble, claims: this.#findClaims(vmi), now });
    const isNew = vmi.metadata.deletionTimestamp === undefined && vmi.metadata.finalizers?.includes(finalizer) !== true;
    const metadata = {
      ...(status.nodeName === undefined
        ? {}
        : { labels: { ...vmi.metadata.labels, [nodeNameLabel]: status.nodeName } }),
      ...(isNew ? { finalizers: [...(vmi.metadata.finalizers ?? []), finalizer] } : {}),
    };
    const present = { status: vmi.status, metadata: pick(vmi.metadata, Object.keys(metadata)) };
    const patch = planMergePatch(present, { status, metadata });
    if (patch !== undefined) {
      await cluster.patch(refOf(vmi), patch);
    }
    if (pod !== undefined && !isPodOver(pod)) {
      await this.#reportGate(pod, isDomainUp(report) && report?.state !== "paused" ? "True" : "False");
    }
  }

  /** What the pod's readiness waits for. */
  async #reportGate(pod: LauncherPod, status: "True" | "False"): Promise<void> {
    const conditions = pod.status?.conditions ?? [];
    if (pod.spec.nodeName === undefined || conditions.find(({ type }) => type === unpausedGate)?.status === status) {
      return;
    }
    const others = conditions.filter(({ type }) => type !== unpausedGate);
    const lastTransitionTime = new Date().toISOString().replace(/[.][0-9]+Z$/, "Z");
    const patch = {
      metadata: { resourceVersion: pod.metadata.resourceVersion },
      status: { conditions: [...others, { type: unpausedGate, status, lastTransitionTime }] },
    };
    await this.#options.cluster.patch(podRefOf(pod), patch, { subresource: "status" });
  }

  /** Before that nobody knows of what mode they are. */
  #hasClaims(vmi: Vmi): boolean {
    const claims = this.#findClaims(vmi);
    return (vmi.spec.volumes ?? []).every((each) => claimNameOf(each) === undefined || claims.has(each.name));
  }

  #findClaims({ metadata, spec }: Vmi): Map<string, ClaimInfo> {
    const claims = new Map<string, ClaimInfo>();
    for (const volume of spec.volumes ?? []) {
      const claimName = claimNameOf(volume);
      const claim = this.#options.caches.claims.get(`${metadata.namespace}/${claimName ?? ""}`);
      if (claimName !== undefined && claim !== undefined) {
        const { resources, volumeMode = "Filesystem" } = claim.spec;
        claims.set(volume.name, { claimName, requests: resources.requests, volumeMode });
      }
    }
    return claims;
  }

  #forgetLinks(): void {
    const pods = new Set(this.#options.caches.pods.list().map(({ metadata }) => metadata.uid));
    for (const [uid, link] of this.#links) {
      if (!pods.has(uid)) {
        link.stop();
        this.#links.delete(uid);
      }
    }
  }
}

const claimNameOf = ({ persistentVolumeClaim, dataVolume }: VmiVolume): string | undefined =>
  persistentVolumeClaim?.claimName ?? dataVolume?.name;

function pick(object: object, keys: readonly string[]): object {
  return Object.fromEntries(Object.entries(object).filter(([key]) => keys.includes(key)));
}
