/**
 * The volumes of a side. The origin has those the guest is started from: made by the dataVolumeTemplates, or there already. The
 * other side receives a copy of everything that was ever written, so it gets empty ones, as large as the originals.
 */
import { type ProtectedVmSpec } from "../api/protected-vm.ts";
import { GUEST_LABEL } from "../api/vmi-contract.ts";
import { present } from "../lib/assert.ts";
import { isJson, type Json, mergeJson, readObject, readPath, readText } from "../lib/json-merge.ts";
import { type Claim, type ClusterObject, type DataVolume, type ObjectName } from "./cluster-objects.ts";
import { sideName } from "./guest-names.ts";
import { claimNameOf, type GuestSource, listClaimVolumes } from "./guest-source.ts";
import { type SideView } from "./pair-view.ts";
import { type Action, type Observed } from "./protected-vm-plan.ts";
import { encodeMarks, type GuestIdentity, ownedIn } from "./twin-recipe.ts";

export type SideVolume = {
  readonly volume: string;
  readonly claim: ObjectName;
  /** The operator makes it, and takes it away again. */
  readonly isOurs: boolean;
  /** What fills it; undefined for one that is there, or that receives a copy. */
  readonly template: Json | undefined;
};

export type VolumePlan = {
  readonly actions: readonly Action[];
  /** What has to be there first. */
  readonly waitsFor: string | undefined;
  /** What a person has to see to. */
  readonly trouble: string | undefined;
  /** What the instance's spec says, by volume. */
  readonly sources: ReadonlyMap<string, Json>;
};

export function listSideVolumes(source: GuestSource, side: SideView, namespace: string): readonly SideVolume[] {
  return listClaimVolumes(source).map((volume) => {
    const name = present(readText(volume, "name"), "a volume has a name");
    const own = { namespace: side.vmiName.namespace, name: sideName(name, side.mark) };
    const given = claimNameOf(volume) ?? "";
    const template = source.dataVolumeTemplates.find((each) => readText(each, "metadata", "name") === given);
    if (!side.isOrigin) {
      return { volume: name, claim: own, isOurs: true, template: undefined };
    }
    // The DataVolumes of a VirtualMachine are made by KubeVirt, under the names in its templates.
    return template === undefined || source.virtualMachine !== undefined
      ? { volume: name, claim: { namespace, name: given }, isOurs: false, template: undefined }
      : { volume: name, claim: own, isOurs: true, template };
  });
}

export type VolumeInput = {
  readonly source: GuestSource;
  readonly identity: GuestIdentity;
  readonly side: SideView;
  readonly peer: SideView;
};

export function planVolumes(observed: Observed, input: VolumeInput): VolumePlan {
  const { source, identity, side, peer } = input;
  const originals = listSideVolumes(source, peer, identity.namespace);
  const parts = listSideVolumes(source, side, identity.namespace).map((volume, index) =>
    planVolume(observed, input, { volume, original: originals[index] }),
  );
  return {
    actions: parts.flatMap(({ action }) => (action === undefined ? [] : [action])),
    waitsFor: parts.find(({ waitsFor }) => waitsFor !== undefined)?.waitsFor,
    trouble: parts.find(({ trouble }) => trouble !== undefined)?.trouble,
    sources: new Map(parts.map(({ volume, source: given }) => [volume, given])),
  };
}

type VolumePart = {
  readonly volume: string;
  readonly source: Json;
  readonly action?: Action;
  readonly waitsFor?: string;
  readonly trouble?: string;
};
type OneVolume = { readonly volume: SideVolume; readonly original: SideVolume | undefined };

function planVolume(observed: Observed, input: VolumeInput, { volume, original }: OneVolume): VolumePart {
  const { claim: name, isOurs } = volume;
  const present = observed.findDataVolume(name) ?? observed.findClaim(name);
  const usesDataVolume = present === undefined ? isOurs && observed.hasDataVolumes : present.kind === "DataVolume";
  const part = {
    volume: volume.volume,
    source: usesDataVolume ? { dataVolume: { name: name.name } } : { persistentVolumeClaim: { claimName: name.name } },
  };
  if (present !== undefined) {
    return { ...part, ...checkPresent(present), ...(isOurs ? checkOwner(present, input) : {}) };
  }
  return isOurs
    ? { ...part, ...planMissing(observed, input, { volume, original }) }
    : { ...part, ...missingOriginal(input, name) };
}

function checkPresent({ metadata, status }: DataVolume | Claim): Pick<VolumePart, "trouble"> {
  const phase = status?.phase;
  return phase === "Failed" || phase === "Lost"
    ? { trouble: `volume ${metadata.namespace ?? ""}/${metadata.name} is ${phase}; look at its events, then delete it` }
    : {};
}

/** Names of second sides are made from what tenants choose, and all tenants' are in one namespace. */
function checkOwner({ metadata }: DataVolume | Claim, { identity }: VolumeInput): Pick<VolumePart, "trouble"> {
  const guest = metadata.labels?.[GUEST_LABEL] ?? identity.guest;
  return guest === identity.guest
    ? {}
    : {
        trouble: `volume ${metadata.namespace ?? ""}/${metadata.name} is another guest's; give this one's volume another name`,
      };
}

