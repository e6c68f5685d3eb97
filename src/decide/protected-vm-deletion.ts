/**
 * The end of a ProtectedVM. A guest that exists only under protection is deleted with everything that was made for it. An
 * adopted VirtualMachine is given back, and its guest does not notice:
 *
 *   guest on the other side --it moves back--> on its own side --intent Release--> released --> the pair goes --> the
 *   VirtualMachine gets its own fields again, second side and volumes go --> the finalizer goes
 *
 * Each pass takes away one thing, and the next one when that is gone.
 */
import { requestAnnotations } from "../api/requests.ts";
import { planRest, planReturn } from "./adoption.ts";
import { isGoing, type VirtualMachine, type Vmi } from "./cluster-objects.ts";
import { listOwnQuorums } from "./pair-quorum.ts";
import { LOSS_GRACE_MS, readNodeState } from "./node-fitness.ts";
import { type PairView, type SideView } from "./pair-view.ts";
import { type Action, deleteInstance, type Observed } from "./protected-vm-plan.ts";
import { deleteVolume } from "./volumes.ts";

export type DeletionStep =
  /** The guest has to be back on its own side first: the pair is looked after until then. */
  | { readonly tag: "handBack"; readonly node: string; readonly says: string }
  /** The owner's engine lets go of the guest. */
  | { readonly tag: "release"; readonly says: string }
  | { readonly tag: "remove"; readonly actions: readonly Action[]; readonly says: string };

export function planDeletion(observed: Observed, guest: string, view: PairView | undefined): DeletionStep {
  if (view === undefined) {
    return planRemovalAndReturn(observed, guest);
  }
  const own = view.sides.find(({ isVirtualMachine }) => isVirtualMachine);
  if (own === undefined || observed.virtualMachine === undefined || own.report?.role === "released") {
    return letGo(view);
  }
  if (view.hasEnded) {
    const last = findLastOwner(view);
    return last === own.node ? letGo(view) : keepNewerDisks(own, last);
  }
  return view.isNew || isUnstarted(view, own)
    ? planUnstarted(observed.virtualMachine, view, own)
    : planRelease(view, own);
}

const letGo = (view: PairView): DeletionStep => ({
  tag: "remove",
  actions: [deletePair(view)],
  says: "the agents let go of the guest",
});

/** By the quorum's record, as it was read last. */
const findLastOwner = ({ sides, term }: PairView): string | undefined =>
  sides.find(({ report }) => report?.term === term)?.report?.primaryNode;

/** It ran on without its VirtualMachine's own side, and what it wrote there would go with that side's volumes. */
function keepNewerDisks(own: SideView, last = "the other node"): DeletionStep {
  const says =
    `the guest shut itself down on ${last}, whose disks may be newer than those of its VirtualMachine: annotate the ` +
    `ProtectedVM with ${requestAnnotations.start}=true, and it moves back; or delete the VirtualMachine as well`;
  return { tag: "handBack", node: own.node, says };
}

function planRelease({ primary, pair, isInSync }: PairView, own: SideView): DeletionStep {
  if (primary === own) {
    return { tag: "release", says: "the guest is released from protection" };
  }
  const meanwhile = isInSync || primary === undefined ? "" : "; that side has to be in sync first";
  const where = primary === undefined ? "no side runs the guest" : `the guest runs on ${primary.node}`;
  const says = `${where} and has to be back on ${own.node}, where its VirtualMachine is${meanwhile}`;
  // Its owner may have been told to let go and have moved since.
  return pair.spec.intent === "Release" && primary === undefined
    ? { tag: "release", says }
    : { tag: "handBack", node: own.node, says };
}

/** It is the one to run the guest, and its agent has no QEMU yet to run it in. */
export const isUnstarted = ({ primary }: PairView, own: SideView): boolean =>
  primary === own && own.report?.wantedShape !== undefined;

/** A guest that no engine has had since it was made is paused: KubeVirt has to start it anew. */
function planUnstarted(machine: VirtualMachine, view: PairView, { vmi }: SideView): DeletionStep {
  const says = "what was made so far is deleted";
  const rest = planRest(machine);
  if (rest !== undefined) {
    return { tag: "remove", actions: [rest], says };
  }
  const isThere = vmi !== undefined && !isGoing(vmi);
  return remove(isThere ? deleteInstance(vmi, "it was never started, and is paused") : deletePair(view), says);
}

const DELETED = "the ProtectedVM is being deleted";

export function deletePair({ pair: { metadata } }: PairView, why = DELETED): Action {
  return {
    tag: "deleteObject",
    kind: "GuestPair",
    name: { namespace: metadata.namespace ?? "", name: metadata.name },
    uid: metadata.uid,
    why,
  };
}

/** The VirtualMachine is given back at once: a standby's QEMU that never ran may take half a minute to end. */
function planRemovalAndReturn(observed: Observed, guest: string): DeletionStep {
  const returned = observed.protectedVm.spec.virtualMachineRef === undefined ? [] : planReturn(observed, guest);
  const { actions, says } = planRemoval(observed, guest);
  return { tag: "remove", actions: [...returned, ...actions], says };
}

type Removal = Extract<DeletionStep, { readonly tag: "remove" }>;

function planRemoval(observed: Observed, guest: string): Removal {
  const rest: readonly Action[] = [
    { tag: "deleteCopies", guest },
    { tag: "deleteRecord", guest, quorums: listOwnQuorums(observed.splitSitePair) },
    { tag: "removeFinalizer" },
  ];
  return planClearance(observed) ?? { tag: "remove", actions: rest, says: "the last traces are removed" };
}

/** Instances and volumes that were made for the guest go, one after the other; undefined when none is left. */
export function planClearance(observed: Observed, why = DELETED): Removal | undefined {
  const own = observed.protectedVm.spec.virtualMachineRef?.name;
  const instances = observed.vmis.filter((vmi) => !isOwn(vmi, observed, own));
  const [instance] = instances.filter((vmi) => !isGoing(vmi));
  if (instance !== undefined) {
    return remove(deleteInstance(instance, why), `instance ${instance.metadata.name} is deleted`);
  }
  // What is on a node that is away goes when the node comes back or is deleted.
  const awaited = instances.find((vmi) => !isAway(vmi, observed));
  if (awaited !== undefined) {
    return { tag: "remove", actions: [], says: `waiting for the end of instance ${awaited.metadata.name}` };
  }
  const [volume] = [...observed.dataVolumes, ...observed.claims].filter((object) => !isGoing(object));
  return volume === undefined ? undefined : remove(deleteVolume(volume), `volume ${volume.metadata.name} is deleted`);
}

const remove = (action: Action, says: string): Removal => ({ tag: "remove", actions: [action], says });

const isOwn = ({ metadata }: Vmi, { protectedVm }: Observed, name: string | undefined): boolean =>
  name !== undefined && metadata.name === name && metadata.namespace === protectedVm.metadata.namespace;

function isAway({ status }: Vmi, { nodes, agents, nowMs }: Observed): boolean {
  const node = status?.nodeName;
  const sinceMs = node === undefined ? undefined : readNodeState(node, nodes, agents).awaySinceMs;
  return sinceMs !== undefined && nowMs - sinceMs >= LOSS_GRACE_MS;
}
