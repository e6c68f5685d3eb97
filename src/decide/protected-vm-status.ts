/** What a ProtectedVM's status says: all conditions, always, and the figures of its primary. */
import {
  type Condition,
  GUEST_CONDITION_TYPES,
  type ProtectedVmConditionType,
  type ProtectedVmReason,
  type ReadyReason,
  type StalledReason,
} from "../api/conditions.ts";
import { type Fault } from "../api/fault.ts";
import { type ProtectedVmSpec, type ProtectedVmStatus } from "../api/protected-vm.ts";
import { isSameJson, readText } from "../lib/json-merge.ts";
import { type PairReport } from "./cluster-objects.ts";
import { judgeComponents, listFaultEvents } from "./fault-report.ts";
import { encodeGroup, viewGroup } from "./guest-group.ts";
import { judgePlacement } from "./misplacement.ts";
import { isCold, type PairView, peerOf, type SideView } from "./pair-view.ts";
import { type EventReason, type Observed, type PlannedEvent } from "./protected-vm-plan.ts";
import { findRoundTrip, isTooFar } from "./split-sites.ts";
import { PLANNED } from "./takeover-track.ts";
import { encodeConditions, type Verdict } from "./verdicts.ts";

/** What the plan found out on its way. */
export type Findings = {
  readonly guest: string;
  readonly view: PairView | undefined;
  readonly faults: readonly Fault[];
  readonly stalled?: { readonly reason: StalledReason; readonly message: string } | undefined;
  /** What is awaited while something is made. */
  readonly waitsFor?: string | undefined;
  /** When time alone ends the waiting. */
  readonly settlesInMs?: number | undefined;
  /** How the guest is changing sides. */
  readonly moving?: string | undefined;
  /** What waits for its turn among guests. */
  readonly work?: string | undefined;
  /** How the end is coming along. */
  readonly deleting?: string | undefined;
};

type Verdicts = { readonly [Type in ProtectedVmConditionType]: Verdict<ProtectedVmReason[Type]> };

export function planStatus(observed: Observed, findings: Findings): ProtectedVmStatus {
  const { view, guest, faults } = findings;
  const refusal = observed.refusal;
  const group = viewGroup(observed);
  const groupStatus = encodeGroup(group);
  const given: Findings =
    refusal === undefined ? findings : { ...findings, stalled: { reason: "Refused", message: refusal } };
  const ready = decideReady(given, observed.protectedVm.spec.mode);
  const verdicts: Verdicts = {
    Ready: ready,
    Reconciling: decideReconciling(given, ready.reason),
    Stalled: decideStalled(given),
    ...listGuestVerdicts(view, observed),
    ComponentsHealthy: judgeComponents(faults, observed.protectedVm),
    PlacementMet: judgePlacement(observed, view, group),
  };
  const { generation } = observed.protectedVm.metadata;
  const { previous, nowMs } = observed;
  return {
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: encodeConditions({ previous: previous?.conditions, generation, nowMs }, verdicts),
    guest,
    ...(view === undefined ? {} : encodePairStatus(view, previous)),
    ...(groupStatus === undefined ? {} : { group: groupStatus }),
    ...(faults.length === 0 ? {} : { faults: [...faults] }),
  };
}

function decideReady(findings: Findings, mode: ProtectedVmSpec["mode"]): Verdict<ReadyReason> {
  const { view, deleting } = findings;
  if (deleting !== undefined) {
    return { status: "False", reason: "Deleting", message: deleting };
  }
  if (view?.hasEnded === true) {
    const message =
      "the guest shut itself down; to start it again annotate the ProtectedVM with twinrun.dev/start=true";
    return { status: "False", reason: "NotRunning", message };
  }
  return view?.primary === undefined
    ? decideUnready(findings)
    : decideReadyOf({ ...view, mode }, view.primary, findings);
}

/** No side says that it runs the guest. */
function decideUnready(findings: Findings): Verdict<ReadyReason> {
  const { view, stalled } = findings;
  if (stalled !== undefined) {
    return { status: "False", reason: "Stalled", message: stalled.message };
  }
  if (view?.isBetween === true) {
    return { status: "False", reason: "ChangingSides", message: `the engines are changing (${saySides(view)})` };
  }
  return view === undefined || view.isNew
    ? { status: "False", reason: "Creating", message: sayWaiting(findings) ?? "being made" }
    : { status: "False", reason: "NotRunning", message: sayNotRunning(view) };
}