/** KubeVirt makes the DataVolumes of a VirtualMachine when that is started. */
function missingOriginal({ source }: VolumeInput, { namespace, name }: ObjectName): Pick<VolumePart, "trouble"> {
  const isMade = source.dataVolumeTemplates.some((each) => readText(each, "metadata", "name") === name);
  return isMade
    ? {}
    : { trouble: `there is no PersistentVolumeClaim ${namespace}/${name}, which the guest's spec names` };
}

function planMissing(observed: Observed, input: VolumeInput, { volume, original }: OneVolume): Partial<VolumePart> {
  const { side, identity } = input;
  const storage = observed.protectedVm.spec.storage[side.place];
  if (volume.template !== undefined) {
    return observed.hasDataVolumes
      ? { action: { tag: "createObject", object: encodeFilled(volume, storage, identity) } }
      : { trouble: "the guest has dataVolumeTemplates, but the cluster has no DataVolumes; install CDI" };
  }
  const claim = original === undefined ? undefined : observed.findClaim(original.claim);
  const size = claim === undefined ? undefined : readSize(claim, storage.sizePolicy);
  if (claim === undefined || size === undefined) {
    return {
      waitsFor: `the size of ${original?.claim.name ?? volume.volume}, which volume ${volume.claim.name} is to have`,
    };
  }
  const receiver = { volume, storage, size, like: claim };
  const object = observed.hasDataVolumes ? encodeBlank(receiver, identity) : encodeClaim(receiver, identity);
  return { action: { tag: "createObject", object } };
}

function readSize({ spec, status }: Claim, policy: SideStorage["sizePolicy"]): string | undefined {
  return policy === "Capacity" ? status?.capacity?.["storage"] : readText(spec, "resources", "requests", "storage");
}

type SideStorage = ProtectedVmSpec["storage"]["first"];

function encodeMetadata({ claim }: SideVolume, identity: GuestIdentity): ClusterObject["metadata"] {
  return { ...claim, ...encodeMarks(identity), ...ownedIn(identity, claim.namespace) };
}

function encodeFilled(volume: SideVolume, storage: SideStorage, identity: GuestIdentity): ClusterObject {
  const spec = readObject(volume.template, "spec");
  const field = isJson(spec["pvc"]) ? "pvc" : "storage";
  const { labels, annotations, ...metadata } = encodeMetadata(volume, identity);
  return {
    apiVersion: "cdi.kubevirt.io/v1beta1",
    kind: "DataVolume",
    metadata: {
      ...metadata,
      labels: { ...(readObject(volume.template, "metadata", "labels") as Record<string, string>), ...labels },
      annotations: {
        ...(readObject(volume.template, "metadata", "annotations") as Record<string, string>),
        ...annotations,
      },
    },
    spec: mergeJson(spec, {
      [field]: { accessModes: storage.accessModes, storageClassName: storage.storageClassName },
    }),
  };
}

type Receiver = {
  readonly volume: SideVolume;
  readonly storage: SideStorage;
  readonly size: string;
  readonly like: Claim;
};

function encodeRoom({ storage, size, like }: Receiver): Json {
  return {
    accessModes: storage.accessModes,
    volumeMode: readPath(like.spec, "volumeMode") ?? "Filesystem",
    resources: { requests: { storage: size } },
    ...(storage.storageClassName === undefined ? readClass(like) : { storageClassName: storage.storageClassName }),
  };
}

/** "The one the template names, else the cluster's default": what the original has says both. */
function readClass({ spec }: Claim): Json {
  const name = readText(spec, "storageClassName");
  return name === undefined ? {} : { storageClassName: name };
}

function encodeBlank(receiver: Receiver, identity: GuestIdentity): ClusterObject {
  return {
    apiVersion: "cdi.kubevirt.io/v1beta1",
    kind: "DataVolume",
    metadata: encodeMetadata(receiver.volume, identity),
    spec: { source: { blank: {} }, storage: encodeRoom(receiver) },
  };
}

function encodeClaim(receiver: Receiver, identity: GuestIdentity): ClusterObject {
  return {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: encodeMetadata(receiver.volume, identity),
    spec: encodeRoom(receiver),
  };
}

/** Volumes of sides that are gone. Only ours: what was there before is never deleted. */
export function planVolumeGarbage(observed: Observed, kept: readonly SideVolume[]): readonly Action[] {
  const isKept = ({ metadata }: ClusterObject): boolean =>
    kept.some(({ claim }) => claim.name === metadata.name && claim.namespace === metadata.namespace);
  return [...observed.dataVolumes, ...observed.claims]
    .filter((object) => !isKept(object) && object.metadata.deletionTimestamp === undefined)
    .map(deleteVolume);
}

export function deleteVolume({ kind, metadata }: ClusterObject): Action {
  return {
    tag: "deleteObject",
    kind: kind === "DataVolume" ? "DataVolume" : "PersistentVolumeClaim",
    name: { namespace: metadata.namespace ?? "", name: metadata.name },
    uid: metadata.uid,
    why: "no side of the guest uses it any more",
  };
}
