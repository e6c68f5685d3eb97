/**
 * A VirtualMachine that is there already becomes the first side: its template gets the twin recipe, and its own instance runs
 * the guest. What is changed in it is remembered in an annotation of its own, as the patch that undoes it, written together
 * with the first change; so the VirtualMachine can be given back whatever became of the operator.
 *
 * `runStrategy: Manual`, for with another one KubeVirt starts a lost guest again from its own disk. To get an instance the
 * strategy is `Once` until there is one.
 *
 * A guest that runs without Twinrun's hook in its QEMU has to be restarted once. That is the owner's to allow.
 */
import { vmiAnnotations, type VmiShape } from "../api/vmi-contract.ts";
import { diffJson, isJson, isSameJson, type Json, mergeJson, readObject, readText } from "../lib/json-merge.ts";
import { isFinal, isGoing, type VirtualMachine, type Vmi } from "./cluster-objects.ts";
import { type GuestSource } from "./guest-source.ts";
import { type Subject } from "./pair-spec.ts";
import { type PairView, type SideView } from "./pair-view.ts";
import { type Action, deleteInstance, type Observed } from "./protected-vm-plan.ts";
import { encodeRecipe, encodeTwinSide, type SidePlan } from "./side-recipe.ts";
import { encodeInstance } from "./twin-recipe.ts";

/** On the ProtectedVM: "true" allows one restart of a VirtualMachine that runs. */
export const ALLOW_RESTART_ANNOTATION = "twinrun.dev/allow-restart";

/** On the VirtualMachine: the merge patch for its spec that undoes the adoption. */
export const ORIGINAL_ANNOTATION = "twinrun.dev/original";

/** On the VirtualMachine, until it is adopted: since when nobody but us starts it. */
const HELD_ANNOTATION = "twinrun.dev/held-at";
const SETTLE_MS = 3_000;

/** It runs, but not as a side of the guest. */
export function findStranger({ vmis, protectedVm }: Observed, source: GuestSource, guest: string): Vmi | undefined {
  const name = source.virtualMachine?.metadata.name;
  return vmis.find(
    ({ metadata }) =>
      metadata.name === name &&
      metadata.namespace === protectedVm.metadata.namespace &&
      metadata.annotations?.[vmiAnnotations.guest] !== guest,
  );
}

export function mayRestart({ protectedVm }: Observed): boolean {
  return protectedVm.metadata.annotations?.[ALLOW_RESTART_ANNOTATION] === "true";
}

/** Someone would mind its end; and its volumes are where it is. */
export const mayHaveGuest = (vmi: Vmi): boolean => vmi.status?.nodeName !== undefined && !isFinal(vmi);

export type Hold = SidePlan & { readonly settlesInMs?: number };

/**
 * Until nothing but us starts it, KubeVirt may choose a node for it, and bind its claims there. `waitsFor` is undefined once they
 * stay where they are: a pod of its may have been given a node in the last moment, which nobody tells us but its claims, later.
 * An instance that has no node yet, or has ended, needs no leave to go.
 */
export function planHold({ nowMs }: Observed, { virtualMachine }: GuestSource, stranger: Vmi | undefined): Hold {
  if (virtualMachine === undefined || (stranger !== undefined && mayHaveGuest(stranger))) {
    return { actions: [] };
  }
  const { metadata } = virtualMachine;
  const holds = planHeld(virtualMachine, nowMs);
  if (stranger !== undefined) {
    const why = "it does not run, and is to be started with Twinrun's hook";
    const ends = isGoing(stranger) ? [] : [deleteInstance(stranger, why, stranger.metadata.resourceVersion)];
    return { actions: [...holds, ...ends], waitsFor: `the end of ${stranger.metadata.name}, which does not run` };
  }
  if (holds.length > 0) {
    return { actions: holds, waitsFor: `VirtualMachine ${metadata.name} to be started by nobody else` };
  }
  return planSettling(metadata, nowMs);
}

function planSettling({ name, annotations }: VirtualMachine["metadata"], nowMs: number): Hold {
  const heldMs = nowMs - Date.parse(annotations?.[HELD_ANNOTATION] ?? "");
  return heldMs >= 0 && heldMs < SETTLE_MS
    ? { actions: [], waitsFor: `the volumes of ${name} to stay where they are`, settlesInMs: SETTLE_MS - heldMs }
    : { actions: [] };
}