/** The mode is that of the spec: the pair learns of it a moment later. */
type ModeView = PairView & { readonly mode: ProtectedVmSpec["mode"] };

function decideReadyOf(view: ModeView, primary: SideView, findings: Findings): Verdict<ReadyReason> {
  if (isCold(primary)) {
    return decideReadyCold(view, primary, findings);
  }
  if (view.isInSync && isBeingRaised(view, primary)) {
    const message = `the guest runs on ${primary.node}; its standby has its disks and receives its memory as well`;
    return { status: "False", reason: "Synchronising", message };
  }
  if (view.isInSync) {
    const could = boots(view.mode) ? "boot it from its disks" : "go on";
    const message = `the guest runs on ${primary.node}, and ${peerOf(view, primary).node} could ${could} at any moment`;
    return { status: "True", reason: "Protected", message };
  }
  const found = primary.report?.conditions.find(({ type }) => type === "InSync");
  if (found?.reason === "Synchronising") {
    // Without the percentage: a message that changes every ten seconds is no news.
    const message = `the guest runs on ${primary.node}; its standby receives a whole copy`;
    return { status: "False", reason: "Synchronising", message };
  }
  return decideAlone(primary, findings, found?.message);
}

/** The higher level is asked for, and output still passes as in the lower one. */
const isBeingRaised = ({ mode }: ModeView, { report }: SideView): boolean =>
  !boots(mode) && report?.outputMode === "leased";

/** What becomes of a guest whose side is lost. */
const boots = (mode: ProtectedVmSpec["mode"]): boolean => mode === "HighAvailability";

function decideAlone({ node }: SideView, findings: Findings, found: string | undefined): Verdict<ReadyReason> {
  const why = findings.stalled?.message ?? sayWaiting(findings) ?? found;
  const message = `the guest runs on ${node} alone${why === undefined ? "" : `: ${why}`}`;
  return { status: "False", reason: "Unprotected", message };
}

function decideReadyCold({ notes }: PairView, { node }: SideView, findings: Findings): Verdict<ReadyReason> {
  if (notes.inSyncTerm === undefined) {
    return { status: "False", reason: "Creating", message: sayWaiting(findings) ?? `the guest starts on ${node}` };
  }
  const message = `no side has the guest's memory any more; ${node} starts it anew from its disks`;
  return { status: "False", reason: "NotRunning", message };
}

const sayWaiting = ({ waitsFor }: Findings): string | undefined =>
  waitsFor === undefined ? undefined : `waiting for ${waitsFor}`;

const sayNotRunning = (view: PairView): string => `no side runs the guest (${saySides(view)})`;

function saySides({ sides }: PairView): string {
  const says = sides.map(({ node, isSilent, report, state }) => {
    const why = isSilent ? (state.obstacle ?? "away") : (report?.trouble ?? report?.state ?? "no report");
    return `${node}: ${why}`;
  });
  return says.join("; ");
}

function decideReconciling(findings: Findings, ready: ReadyReason): Verdict<ProtectedVmReason["Reconciling"]> {
  const { deleting, stalled, moving = findings.work } = findings;
  if (deleting !== undefined) {
    return { status: "True", reason: "Deleting", message: deleting };
  }
  if (stalled !== undefined) {
    return { status: "False", reason: "Settled", message: "a person has to act first; see condition Stalled" };
  }
  if (moving !== undefined) {
    return { status: "True", reason: "ChangingSides", message: moving };
  }
  return decideProgress(findings, ready);
}

function decideProgress(findings: Findings, ready: ReadyReason): Verdict<ProtectedVmReason["Reconciling"]> {
  const waiting = sayWaiting(findings);
  if (ready === "Synchronising") {
    return { status: "True", reason: "Synchronising", message: "the standby receives a whole copy" };
  }
  if (waiting !== undefined || ready === "Creating") {
    return { status: "True", reason: "Creating", message: waiting ?? "being made" };
  }
  return (ready === "NotRunning" || ready === "ChangingSides") && findings.view?.hasEnded === false
    ? { status: "True", reason: "ChangingSides", message: "waiting for a side to run the guest" }
    : { status: "False", reason: "Settled", message: "the cluster is as the spec wants it" };
}

