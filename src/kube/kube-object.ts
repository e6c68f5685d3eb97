/**
 * Objects of the API server as JSON has them (times are strings), the kinds we know, and where they live on the server.
 *
 * An object is named by an {@link ObjectRef}, a cached one by its key: `namespace/name`, or `name` where there is none.
 */
import { type ObjectMeta, type OwnerReference } from "../api/object-meta.ts";
import { assert } from "../lib/assert.ts";

/** What every object has; whoever reads a kind says what else it has. */
export type KubeObject = { readonly apiVersion: string; readonly kind: string; readonly metadata: ObjectMeta };

export type ResourceKind = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
};

export type ObjectRef = {
  readonly kind: ResourceKind;
  /** Must be there for namespaced kinds and nowhere else. */
  readonly namespace?: string | undefined;
  readonly name: string;
};

const define = (apiVersion: string, namespaced: boolean, pluralByKind: Readonly<Record<string, string>>) =>
  Object.entries(pluralByKind).map(([kind, plural]): ResourceKind => ({ apiVersion, kind, plural, namespaced }));

const namespaced = true;
const clusterWide = false;

/** Kinds that need no question to the server about their plural. Others are asked for once. */
const knownKinds: readonly ResourceKind[] = [
  ...define("v1", clusterWide, { Namespace: "namespaces", Node: "nodes", PersistentVolume: "persistentvolumes" }),
  ...define("v1", namespaced, {
    ConfigMap: "configmaps",
    Event: "events",
    PersistentVolumeClaim: "persistentvolumeclaims",
    Pod: "pods",
    Secret: "secrets",
    Service: "services",
    ServiceAccount: "serviceaccounts",
  }),
  ...define("apps/v1", namespaced, {
    ControllerRevision: "controllerrevisions",
    DaemonSet: "daemonsets",
    Deployment: "deployments",
    StatefulSet: "statefulsets",
  }),
  ...define("coordination.k8s.io/v1", namespaced, { Lease: "leases" }),
  ...define("discovery.k8s.io/v1", namespaced, { EndpointSlice: "endpointslices" }),
  ...define("events.k8s.io/v1", namespaced, { Event: "events" }),
  ...define("certificates.k8s.io/v1", clusterWide, { CertificateSigningRequest: "certificatesigningrequests" }),
  ...define("authorization.k8s.io/v1", clusterWide, { SelfSubjectAccessReview: "selfsubjectaccessreviews" }),
  ...define("authentication.k8s.io/v1", clusterWide, { SelfSubjectReview: "selfsubjectreviews" }),
  ...define("apiextensions.k8s.io/v1", clusterWide, { CustomResourceDefinition: "customresourcedefinitions" }),
  ...define("storage.k8s.io/v1", clusterWide, { StorageClass: "storageclasses" }),
  ...define("k8s.cni.cncf.io/v1", namespaced, { NetworkAttachmentDefinition: "network-attachment-definitions" }),
  ...define("kubevirt.io/v1", namespaced, {
    KubeVirt: "kubevirts",
    VirtualMachine: "virtualmachines",
    VirtualMachineInstance: "virtualmachineinstances",
    VirtualMachineInstanceMigration: "virtualmachineinstancemigrations",
  }),
  ...define("cdi.kubevirt.io/v1beta1", namespaced, { DataVolume: "datavolumes" }),
  ...define("cdi.kubevirt.io/v1beta1", clusterWide, { CDI: "cdis", StorageProfile: "storageprofiles" }),
  ...define("twinrun.dev/v1alpha1", namespaced, { GuestPair: "guestpairs", ProtectedVM: "protectedvms" }),
  ...define("twinrun.dev/v1alpha1", clusterWide, { SplitSitePair: "splitsitepairs" }),
];

const keyOfKind = (apiVersion: string, kind: string): string => `${apiVersion} ${kind}`;
const kindByName = new Map(knownKinds.map((known) => [keyOfKind(known.apiVersion, known.kind), known]));

export function findKnownKind(apiVersion: string, kind: string): ResourceKind | undefined {
  return kindByName.get(keyOfKind(apiVersion, kind));
}

/** A kind that stands in the list above; naming another one is a bug. */
export function kindOf(apiVersion: string, kind: string): ResourceKind {
  const known = findKnownKind(apiVersion, kind);
  assert(known !== undefined, `${apiVersion} ${kind} is not among the known kinds of src/kube/kube-object.ts`);
  return known;
}

/** `namespace/name`, or `name`. */
export function keyOf({ namespace, name }: { readonly namespace?: string | undefined; readonly name: string }): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** The inverse of {@link keyOf}. */
export function parseKey(key: string): { readonly namespace?: string; readonly name: string } {
  const slash = key.indexOf("/");
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** The reference that makes an object go with its owner. Owner and owned must be of one namespace. */
export function ownerReferenceTo({ apiVersion, kind, metadata }: KubeObject, isController = true): OwnerReference {
  const { name, uid } = metadata;
  assert(uid !== undefined, `${kind} ${name} was never stored and cannot own anything`);
  return { apiVersion, kind, name, uid, controller: isController, blockOwnerDeletion: isController };
}

/** `/api/v1/namespaces/a/pods`; without a namespace those of all namespaces. */
export function pathOfKind({ apiVersion, plural }: ResourceKind, namespace?: string): string {
  const base = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  return namespace === undefined
    ? `${base}/${plural}`
    : `${base}/namespaces/${encodeURIComponent(namespace)}/${plural}`;
}

export function pathOfObject({ kind, namespace, name }: ObjectRef, subresource?: string): string {
  assert(name !== "", `a ${kind.kind} without a name is a list`);
  assert(kind.namespaced === (namespace !== undefined), `${kind.kind} ${name}: namespace ${namespace ?? "missing"}`);
  const path = `${pathOfKind(kind, namespace)}/${encodeURIComponent(name)}`;
  return subresource === undefined ? path : `${path}/${subresource}`;
}
