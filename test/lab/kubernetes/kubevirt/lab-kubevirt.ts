/**
 * KubeVirt of the lab: its custom resources, what its webhooks refuse, its controllers and, on every node, virt-handler's work.
 *
 * One process on the machine that has the lab. It reaches launchers through /proc, so nothing of it runs in a pod; everything
 * else goes through the API server as with KubeVirt, under the name of its service account. When the API server is away, or
 * this process, guests run on.
 */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Cluster } from "../../../../src/kube/cluster.ts";
import { hasKubeCode } from "../../../../src/kube/kube-failure.ts";
import { kindOf, type KubeObject } from "../../../../src/kube/kube-object.ts";
import { type ControlPlane } from "../control-plane.ts";
import { admissionPolicies, controllerUser, kubevirtNamespace } from "./admission.ts";
import { Controller } from "./controller.ts";
import { customResourceDefinitions } from "./custom-resources.ts";
import { launcherImageName, type LauncherImage } from "./launcher-image.ts";
import { serverName, SubresourceServer } from "./subresource-server.ts";

export type KubevirtOptions = {
  readonly plane: ControlPlane;
  /** Made by `provideLauncherImage`; the caller gives its archive to every node. */
  readonly launcher: LauncherImage;
  /**
   * Where the API server reaches this machine. Without it nobody can pause, unpause, start, stop or restart, nor be told of
   * evictions.
   */
  readonly address?: string;
  /** Files that DataVolumes may ask for as lab://NAME. */
  readonly images?: Readonly<Record<string, string>>;
  /** Sidecar, if nobody says otherwise. */
  readonly featureGates?: readonly string[];
  readonly say?: (line: string) => void;
};

/** Resolves when VMIs may be made. */
export async function startKubevirt(options: KubevirtOptions): Promise<LabKubevirt> {
  const { plane, launcher, address, images = {}, say = () => undefined } = options;
  const certificate = await plane.authority.issue({
    name: `kubevirt-${randomUUID().slice(0, 8)}`,
    subject: `/O=system:masters/CN=${controllerUser}`,
  });
  const cluster = Cluster.fromKubeconfig(plane.writeKubeconfig("kubevirt", certificate));
  await install(cluster, options.featureGates ?? ["Sidecar"]);
  const controller = new Controller({ cluster, launcherImage: launcherImageName, images, launcher, say });
  await controller.start();
  if (address === undefined) {
    return new LabKubevirt(cluster, controller, undefined);
  }
  const hosts = [address, serverName];
  const own = await plane.authority.issue({
    name: `virt-api-${randomUUID().slice(0, 8)}`,
    subject: "/CN=virt-api",
    hosts,
  });
  return new LabKubevirt(
    cluster,
    controller,
    await SubresourceServer.start({ cluster, controller, address, certificate: own }),
  );
}

/** Made by {@link startKubevirt}. */
export class LabKubevirt {
  readonly #cluster: Cluster;
  readonly #controller: Controller;
  readonly #server: SubresourceServer | undefined;

  constructor(cluster: Cluster, controller: Controller, server: SubresourceServer | undefined) {
    this.#cluster = cluster;
    this.#controller = controller;
    this.#server = server;
  }

  /** Guests run on. */
  async stop(): Promise<void> {
    await this.#server?.stop();
    await this.#controller.stop();
    this.#cluster.close();
  }
}

/** May be done again. */
async function install(cluster: Cluster, featureGates: readonly string[]): Promise<void> {
  const kubevirt = {
    apiVersion: "kubevirt.io/v1",
    kind: "KubeVirt",
    metadata: { name: "kubevirt", namespace: kubevirtNamespace },
    spec: {
      configuration: {
        developerConfiguration: { useEmulation: true, featureGates },
      },
    },
  };
  const status = { phase: "Deployed", observedKubeVirtVersion: "v1.9.0", operatorVersion: "v1.9.0" };
  const objects = [
    { apiVersion: "v1", kind: "Namespace", metadata: { name: kubevirtNamespace } },
    ...(customResourceDefinitions as KubeObject[]),
  ];
  for (const object of objects) {
    await createOnce(cluster, object);
  }
  await waitForKinds(cluster);
  for (const object of [...(admissionPolicies as KubeObject[]), kubevirt]) {
    await createOnce(cluster, object);
  }
  const ref = { kind: kindOf("kubevirt.io/v1", "KubeVirt"), namespace: kubevirtNamespace, name: "kubevirt" };
  await cluster.patch(ref, { status }, { subresource: "status" });
}

async function createOnce(cluster: Cluster, object: KubeObject): Promise<void> {
  await cluster.create(object).catch((cause: unknown) => {
    if (!hasKubeCode(cause, "AlreadyExists")) {
      throw cause;
    }
  });
}

async function waitForKinds(cluster: Cluster): Promise<void> {
  const kinds = [
    kindOf("kubevirt.io/v1", "KubeVirt"),
    kindOf("kubevirt.io/v1", "VirtualMachine"),
    kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
    kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  ];
  for (const kind of kinds) {
    while (
      !(await cluster.list(kind).then(
        () => true,
        () => false,
      ))
    ) {
      await sleep(50);
    }
  }
}