function decideStalled({ stalled }: Findings): Verdict<StalledReason> {
  return stalled === undefined
    ? { status: "False", reason: "NotStalled", message: "nothing stands in the way" }
    : { status: "True", ...stalled };
}

type GuestVerdicts = Pick<Verdicts, (typeof GUEST_CONDITION_TYPES)[number]>;

function listGuestVerdicts(view: PairView | undefined, observed: Observed): GuestVerdicts {
  const report = view?.primary?.report;
  const entries = GUEST_CONDITION_TYPES.map((type) => {
    const found = report?.conditions.find((condition) => condition.type === type);
    const message = report === undefined ? "no side reports that it runs the guest" : "not reported";
    const verdict = found ?? { status: "Unknown", reason: "NotReported", message };
    return [type, { status: verdict.status, reason: verdict.reason, message: verdict.message }];
  });
  const verdicts = Object.fromEntries(entries) as GuestVerdicts;
  return {
    ...verdicts,
    DisksHealthy: judgePeerDisks(verdicts.DisksHealthy, view),
    LinksHealthy: judgeDistance(verdicts.LinksHealthy, report, observed),
  };
}

/** The other side's disks are the guest's as well. */
function judgePeerDisks(
  verdict: GuestVerdicts["DisksHealthy"],
  view: PairView | undefined,
): GuestVerdicts["DisksHealthy"] {
  const primary = view?.primary;
  if (verdict.status !== "True" || view === undefined || primary === undefined) {
    return verdict;
  }
  const peer = peerOf(view, primary);
  const found = peer.report?.conditions.find(({ type, status }) => type === "DisksHealthy" && status === "False");
  return found === undefined
    ? verdict
    : { status: "False", reason: found.reason as typeof verdict.reason, message: `on ${peer.node}: ${found.message}` };
}

/** Links that work may still be too long. Without the figure, which moves; the SplitSitePair's status has it. */
function judgeDistance(
  verdict: GuestVerdicts["LinksHealthy"],
  report: PairReport | undefined,
  { splitSitePair: sites, previous }: Observed,
): GuestVerdicts["LinksHealthy"] {
  const roundTripMs = findRoundTrip(report);
  if (verdict.status !== "True" || sites === undefined || roundTripMs === undefined) {
    return verdict;
  }
  const { maxRoundTripMs } = sites.spec;
  const message =
    `the round trip between the sites is longer than the ${maxRoundTripMs} ms that SplitSitePair ` +
    `${sites.metadata.name} allows: mend the link, or raise spec.maxRoundTripMs and accept the latency`;
  const wasTooFar = findIn(previous, "LinksHealthy")?.reason === "RoundTripExceeded";
  return isTooFar(roundTripMs, maxRoundTripMs, wasTooFar)
    ? { status: "False", reason: "RoundTripExceeded", message }
    : verdict;
}

type PairStatus = Omit<ProtectedVmStatus, "observedGeneration" | "conditions" | "guest">;

function encodePairStatus(view: PairView, previous: ProtectedVmStatus | undefined): PairStatus {
  const { primary, standby, term } = view;
  const lastFailover = encodeLastFailover(view) ?? previous?.lastFailover;
  return {
    ...(term === 0 ? {} : { term }),
    ...(primary === undefined ? {} : { primary: encodeSide(primary) }),
    ...(standby === undefined ? {} : { standby: encodeSide(standby) }),
    ...(primary?.report === undefined ? {} : encodeReport(primary.report)),
    ...(lastFailover === undefined ? {} : { lastFailover }),
  };
}

function encodeReport(report: PairReport): Pick<ProtectedVmStatus, "checkpoint" | "disks" | "resync"> {
  const checkpoint = encodeFigures(report);
  const { resync, syncPercent } = report;
  const disks = report.disks.map(({ id, syncPercent }) => ({ name: nameDisk(id), syncPercent }));
  return {
    ...(checkpoint === undefined ? {} : { checkpoint }),
    disks,
    ...(resync === undefined ? {} : { resync: { percent: syncPercent, ...resync } }),
  };
}

const encodeSide = ({ node, vmiName }: SideView): NonNullable<ProtectedVmStatus["primary"]> => ({ node, vmi: vmiName });

/** Agents may name a disk by QEMU's device. */
const nameDisk = (id: string): string => id.replace(/^ua-/, "");

