/**
 * What an agent writes of its side into a GuestPair's status, and whether it is worth writing now.
 *
 * News is what somebody may act on: role, state, term, shape waited for, trouble, takeover, conditions by their reason, links by
 * whether they live, and whether the guest is held to its share of them. It is written at once. Everything else is figures, which
 * an idle guest changes all the time: written from time to time by the side that runs the guest, and rarely by the other one; those
 * that only wavered can wait even longer, for whoever wants them to the second reads the metrics. A pair of which nothing is new
 * costs the API server, and the operator who reads it, hardly more than a write in a minute; one whose figures move costs a write
 * in ten seconds.
 *
 * States that a side only passes on its way to another are no news until they last: a takeover takes a fraction of a second, in
 * which the processors belong to the guest, and who reads its steps could do nothing about them.
 */
import { type Condition, GUEST_CONDITION_TYPES, type GuestConditionType } from "../api/conditions.ts";
import { type GuestPairStatus } from "../api/guest-pair.ts";
import { type DurationFigures, type EngineReport, type GuestShape } from "../protocol/assignment.ts";
import { type FaultRecord } from "./fault-log.ts";
import { type Takeover } from "./takeover-track.ts";

export type SideStatus = NonNullable<GuestPairStatus["sides"]>[number];

export type SideView = {
  readonly node: string;
  readonly observedGeneration: number;
  /** As the agent supervises the guest: `ended`, `released`, or the name of what goes on while no engine speaks. */
  readonly supervision: string;
  readonly wantedShape: GuestShape | null;
  readonly trouble: string | null;
  /** Names as assigned, all of them, in their order. */
  readonly disks: readonly string[];
  readonly links: readonly string[];
  /** Null while no engine speaks. */
  readonly report: EngineReport | null;
  /** The one that changed last first. */
  readonly faults: readonly FaultRecord[];
  readonly roundTrips?:
    readonly { readonly link: string; readonly p50Ms: number; readonly p99Ms: number }[] | undefined;
  readonly traffic?: { readonly bytesPerSecond: number; readonly nodePeakBytesPerSecond: number } | undefined;
  /** Carried out by this side and not in `before` yet, the last one with the time at which the guest went on. */
  readonly takeovers: {
    readonly count: number;
    readonly last: (Takeover & { readonly at: string }) | undefined;
  };
};

const TEXT_MAX = 1_024;
const MESSAGE_MAX = 4_096;
/** On the way to the role that the quorum gives. */
const PASSING_STATES: readonly string[] = ["asking", "activating"];
const PASSING_MS = 1_000;
type Patience = { readonly movedMs: number; readonly waveredMs: number };
const PRIMARY_PATIENCE: Patience = { movedMs: 12_000, waveredMs: 60_000 };
const OTHER_PATIENCE: Patience = { movedMs: 60_000, waveredMs: 300_000 };
/** A figure has moved when it doubled or halved, a percentage when it changed; by one of its unit at least. */
const MOVED_FACTOR = 2;
const MOVED_BY = 1;

/** The whole item; `before` is what was written last, whoever wrote it. */
export function planSideStatus(view: SideView, before: SideStatus | undefined, now: string): SideStatus {
  const { node, observedGeneration, wantedShape, takeovers } = view;
  const lastTakeover = takeovers.last ?? before?.lastTakeover;
  return {
    node,
    observedGeneration,
    reportedAt: now,
    ...planRole(view, before),
    ...(wantedShape === null ? {} : { wantedShape }),
    ...planTrouble(view),
    ...planFigures(view),
    ...planOverride(view, before),
    takeoversCount: (before?.takeoversCount ?? 0) + takeovers.count,
    ...(lastTakeover === undefined ? {} : { lastTakeover: { ...lastTakeover } }),
    ...planFaults(view),
    conditions: planConditions(view, before, now),
  };
}

function planFaults({ faults }: SideView): Pick<SideStatus, "faults"> {
  return faults.length === 0
    ? {}
    : { faults: faults.map((record) => ({ ...record, incidents: [...record.incidents] })) };
}

function planOverride({ report }: SideView, before: SideStatus | undefined): Pick<SideStatus, "override"> {
  const override = report?.override ?? before?.override;
  return override === undefined ? {} : { override };
}

type RolePart = Pick<SideStatus, "role" | "state" | "term" | "epoch" | "primaryNode" | "outputMode">;

function planRole({ report, supervision }: SideView, before: SideStatus | undefined): RolePart {
  if (report !== null && supervision === "running") {
    const { role, state, epoch, outputMode } = report;
    // A new engine knows neither before it has read the record; what is known is not forgotten.
    const term = Math.max(report.term, before?.term ?? 0);
    const primaryNode = report.primaryNode === "" ? before?.primaryNode : report.primaryNode;
    return { role, state, term, epoch, outputMode, ...(primaryNode === undefined ? {} : { primaryNode }) };
  }
  return { ...planUnheard(supervision, before), ...planKnown(before) };
}

