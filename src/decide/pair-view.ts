/** A guest as it is: its two sides with what belongs to each, and what the agents' reports say of both together. */
import { type Fault, type SeenFault } from "../api/fault.ts";
import { type GuestPair } from "../api/guest-pair.ts";
import { requestAnnotations } from "../api/requests.ts";
import { OUTDATED_LABEL } from "../api/vmi-contract.ts";
import { present } from "../lib/assert.ts";
import { type ObjectName, type PairReport, type Vmi } from "./cluster-objects.ts";
import { mergeFaults } from "./component-faults.ts";
import { type GuestNotes, parseNotes } from "./guest-notes.ts";
import { sideMark } from "./guest-names.ts";
import { findMaintenance } from "./maintenance.ts";
import { LOSS_GRACE_MS, type NodeState, readNodeState } from "./node-fitness.ts";
import { type Observed } from "./protected-vm-plan.ts";

export type SidePlace = "first" | "second";

export type SideView = {
  readonly node: string;
  readonly place: SidePlace;
  readonly mark: string;
  readonly vmiName: ObjectName;
  readonly vmi: Vmi | undefined;
  readonly report: PairReport | undefined;
  readonly state: NodeState;
  /** The guest was started from its volumes. */
  readonly isOrigin: boolean;
  /** It is the adopted VirtualMachine's own instance. */
  readonly isVirtualMachine: boolean;
  /** Nothing can be expected of it; what its agent last said is no longer true. */
  readonly isSilent: boolean;
  /** A drain wants its instance to go. */
  readonly isEvacuated: boolean;
  /** Its instance runs in a launcher of an earlier version of KubeVirt. */
  readonly isOutdated: boolean;
};

export type PairView = {
  readonly pair: GuestPair;
  readonly notes: GuestNotes;
  /** The first side first. */
  readonly sides: readonly [SideView, SideView];
  /** Of the quorum's record, as last reported; 0 while there is none. */
  readonly term: number;
  /** The side that runs the guest, by its own account. */
  readonly primary: SideView | undefined;
  readonly standby: SideView | undefined;
  /** The standby could go on. */
  readonly isInSync: boolean;
  /** No side has ever run it. */
  readonly isNew: boolean;
  /** It shut itself down. */
  readonly hasEnded: boolean;
  /** Nobody says that it runs the guest, as for a moment when it changes sides or its engine is replaced. */
  readonly isBetween: boolean;
  /** What failed of it; see component-faults.ts. */
  readonly faults: readonly Fault[];
};

/** Who runs a guest says so once a minute if there is nothing new; see side-status.ts. */
const SILENT_AFTER_MS = 75_000;
/** What was said longer ago is no news of a change. */
const CHANGE_IS_NEWS_MS = 30_000;
/**
 * When the API server was away itself, nodes are found lost as soon as it is back, and all reports are old by then. Agents that live
 * are heard within this time, on a busy node too: they try again every five seconds.
 */
const HEARD_WITHIN_MS = 20_000;

export function viewPair(observed: Observed, pair: GuestPair): PairView {
  const notes = parseNotes(pair) ?? guessNotes(pair, observed);
  const [one, other] = pair.spec.sides.map((side) => viewSide(observed, { pair, notes, side }));
  const [left, right] = [present(one, "a pair has sides"), present(other, "a pair has two sides")];
  const sides = left.place === "first" ? ([left, right] as const) : ([right, left] as const);
  const reports = sides.flatMap(({ report }) => (report === undefined ? [] : [report]));
  const term = Math.max(0, ...reports.map((report) => report.term));
  const primary = sides.find((side) => runsIn(side, term));
  const isInSync = primary !== undefined && isTrue(primary.report, "InSync");
  const isNew = term === 0;
  const hasEnded = primary === undefined && reports.some(({ role, term: at }) => role === "ended" && at === term);
  return {
    pair,
    notes,
    sides,
    term,
    primary,
    standby: primary === undefined ? undefined : findStandby(sides, primary, isInSync),
    isInSync,
    isNew,
    hasEnded,
    faults: listFaults(observed, sides),
    isBetween: primary === undefined && !isNew && !hasEnded && sides.some((side) => isBetween(side, observed.nowMs)),
  };
}

/** Also of a guest that has no sides yet, or none any more. */
export function listFaults(observed: Observed, sides: readonly SideView[]): readonly Fault[] {
  const { protectedVm, previous, nodes, agents, nowMs } = observed;
  return mergeFaults({
    previous: previous?.faults ?? [],
    sides: sides.map((side) => ({
      node: side.node,
      seen: listSeen(side),
      lostSinceMs: isLost(side, nowMs) ? side.state.awaySinceMs : undefined,
      isCordoned: isCordoned(side.state),
      isMaintained: isMaintained(side),
    })),
    isReady: (node) => readNodeState(node, nodes, agents).awaySinceMs === undefined,
    limit: protectedVm.spec.failover.isolateAfterFaults,
    clear: protectedVm.metadata.annotations?.[requestAnnotations.clearFaults],
    nowMs,
  });
}