function encodeFigures({ checkpoint, addedLatency }: PairReport): ProtectedVmStatus["checkpoint"] {
  if (checkpoint === undefined) {
    return undefined;
  }
  const { perSecond, pause, dirtyPagesP50 } = checkpoint;
  return {
    perSecond,
    pause: { p50Ms: pause.p50Ms, p99Ms: pause.p99Ms },
    // Nothing was held back yet.
    addedLatency: { p50Ms: addedLatency?.p50Ms ?? 0, p99Ms: addedLatency?.p99Ms ?? 0 },
    dirtyPagesP50,
  };
}

function encodeLastFailover({ sides }: PairView): ProtectedVmStatus["lastFailover"] {
  const takeovers = sides.flatMap(({ report }) => (report?.lastTakeover === undefined ? [] : [report.lastTakeover]));
  const failovers = takeovers.filter(({ cause }) => cause !== PLANNED);
  const last = failovers.sort((one, other) => one.term - other.term).at(-1);
  if (last === undefined) {
    return undefined;
  }
  const { cause, at, durationMs, epoch } = last;
  return { cause, at, ...(durationMs === undefined ? {} : { durationMs }), epoch };
}

const READY_EVENTS: { readonly [Reason in ReadyReason]?: PlannedEvent["type"] } = {
  Protected: "Normal",
  Synchronising: "Normal",
  Unprotected: "Warning",
  NotRunning: "Warning",
};

/** What changed since the last status, as far as somebody wants to read about it. */
export function planStatusEvents(
  { previous, protectedVm }: Pick<Observed, "previous" | "protectedVm">,
  status: ProtectedVmStatus,
): readonly PlannedEvent[] {
  return [
    ...listFaultEvents(previous?.faults ?? [], status.faults ?? []),
    ...listSideEvents(previous, status, protectedVm.spec.mode),
    ...listReadyEvents(findIn(previous, "Ready"), findIn(status, "Ready")),
    ...listStalledEvents(findIn(previous, "Stalled"), findIn(status, "Stalled")),
  ];
}

const findIn = (status: ProtectedVmStatus | undefined, type: string): Condition | undefined =>
  status?.conditions?.find((condition) => condition.type === type);

function listReadyEvents(before: Condition | undefined, now: Condition | undefined): readonly PlannedEvent[] {
  const reason = now?.reason as ReadyReason | undefined;
  const type = reason === undefined ? undefined : READY_EVENTS[reason];
  const reasonBefore = before?.reason ?? "Creating";
  // A guest that is being made runs alone for a moment.
  const isNews = reasonBefore !== reason && !(reasonBefore === "Creating" && reason === "Unprotected");
  return now !== undefined && type !== undefined && isNews
    ? [{ type, reason: now.reason as EventReason, message: now.message }]
    : [];
}

function listStalledEvents(before: Condition | undefined, now: Condition | undefined): readonly PlannedEvent[] {
  const isNews = before?.reason !== now?.reason || before?.message !== now?.message;
  return now?.status === "True" && isNews
    ? [{ type: "Warning", reason: "Stalled", message: `${now.reason}: ${now.message}` }]
    : [];
}

function listSideEvents(
  previous: ProtectedVmStatus | undefined,
  { lastFailover, primary }: ProtectedVmStatus,
  mode: ProtectedVmSpec["mode"],
): readonly PlannedEvent[] {
  if (lastFailover !== undefined && !isSameJson(lastFailover, previous?.lastFailover)) {
    const message = sayFailover(lastFailover, primary?.node ?? "the standby", mode);
    return [{ type: "Warning", reason: "TookOver", message }];
  }
  const [before, now] = [readText(previous, "primary", "node"), primary?.node];
  const hasMoved = before !== undefined && now !== undefined && before !== now;
  return hasMoved ? [{ type: "Normal", reason: "ChangedSides", message: `the guest runs on ${now} now` }] : [];
}

function sayFailover(
  { durationMs, cause }: NonNullable<ProtectedVmStatus["lastFailover"]>,
  node: string,
  mode: ProtectedVmSpec["mode"],
): string {
  if (boots(mode)) {
    return `${node} boots the guest from its disks: ${cause}`;
  }
  const stood = durationMs === undefined ? "" : `, after the guest stood still for ${durationMs} ms`;
  return `${node} took over${stood}: ${cause}`;
}
