/** What every command is given: what was asked, of which cluster, where to speak; and how it asks the cluster. */
import { type CallOptions, type Cluster, type ListScope } from "../kube/cluster.ts";
import { hasKubeCode, KubeFailure } from "../kube/kube-failure.ts";
import { kindOf, type KubeObject, type ObjectRef, type ResourceKind } from "../kube/kube-object.ts";
import { API_VERSION } from "../api/custom-resource.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { type Invocation } from "./command-line.ts";
import { known, type Known } from "./kube-objects.ts";
import { type ShownPair, type ShownVm } from "./protected-vms.ts";
import { type Terminal } from "./terminal.ts";

export type Session = {
  readonly invocation: Invocation;
  readonly cluster: Cluster;
  readonly terminal: Terminal;
  readonly ownVersion: string;
  readonly systemNamespace: string;
  /** Aborted by ^C. */
  readonly signal: AbortSignal;
  /** For every request: the signal, and how long it may take. */
  readonly call: CallOptions;
};

export const kinds = {
  protectedVm: kindOf(API_VERSION, "ProtectedVM"),
  guestPair: kindOf(API_VERSION, "GuestPair"),
  virtualMachine: kindOf("kubevirt.io/v1", "VirtualMachine"),
  vmi: kindOf("kubevirt.io/v1", "VirtualMachineInstance"),
  kubevirt: kindOf("kubevirt.io/v1", "KubeVirt"),
  dataVolume: kindOf("cdi.kubevirt.io/v1beta1", "DataVolume"),
  network: kindOf("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition"),
  claim: kindOf("v1", "PersistentVolumeClaim"),
  node: kindOf("v1", "Node"),
  namespace: kindOf("v1", "Namespace"),
  pod: kindOf("v1", "Pod"),
  secret: kindOf("v1", "Secret"),
  service: kindOf("v1", "Service"),
  deployment: kindOf("apps/v1", "Deployment"),
  daemonSet: kindOf("apps/v1", "DaemonSet"),
  statefulSet: kindOf("apps/v1", "StatefulSet"),
  lease: kindOf("coordination.k8s.io/v1", "Lease"),
  endpointSlice: kindOf("discovery.k8s.io/v1", "EndpointSlice"),
  event: kindOf("events.k8s.io/v1", "Event"),
  storageClass: kindOf("storage.k8s.io/v1", "StorageClass"),
  resource: kindOf("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
} as const;

/** That of -n, of the context, or `default`. */
export async function readNamespace({ invocation, cluster }: Session): Promise<string> {
  return invocation.texts.get("namespace") ?? (await cluster.readOwnNamespace()) ?? "default";
}

/** The namespace to look in; undefined for all. */
export async function readScope(session: Session): Promise<string | undefined> {
  const { switches, texts, names } = session.invocation;
  if (!switches.has("all-namespaces")) {
    return readNamespace(session);
  }
  if (texts.has("namespace") || names.length > 0) {
    throw usageWrong(
      `--all-namespaces does not go with ${names.length > 0 ? "names" : "--namespace"}: leave out one of them`,
    );
  }
  return undefined;
}

/** Those that were named, in that order, or all in scope by namespace and name. */
export async function readVms(session: Session, namespace: string | undefined): Promise<readonly ShownVm[]> {
  const { names } = session.invocation;
  if (names.length > 0) {
    return Promise.all(names.map((name) => readVm(session, namespace ?? "default", name)));
  }
  return sortObjects(await listObjects<ShownVm>(session, kinds.protectedVm, { namespace }));
}

export function sortObjects<T extends KubeObject>(objects: readonly T[]): readonly T[] {
  const key = ({ metadata }: T): string => `${metadata.namespace ?? ""}\n${metadata.name}`;
  return objects.toSorted((one, other) => (key(one) < key(other) ? -1 : 1));
}

export async function listObjects<T extends KubeObject>(
  { cluster, call }: Session,
  kind: ResourceKind,
  scope: ListScope = {},
): Promise<readonly T[]> {
  const { items } = await cluster.list<T>(kind, scope, call).catch(explainMissingKind(kind));
  return items;
}

/** One that must be there. */
export async function readVm(session: Session, namespace: string, name: string): Promise<ShownVm> {
  const vm = await findObject<ShownVm>(session, { kind: kinds.protectedVm, namespace, name });
  if (vm === undefined) {
    // Is it that one, or are there none at all?
    await listObjects(session, kinds.protectedVm, { namespace });
    throw new CliFailure(
      "Failed",
      `there is no ProtectedVM ${name} in namespace ${namespace}; \`kubectl twinrun status -A\` shows all, -n names another namespace`,
    );
  }
  return vm;
}

export function findObject<T extends KubeObject>({ cluster, call }: Session, ref: ObjectRef): Promise<T | undefined> {
  return cluster.read<T>(ref, call);
}

/** An API server answers 404 for a list of what it does not know. */
function explainMissingKind(kind: ResourceKind): (error: unknown) => never {
  return (error) => {
    if (hasKubeCode(error, "NotFound")) {
      const remedy =
        kind.apiVersion === API_VERSION
          ? "install Twinrun (kubectl twinrun doctor says more)"
          : "install what brings it";
      throw new CliFailure("Failed", `this cluster has no ${kind.plural} (${kind.apiVersion}): ${remedy}`, {
        cause: error,
      });
    }
    throw error;
  };
}

/** For what a command can do without. ^C is not among the reasons. */
export async function ask<Value>(answer: Promise<Value>): Promise<Known<Exclude<Value, undefined>>> {
  try {
    const value = await answer;
    return value === undefined ? { tag: "absent" } : known(value as Exclude<Value, undefined>);
  } catch (error) {
    if (error instanceof CliFailure) {
      return { tag: "absent" };
    }
    if (error instanceof KubeFailure && error.detail.code !== "Aborted") {
      return error.detail.code === "NotFound" ? { tag: "absent" } : { tag: "unknown", why: error.message };
    }
    throw error;
  }
}

/** The GuestPair of a ProtectedVM has the name of its guest. */
export async function askPair(session: Session, { status }: ShownVm): Promise<Known<ShownPair>> {
  const name = status?.guest;
  return name === undefined
    ? { tag: "absent" }
    : ask(findObject<ShownPair>(session, { kind: kinds.guestPair, namespace: session.systemNamespace, name }));
}
