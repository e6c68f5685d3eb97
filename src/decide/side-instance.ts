/**
 * The VirtualMachineInstance of one side. Its agent says what shape of QEMU it waits for (wantedShape in its report), and the
 * operator makes that; before there is a report the first side gets a primary and the other a standby. An instance that ended,
 * or has the wrong shape, is deleted first: its name is needed again.
 *
 * Never because of an agent's silence: an agent that has what it needs, or that is away, asks for nothing.
 */
import { vmiAnnotations, type VmiShape } from "../api/vmi-contract.ts";
import { planAdoptedInstance } from "./adoption.ts";
import { isFinal, isGoing, type Vmi } from "./cluster-objects.ts";
import { findIsolation } from "./component-faults.ts";
import { sideName } from "./guest-names.ts";
import { type Subject } from "./pair-spec.ts";
import { type PairView, peerOf, type SideView } from "./pair-view.ts";
import { type Action, deleteInstance } from "./protected-vm-plan.ts";
import { listReferences } from "./references.ts";
import { encodeRecipe, encodeTwinSide, type Missing, type SidePlan } from "./side-recipe.ts";
import { findStartHold } from "./start-turn.ts";
import { PLANNED } from "./takeover-track.ts";
import { encodeMarks, encodeVmi } from "./twin-recipe.ts";
import { sayMisplacedVolume } from "./placed-anew.ts";
import { planVolumes } from "./volumes.ts";

const nothing: SidePlan = { actions: [] };

export function planSideInstance(subject: Subject, view: PairView, side: SideView): SidePlan {
  const { vmi } = side;
  const wanted = decideShape(view, side);
  if (vmi === undefined) {
    return wanted === undefined ? nothing : planMissing(subject, view, { side, shape: wanted });
  }
  const name = `VirtualMachineInstance ${side.vmiName.namespace}/${side.vmiName.name}`;
  if (isGoing(vmi)) {
    return { actions: [], waitsFor: `the end of ${name}` };
  }
  const why = findReasonToDelete(view, side, { vmi, wanted });
  if (why !== undefined) {
    return { actions: [deleteInstance(vmi, why)], waitsFor: `the end of ${name}: ${why}` };
  }
  const settled = side.isVirtualMachine ? planAdoptedInstance(subject, view, { side, shape: undefined }).actions : [];
  return {
    actions: settled,
    waitsFor: sayProgress(vmi, name, wanted),
    trouble: sayMisplacedVolume(subject, side),
  };
}

/** The shape of which there has to be an instance; undefined when the side needs none, or has what it needs. */
function decideShape({ pair, isNew, hasEnded }: PairView, { node, report }: SideView): VmiShape | undefined {
  if (report?.wantedShape !== undefined || hasEnded || !isNew) {
    return report?.wantedShape;
  }
  return node === pair.spec.roles.primary ? "primary" : "standby";
}

type Present = { readonly vmi: Vmi; readonly wanted: VmiShape | undefined };

function findReasonToDelete(view: PairView, side: SideView, { vmi, wanted }: Present): string | undefined {
  const unwanted = findReasonAgainst(view, side);
  if (unwanted !== undefined || wanted === undefined) {
    return unwanted;
  }
  if (isFinal(vmi)) {
    return `it has ${vmi.status?.phase === "Failed" ? "failed" : "ended"} and the guest needs another`;
  }
  const startedAs = readShape(vmi);
  const isOther = startedAs !== wanted && isReportNewer(side, vmi);
  return isOther ? `it was started as ${startedAs}, and the guest needs a ${wanted}` : undefined;
}

const readShape = ({ metadata }: Vmi): string => metadata.annotations?.[vmiAnnotations.startedAs] ?? "something else";

/** Why there should be none on this node for now. */
function findReasonAgainst(view: PairView, side: SideView): string | undefined {
  if (side.isEvacuated && runsElsewhere(view, side)) {
    return `${side.node} is drained`;
  }
  const isolation = findIsolation(view.faults, side.node);
  return isolation !== undefined && isGoneOnWithout(view, side)
    ? `${isolation.component} of ${side.node} is isolated`
    : undefined;
}