/** What the last engine knew of the record still holds as far as anybody knows. */
function planKnown(before: SideStatus | undefined): Pick<RolePart, "term" | "epoch" | "primaryNode"> {
  if (before === undefined) {
    return { term: 0, epoch: 0 };
  }
  const { term, epoch, primaryNode } = before;
  return { term, epoch, ...(primaryNode === undefined ? {} : { primaryNode }) };
}

function planUnheard(
  supervision: string,
  before: SideStatus | undefined,
): Pick<RolePart, "role" | "state" | "outputMode"> {
  switch (supervision) {
    case "released":
      return { role: "released", state: "released", outputMode: "open" };
    case "ended":
      return { role: "ended", state: "ended", outputMode: "closed" };
    default:
      return { role: "starting", state: supervision, outputMode: before?.outputMode ?? "closed" };
  }
}

function planTrouble({ trouble }: SideView): Pick<SideStatus, "trouble"> {
  return trouble === null || trouble === "" ? {} : { trouble: trouble.slice(0, TEXT_MAX) };
}

type FigurePart = Pick<
  SideStatus,
  | ("syncPercent" | "resync" | "lagMs" | "tracker" | "disks" | "links" | "quorums")
  | ("checkpoint" | "addedLatency" | "traffic")
>;

function planFigures(view: SideView): FigurePart {
  const { report, disks } = view;
  const named = { disks: planDisks(disks, report), links: planLinks(view), ...planQuorums(report) };
  if (report === null) {
    return { syncPercent: 0, tracker: "none", ...named };
  }
  const { checkpoint, addedLatency, lagMs, resync } = report;
  const { pause } = checkpoint.phases;
  return {
    syncPercent: round(report.syncPercent),
    ...(resync === null ? {} : { resync: encodeResync(resync) }),
    ...(lagMs === null ? {} : { lagMs: round(lagMs) }),
    tracker: report.tracker,
    ...named,
    ...(pause === undefined || pause.count === 0
      ? {}
      : {
          checkpoint: {
            perSecond: round(checkpoint.perSecond),
            pause: quantilesOf(pause),
            dirtyPagesP50: round(checkpoint.dirtyPagesP50),
          },
        }),
    ...(addedLatency.count === 0 ? {} : { addedLatency: quantilesOf(addedLatency) }),
    ...planTraffic(view),
  };
}

const MIB = 2 ** 20;

const planTraffic = ({ traffic, report }: SideView): Pick<SideStatus, "traffic"> =>
  traffic === undefined
    ? {}
    : {
        traffic: {
          mibPerSecond: round(traffic.bytesPerSecond / MIB),
          nodePeakMiBPerSecond: round(traffic.nodePeakBytesPerSecond / MIB),
          ...(report?.linkShare?.isHeldTo === true
            ? { heldToMiBPerSecond: round(report.linkShare.bytesPerSecond / MIB) }
            : {}),
        },
      };

function encodeResync({ leftBytes, secondsLeft }: NonNullable<EngineReport["resync"]>): SideStatus["resync"] {
  return { leftBytes, ...(secondsLeft === null ? {} : { secondsLeft }) };
}

/**
 * Every disk and link that there is, whatever an engine says of it: a list that was written once and is empty later is taken away
 * by server-side apply as a whole, and the status without it is refused.
 */
function planDisks(names: readonly string[], report: EngineReport | null): FigurePart["disks"] {
  return names.map((id) => {
    const { syncPercent = 0, dirtyBytes = 0 } = report?.disks.find((disk) => disk.id === id) ?? {};
    return { id, syncPercent: round(syncPercent), dirtyBytes };
  });
}

function planLinks({ links, report, roundTrips = [] }: SideView): FigurePart["links"] {
  return links.map((name) => {
    const { alive = false, rttMs = null, carriesData } = report?.links.find((link) => link.name === name) ?? {};
    const measured = roundTrips.find(({ link }) => link === name);
    return {
      ...{ name, alive },
      ...(rttMs === null ? {} : { rttMs: round(rttMs) }),
      ...(measured === undefined ? {} : { roundTrip: { p50Ms: round(measured.p50Ms), p99Ms: round(measured.p99Ms) } }),
      ...(carriesData === undefined ? {} : { carriesData }),
    };
  });
}

function planQuorums(report: EngineReport | null): Pick<FigurePart, "quorums"> {
  const quorums = report?.quorums?.map(({ seat, reachable, latencyMs, inForce }) => ({
    ...{ seat, reachable, inForce },
    ...(latencyMs === null ? {} : { latencyMs: round(latencyMs) }),
  }));
  return quorums === undefined ? {} : { quorums };
}

const quantilesOf = ({ p50Ms, p99Ms, maxMs }: DurationFigures): { p50Ms: number; p99Ms: number; maxMs: number } => ({
  p50Ms: round(p50Ms),
  p99Ms: round(p99Ms),
  maxMs: round(maxMs),
});

/** More digits mean nothing, and would make news of noise. */
const round = (value: number): number => Math.max(0, Math.round(value * 100) / 100);

/** All of them, in the order of the list; `lastTransitionTime` moves only with `status`. */
function planConditions(view: SideView, before: SideStatus | undefined, now: string): Condition[] {
  return GUEST_CONDITION_TYPES.map((type) => {
    const found = findCondition(view, type);
    const known = before?.conditions.find((condition) => condition.type === type);
    return {
      type,
      ...found,
      observedGeneration: view.observedGeneration,
      lastTransitionTime: known?.status === found.status ? known.lastTransitionTime : now,
    };
  });
}