const listSeen = ({ report, isSilent }: SideView): readonly SeenFault[] | undefined =>
  report === undefined || isSilent ? undefined : (report.faults ?? []);

/** Two may say so for a moment, the one whose term is over and the one that took over; and one that is away says so for ever. */
function runsIn({ report, isSilent, node }: SideView, term: number): boolean {
  const isPrimary = report?.role === "primary" || report?.role === "released";
  return isPrimary && !isSilent && report.term === term && (report.primaryNode ?? node) === node;
}

/** One that the primary is in sync with is there, whatever its node's conditions say. */
function findStandby(sides: readonly SideView[], primary: SideView, isInSync: boolean): SideView | undefined {
  return sides.find((side) => side !== primary && side.report?.role === "standby" && (isInSync || !side.isSilent));
}

/** The owner has no guest, and makes one from its disks. */
export const isCold = ({ report }: SideView): boolean => report !== undefined && isColdState(report.state);

export const isColdState = (state: string): boolean => state === "coldWaiting" || state === "booting";

/** A side that needs another QEMU runs nothing. */
function isBetween({ report, node }: SideView, nowMs: number): boolean {
  if (report === undefined || nowMs - Date.parse(report.reportedAt) > CHANGE_IS_NEWS_MS) {
    return false;
  }
  const { role, state, primaryNode, wantedShape } = report;
  const isBeingReplaced = role === "starting" && primaryNode === node && wantedShape === undefined;
  return isBeingReplaced || state === "activating" || role === "fenced";
}

export const isTrue = (report: PairReport | undefined, type: string): boolean =>
  report?.conditions.some((condition) => condition.type === type && condition.status === "True") === true;

type SideInput = {
  readonly pair: GuestPair;
  readonly notes: GuestNotes;
  readonly side: GuestPair["spec"]["sides"][number];
};

function viewSide(observed: Observed, { pair, notes, side: { node, vmi: vmiName } }: SideInput): SideView {
  const { protectedVm, nodes, agents, nowMs } = observed;
  const state = readNodeState(node, nodes, agents);
  const report = pair.status?.sides?.find((each) => each.node === node);
  const reportAgeMs = report === undefined ? 0 : nowMs - Date.parse(report.reportedAt);
  const isOrigin = notes.origin === node;
  return {
    node,
    place: notes.first === node ? "first" : "second",
    mark: sideMark(protectedVm.metadata.uid ?? "", node),
    vmiName,
    ...viewInstance(observed, observed.findVmi(vmiName), state),
    report,
    state,
    isOrigin,
    isVirtualMachine: isOrigin && protectedVm.spec.virtualMachineRef !== undefined,
    isSilent: isAwayFor(state, nowMs, HEARD_WITHIN_MS) && reportAgeMs > SILENT_AFTER_MS,
  };
}

type Instance = Pick<SideView, "vmi" | "isEvacuated" | "isOutdated">;

function viewInstance({ settings }: Observed, vmi: Vmi | undefined, state: NodeState): Instance {
  const isOutdated = vmi?.metadata.labels?.[OUTDATED_LABEL] !== undefined;
  const isAskedToGo = (vmi?.status?.evacuationNodeName ?? "") !== "";
  const isRenewed = isOutdated && settings.renewsLaunchers && !isCordoned(state);
  return { vmi, isEvacuated: isAskedToGo && !isRenewed, isOutdated };
}

/** KubeVirt evicts outdated launchers too, if it is told to; but both sides of a guest at once. Those are renewed in turn. */
const isCordoned = ({ node }: NodeState): boolean => node?.spec?.["unschedulable"] === true;

/** Without its notes a guest keeps its sides; what it was started from is then taken to be the first. */
function guessNotes({ spec }: GuestPair, { protectedVm }: Observed): GuestNotes {
  const { namespace } = protectedVm.metadata;
  const first = spec.sides.find(({ vmi }) => vmi.namespace === namespace) ?? spec.sides[0];
  const node = present(first, "a pair has sides").node;
  return { first: node, origin: node, machine: {} };
}

/** Somebody takes its node out of service. */
export const isMaintained = ({ state }: SideView): boolean => findMaintenance(state.node) !== undefined;

/** Its node or agent has been away for longer than a restart takes. */
export const isLost = ({ state }: SideView, nowMs: number): boolean => isAwayFor(state, nowMs, LOSS_GRACE_MS);

const isAwayFor = ({ awaySinceMs }: NodeState, nowMs: number, ms: number): boolean =>
  awaySinceMs !== undefined && nowMs - awaySinceMs >= ms;

export const peerOf = ({ sides: [first, second] }: PairView, side: SideView): SideView =>
  side.node === first.node ? second : first;