function planHeld(virtualMachine: VirtualMachine, nowMs: number): readonly Action[] {
  const { spec = {} } = virtualMachine;
  const patch = startsByItself(spec) ? planPatch(virtualMachine, leaveRunning(spec), "Manual") : undefined;
  const annotations = { [HELD_ANNOTATION]: new Date(nowMs).toISOString() };
  // At any version: it must not lose to KubeVirt, which writes often while it starts one.
  return patch === undefined ? [] : [patchAnyVersion(virtualMachine, mergeJson(patch, { metadata: { annotations } }))];
}

export const isHeld = ({ virtualMachine }: GuestSource): boolean =>
  virtualMachine?.metadata.annotations?.[HELD_ANNOTATION] !== undefined;

/** What was adopted is held again, to be placed anew; undefined when it is. */
export function planHoldAgain({ nowMs }: Observed, source: GuestSource): Action | undefined {
  const annotations = { [HELD_ANNOTATION]: new Date(nowMs).toISOString() };
  return source.virtualMachine === undefined || isHeld(source)
    ? undefined
    : patchAnyVersion(source.virtualMachine, { metadata: { annotations }, spec: { runStrategy: "Manual" } });
}

const startsByItself = (spec: Json): boolean =>
  spec["running"] === true || ["Always", "RerunOnFailure", "Once"].includes(readText(spec, "runStrategy") ?? "");

type Adopted = { readonly side: SideView; readonly shape: VmiShape | undefined };

/** `shape` is undefined when the instance is there: then the VirtualMachine only has to stay as it is. */
export function planAdoptedInstance(subject: Subject, view: PairView, { side, shape }: Adopted): SidePlan {
  const { virtualMachine } = subject.source;
  if (virtualMachine === undefined) {
    return { actions: [] };
  }
  const startedAs = readText(virtualMachine.spec, "template", "metadata", "annotations", vmiAnnotations.startedAs);
  const kept = startedAs === "standby" ? "standby" : "primary";
  const desired = encodeAdopted(subject, view, { side, shape: shape ?? kept });
  const patch = planPatch(virtualMachine, desired, shape === undefined ? "Manual" : "Once");
  return {
    actions: patch === undefined ? [] : [patchMachine(virtualMachine, patch)],
    waitsFor: `KubeVirt to start VirtualMachine ${virtualMachine.metadata.name}`,
  };
}

/** Before the stranger may end: nothing must start it again. */
export function planAdoption(subject: Subject, view: PairView): readonly Action[] {
  const [first] = view.sides;
  return planAdoptedInstance(subject, view, { side: first, shape: undefined }).actions;
}

function encodeAdopted(subject: Subject, view: PairView, adopted: { side: SideView; shape: VmiShape }): Json {
  const spec = subject.source.virtualMachine?.spec ?? {};
  const {
    labels,
    annotations,
    spec: instance,
  } = encodeInstance(encodeRecipe(subject, view), encodeTwinSide(adopted, new Map()));
  const template = mergeJson(readObject(spec, "template"), { metadata: { labels, annotations } });
  return { ...leaveRunning(spec), template: { ...template, spec: instance } };
}

/** The old field `running` and runStrategy exclude each other. */
const leaveRunning = (spec: Json): Json =>
  Object.fromEntries(Object.entries(spec).filter(([field]) => field !== "running"));

function planPatch({ spec = {}, metadata }: VirtualMachine, desired: Json, runStrategy: string): Json | undefined {
  const change = diffJson(spec, { ...desired, runStrategy });
  const known = metadata.annotations?.[ORIGINAL_ANNOTATION];
  if (known !== undefined && Object.keys(change).length === 0) {
    return undefined;
  }
  const annotations = {
    ...encodeOriginal(spec, desired, known),
    ...(metadata.annotations?.[HELD_ANNOTATION] === undefined ? {} : { [HELD_ANNOTATION]: null }),
  };
  return { ...(Object.keys(annotations).length === 0 ? {} : { metadata: { annotations } }), spec: change };
}

