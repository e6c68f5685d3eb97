/** What the hook reads of the VirtualMachineInstance that KubeVirt hands to it as JSON. */
import { GUEST_NAME_PATTERN, VMI_SHAPES, vmiAnnotations, type VmiShape } from "../api/vmi-contract.ts";
import { Failure } from "../lib/failure.ts";

export type HookedVmi = { readonly guest: string; readonly node: string; readonly startedAs: VmiShape };

export type VmiFailureDetail =
  | { readonly code: "VmiMalformed" }
  | { readonly code: "AnnotationInvalid"; readonly annotation: string }
  | { readonly code: "NotStartedPaused" }
  | { readonly code: "NodeUnknown" };
export class VmiFailure extends Failure<VmiFailureDetail> {}

/**
 * Throws a {@link VmiFailure}.
 *
 * A VMI without our annotations is refused too. Left as it is, the standby of a guest whose annotations got lost would be an
 * ordinary VM that boots from a copy of the disk: the same guest twice.
 *
 * Paused, because libvirt lets every other guest run as soon as QEMU is there (a standby would run on its own once the
 * primary's state is loaded), and because KubeVirt resumes a guest that it finds stopped unless it was created so: it would
 * do that in the middle of a checkpoint.
 */
export function parseVmi(json: string): HookedVmi {
  const vmi = readJson(json);
  const annotations = readField(vmi, "metadata", "annotations");
  const guest = readField(annotations, vmiAnnotations.guest);
  if (typeof guest !== "string" || !GUEST_NAME_PATTERN.test(guest)) {
    const says = 'must name the guest in lower-case letters, digits, "-" and "." (at most 63)';
    throw invalidAnnotation(vmiAnnotations.guest, says, guest);
  }
  const given = readField(annotations, vmiAnnotations.startedAs);
  const startedAs = VMI_SHAPES.find((shape) => shape === given);
  if (startedAs === undefined) {
    throw invalidAnnotation(vmiAnnotations.startedAs, `must be ${VMI_SHAPES.join(" or ")}`, given);
  }
  if (readField(vmi, "spec", "startStrategy") !== "Paused") {
    const says = "a protected VMI needs spec.startStrategy: Paused, or KubeVirt resumes it during checkpoints; set it";
    throw new VmiFailure({ code: "NotStartedPaused" }, says);
  }
  const node = readField(vmi, "status", "nodeName");
  if (typeof node !== "string" || node === "") {
    throw new VmiFailure(
      { code: "NodeUnknown" },
      "the VMI has no status.nodeName: it was not given to a node yet; try again",
    );
  }
  return { guest, node, startedAs };
}

function readJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (cause) {
    throw new VmiFailure({ code: "VmiMalformed" }, "the VMI is no JSON; is the caller a virt-launcher?", { cause });
  }
}

function readField(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce(
    (at, name) => (typeof at === "object" && at !== null ? (at as Readonly<Record<string, unknown>>)[name] : undefined),
    value,
  );
}

function invalidAnnotation(annotation: string, says: string, found: unknown): VmiFailure {
  const seen = found === undefined ? "it is missing" : `it is ${JSON.stringify(found)}`;
  const remedy = "the operator writes it, so let a ProtectedVM create the VMI, or take the hook out of it";
  return new VmiFailure(
    { code: "AnnotationInvalid", annotation },
    `annotation ${annotation} ${says}; ${seen}: ${remedy}`,
  );
}