/** The quorum has let the other side go on alone: nobody could take over here. */
const isGoneOnWithout = (view: PairView, side: SideView): boolean =>
  runsElsewhere(view, side) && view.primary?.report?.state === "alone";

const runsElsewhere = ({ primary }: PairView, side: SideView): boolean => primary !== undefined && primary !== side;

/** An agent that has not seen this instance yet cannot mean it. */
function isReportNewer({ report }: SideView, { metadata }: Vmi): boolean {
  const isPrimary = report?.role === "primary";
  return (
    !isPrimary && report !== undefined && Date.parse(report.reportedAt) >= Date.parse(metadata.creationTimestamp ?? "")
  );
}

function sayProgress({ status }: Vmi, name: string, wanted: VmiShape | undefined): string | undefined {
  const phase = status?.phase ?? "Pending";
  const problem = status?.conditions?.find(({ type, status: held }) => type === "Synchronized" && held === "False");
  if (problem?.message !== undefined) {
    return `${name}: ${problem.message}`;
  }
  if (phase === "Running") {
    return wanted === undefined ? undefined : `the agent to take up ${name}`;
  }
  return `${name}, which is ${phase}`;
}

function planMissing(subject: Subject, view: PairView, missing: Missing): SidePlan {
  const { side, shape } = missing;
  if (side.state.obstacle !== undefined) {
    return { actions: [], waitsFor: `node ${side.node}: ${side.state.obstacle}` };
  }
  const idle = shape === "standby" ? findReasonForNone(subject, view, side) : undefined;
  if (idle !== undefined) {
    return idle;
  }
  const input = { source: subject.source, identity: subject.identity, side, peer: peerOf(view, side) };
  const { actions, waitsFor, trouble, sources } = planVolumes(subject.observed, input);
  if (waitsFor !== undefined || trouble !== undefined) {
    return { actions, waitsFor, trouble };
  }
  const hold = shape === "primary" ? findStartHold(subject.observed, view) : undefined;
  if (hold !== undefined) {
    return { actions, waitsFor: hold };
  }
  if (side.isVirtualMachine) {
    return planAdoptedInstance(subject, view, missing);
  }
  const twin = encodeTwinSide({ side, shape }, sources);
  const object = encodeVmi(encodeRecipe(subject, view), twin);
  return {
    actions: [...actions, ...copyReferences(subject, side), { tag: "createObject", object }],
    waitsFor: `VirtualMachineInstance ${twin.vmi.namespace}/${twin.vmi.name}`,
  };
}

function findReasonForNone(subject: Subject, view: PairView, side: SideView): SidePlan | undefined {
  if (findIsolation(view.faults, side.node) !== undefined) {
    return nothing; // The condition Stalled says why.
  }
  return isLeftAlone(subject, view)
    ? { actions: [], waitsFor: "a person to set failover.reprotect to Automatic, for a side was lost" }
    : undefined;
}

/** With reprotect Manual a lost side stays lost; one that changed places as planned was not. */
function isLeftAlone({ observed }: Subject, { notes, primary, term }: PairView): boolean {
  const takeover = primary?.report?.lastTakeover;
  const wasLost = notes.inSyncTerm === term || (takeover?.term === term && takeover.cause !== PLANNED);
  return observed.protectedVm.spec.failover.reprotect === "Manual" && term > 0 && wasLost;
}

function copyReferences({ source, identity }: Subject, side: SideView): readonly Action[] {
  if (side.vmiName.namespace === identity.namespace) {
    return [];
  }
  return listReferences(source.spec).map(({ kind, name }) => ({
    tag: "copyReference",
    kind,
    source: { namespace: identity.namespace, name },
    target: { namespace: side.vmiName.namespace, name: sideName(name, side.mark) },
    metadata: encodeMarks(identity),
  }));
}