/** What is changed now may be more than what was changed first; `known` undoes that. */
function encodeOriginal(spec: Json, desired: Json, known: string | undefined): Json {
  const undo = known === undefined ? undefined : parsePatch(known);
  const before =
    undo === undefined ? keepRunning(spec) : mergeJson({ ...leaveRunning(spec), runStrategy: "Manual" }, undo);
  const original = diffJson({ ...desired, runStrategy: "Manual" }, before);
  return isSameJson(undo, original) ? {} : { [ORIGINAL_ANNOTATION]: JSON.stringify(original) };
}

/** One that was stopped runs by the time it is given back, and goes on: with Halted KubeVirt would end it. */
function keepRunning(spec: Json): Json {
  const { running, ...others } = spec;
  const wasStopped = running === false || others["runStrategy"] === "Halted";
  return wasStopped ? { ...others, runStrategy: "Manual" } : spec;
}

const patchMachine = (machine: VirtualMachine, patch: Json): Action =>
  patchAnyVersion(machine, withVersion(patch, machine.metadata.resourceVersion));

function patchAnyVersion({ metadata }: VirtualMachine, patch: Json): Action {
  const name = { namespace: metadata.namespace ?? "", name: metadata.name };
  return { tag: "patchObject", kind: "VirtualMachine", name, patch };
}

/** A patch that was worked out from an older version is refused, and worked out again. */
function withVersion(patch: Json, resourceVersion: string | undefined): Json {
  return resourceVersion === undefined ? patch : mergeJson(patch, { metadata: { resourceVersion } });
}

/** So that KubeVirt makes no instance of the adopted template any more; undefined when it makes none. */
export function planRest(virtualMachine: VirtualMachine): Action | undefined {
  const isToStart = readText(virtualMachine.spec, "runStrategy") === "Once";
  return isToStart ? patchMachine(virtualMachine, { spec: { runStrategy: "Manual" } }) : undefined;
}

/** Gives the VirtualMachine back as it was, its instance still running; undefined when that is done. */
export function planReturn({ virtualMachine, vmis }: Observed, guest: string): readonly Action[] {
  if (virtualMachine === undefined) {
    return [];
  }
  const { metadata } = virtualMachine;
  const original = metadata.annotations?.[ORIGINAL_ANNOTATION];
  const spec = dropMarks(parsePatch(original));
  const own: readonly Action[] =
    original === undefined
      ? []
      : [
          patchMachine(virtualMachine, {
            metadata: { annotations: { [ORIGINAL_ANNOTATION]: null, [HELD_ANNOTATION]: null } },
            spec,
          }),
        ];
  const instance = vmis.find(
    (vmi) => vmi.metadata.name === metadata.name && vmi.metadata.namespace === metadata.namespace,
  );
  return [...own, ...(instance === undefined ? [] : stripMarks(instance, guest))];
}

function parsePatch(text: string | undefined): Json {
  try {
    const parsed: unknown = JSON.parse(text ?? "{}");
    return isJson(parsed) ? parsed : {};
  } catch {
    return {}; // Somebody edited it; what is left is the person's.
  }
}

/** The annotation is in its owner's hands, and we write with rights of our own: nothing in it may make a side of somebody's guest. */
function dropMarks(patch: Json): Json {
  const metadata = readObject(patch, "template", "metadata");
  const dropped = Object.entries(metadata).map(([field, values]) => {
    const names = isJson(values) ? Object.keys(values).filter((name) => name.startsWith("twinrun.dev/")) : [];
    return [field, isJson(values) ? { ...values, ...Object.fromEntries(names.map((name) => [name, null])) } : values];
  });
  return dropped.length === 0
    ? patch
    : { ...patch, template: { ...readObject(patch, "template"), metadata: Object.fromEntries(dropped) as Json } };
}

/** The shape stays: the hook may be asked for this instance's domain once more. */
function stripMarks({ metadata }: Vmi, guest: string): readonly Action[] {
  if (metadata.labels?.["twinrun.dev/guest"] !== guest) {
    return [];
  }
  const name = { namespace: metadata.namespace ?? "", name: metadata.name };
  const patch = {
    metadata: { labels: { "twinrun.dev/guest": null }, annotations: { [vmiAnnotations.protectedVm]: null } },
  };
  return [{ tag: "patchObject", kind: "VirtualMachineInstance", name, patch }];
}