function findCondition(
  { report, supervision, trouble }: SideView,
  type: GuestConditionType,
): Pick<Condition, "status" | "reason" | "message"> {
  const condition = report?.conditions.find((candidate) => candidate.type === type);
  if (condition !== undefined) {
    const { status, reason, message } = condition;
    return { status, reason, message: message.slice(0, MESSAGE_MAX) };
  }
  if (type === "InSync" && (supervision === "released" || supervision === "ended")) {
    return {
      status: "False",
      reason: "Unprotected",
      message: `this side is ${supervision}`,
    };
  }
  const message = trouble ?? `no engine of this guest reports; the agent is ${supervision}`;
  return {
    status: "Unknown",
    reason: "NotReported",
    message: message.slice(0, MESSAGE_MAX),
  };
}

export type WriteDecision = "atOnce" | "withFigures" | "no";

export const isPassing = ({ state }: Pick<SideStatus, "state">): boolean => PASSING_STATES.includes(state);

/** What to do about a status of now; `sinceMs` is how long ago the last one was written, `passingMs` how long the side is passing. */
export function decideWrite(
  now: SideStatus,
  written: SideStatus | undefined,
  { sinceMs, passingMs = 0 }: { readonly sinceMs: number; readonly passingMs?: number | undefined },
): WriteDecision {
  if (isPassing(now) && passingMs < PASSING_MS) {
    return "no";
  }
  return written === undefined || encodeNews(now) !== encodeNews(written)
    ? "atOnce"
    : decideFigures(now, written, sinceMs);
}

function decideFigures(now: SideStatus, written: SideStatus, sinceMs: number): WriteDecision {
  const patience = now.role === "primary" ? PRIMARY_PATIENCE : OTHER_PATIENCE;
  if (now.role === "primary" && sinceMs >= patience.waveredMs) {
    return "withFigures"; // That it is still there is what there is to say.
  }
  if (sinceMs < patience.movedMs || encodeFigures(now) === encodeFigures(written)) {
    return "no";
  }
  return sinceMs >= patience.waveredMs || haveMoved(listFigures(now), listFigures(written)) ? "withFigures" : "no";
}

function encodeNews(side: SideStatus): string {
  const { role, state, term, primaryNode, wantedShape, trouble, lastTakeover, takeoversCount, tracker } = side;
  const conditions = side.conditions.map(({ type, status, reason }) => [type, status, reason]);
  const links = side.links.map(({ name, alive, carriesData }) => [name, alive, carriesData]);
  const quorums = side.quorums?.map(({ seat, reachable, inForce }) => [seat, reachable, inForce]);
  const disks = side.disks.map(({ id }) => id);
  const faults = side.faults?.map(({ node, component, code, state, incidents }) => {
    return [node, component, code, state, incidents];
  });
  return JSON.stringify([
    [side.observedGeneration, role, state, term, primaryNode, wantedShape, trouble, tracker],
    [lastTakeover?.at, takeoversCount, conditions, links, disks, faults, quorums, side.override?.at],
    side.traffic?.heldToMiBPerSecond !== undefined,
  ]);
}

function encodeFigures(side: SideStatus): string {
  return JSON.stringify({ ...side, reportedAt: "" });
}

type Figures = { readonly percents: readonly number[]; readonly measures: readonly number[] };

/** Those that stay about the same while nothing happens: no maximum does, and no p99 of a few checkpoints. */
function listFigures({ disks, links, syncPercent, ...measured }: SideStatus): Figures {
  return {
    percents: [syncPercent, ...disks.map((disk) => disk.syncPercent)],
    measures: [
      ...disks.map(({ dirtyBytes }) => dirtyBytes),
      ...links.map(({ rttMs, roundTrip }) => roundTrip?.p50Ms ?? rttMs ?? 0),
      ...listMeasures(measured),
    ],
  };
}

type Measured = Pick<SideStatus, "checkpoint" | "addedLatency" | "traffic">;

const listMeasures = ({ checkpoint, addedLatency, traffic }: Measured): readonly number[] =>
  [
    ...[checkpoint?.perSecond, checkpoint?.dirtyPagesP50, checkpoint?.pause.p50Ms],
    ...[addedLatency?.p50Ms, traffic?.mibPerSecond],
  ].map((measure) => measure ?? 0);

function haveMoved(now: Figures, before: Figures): boolean {
  const isFar = (factor: number) => (pair: readonly [number, number]) =>
    Math.max(...pair) - Math.min(...pair) >= MOVED_BY && Math.max(...pair) >= factor * Math.min(...pair);
  const pairUp = (some: readonly number[], others: readonly number[]): readonly (readonly [number, number])[] =>
    some.map((value, index) => [value, others[index] ?? 0] as const);
  return (
    pairUp(now.percents, before.percents).some(isFar(1)) ||
    pairUp(now.measures, before.measures).some(isFar(MOVED_FACTOR))
  );
}
