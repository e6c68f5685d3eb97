/**
 * The marks on what is made for a guest, by which the operator finds it again. Whoever edits them away gets them back: without
 * them an instance or a volume would outlive its guest unseen.
 */
import { vmiAnnotations } from "../api/vmi-contract.ts";
import { hasJson } from "../lib/json-merge.ts";
import { type Claim, type DataVolume, isGoing, type Vmi } from "./cluster-objects.ts";
import { type Subject } from "./pair-spec.ts";
import { type SideView } from "./pair-view.ts";
import { type Action, type Observed } from "./protected-vm-plan.ts";
import { encodeMarks } from "./twin-recipe.ts";
import { listSideVolumes } from "./volumes.ts";

export function planMarks(subject: Subject, side: SideView): readonly Action[] {
  const { guest } = subject.identity;
  const { labels, annotations } = encodeMarks(subject.identity);
  const { vmi } = side;
  // One that runs as it did before it was adopted is no side of the guest yet.
  const isStranger = side.isVirtualMachine && vmi?.metadata.annotations?.[vmiAnnotations.guest] !== guest;
  return [
    ...(vmi === undefined || isStranger
      ? []
      : planPatch(vmi, { labels, annotations: { ...annotations, [vmiAnnotations.guest]: guest } })),
    ...listOwnVolumes(subject, side).flatMap((volume) => planPatch(volume, { labels, annotations })),
  ];
}

function listOwnVolumes({ observed, source, identity }: Subject, side: SideView): readonly (DataVolume | Claim)[] {
  return listSideVolumes(source, side, identity.namespace)
    .filter(({ isOurs }) => isOurs)
    .flatMap(({ claim }) => findVolume(observed, claim) ?? []);
}

/** The claim of a DataVolume is CDI's. */
const findVolume = (observed: Observed, name: Parameters<Observed["findClaim"]>[0]): DataVolume | Claim | undefined =>
  observed.findDataVolume(name) ?? observed.findClaim(name);

function planPatch(object: Vmi | DataVolume | Claim, marks: ReturnType<typeof encodeMarks>): readonly Action[] {
  const { namespace = "", name, labels = {}, annotations = {} } = object.metadata;
  if (isGoing(object) || hasJson({ labels, annotations }, marks)) {
    return [];
  }
  const kind = object.kind as "VirtualMachineInstance" | "DataVolume" | "PersistentVolumeClaim";
  return [{ tag: "patchObject", kind, name: { namespace, name }, patch: { metadata: marks } }];
}
