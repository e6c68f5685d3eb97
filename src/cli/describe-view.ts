/** What `describe` says of a ProtectedVM, in the manner of kubectl describe. */
import { decideDetectionMs } from "../api/fault-tolerance.ts";
import { writeAge, writeAgeOf } from "./duration.ts";
import { listEventColumns, sortEvents } from "./event-view.ts";
import { type Known, type KubeCondition, type KubeEvent } from "./kube-objects.ts";
import { listFaultColumns, listFaults } from "./faults-view.ts";
import { type Paint } from "./paint.ts";
import { type ShownPair, type ShownSide, type ShownVm } from "./protected-vms.ts";
import { round } from "./status-view.ts";
import { type Column, oneLine, writeTable } from "./table.ts";

export type Described = {
  readonly vm: ShownVm;
  readonly pair: Known<ShownPair>;
  readonly events: Known<readonly KubeEvent[]>;
  readonly nowMs: number;
};

type Field = readonly [name: string, value: string | undefined];

export function writeDescription(described: Described, paint: Paint): readonly string[] {
  const { vm } = described;
  return [
    ...writeFields("", listHeadFields(vm, described.nowMs)),
    ...writeSection("Placement", writeFields("  ", listPlacementFields(vm))),
    ...writeSection("Figures", writeFields("  ", listFigureFields(vm))),
    ...writeSection("Disks", writeDisks(vm)),
    ...writeSection("Last failover", writeFields("  ", listFailoverFields(vm, described.nowMs))),
    ...writeSection("Faults", writeFaults(vm, described.nowMs, paint)),
    ...writeSection("Conditions", writeConditions(vm.status?.conditions ?? [], described.nowMs, paint)),
    ...writeSides(described, paint),
    ...writeEvents(described, paint),
  ];
}

/** A section without lines is left out. */
const writeSection = (title: string, lines: readonly string[]): readonly string[] =>
  lines.length === 0 ? [] : [`${title}:`, ...lines];

function writeFields(indent: string, fields: readonly Field[]): readonly string[] {
  const given = fields.filter((field): field is readonly [string, string] => field[1] !== undefined);
  const width = Math.max(0, ...given.map(([name]) => name.length));
  return given.map(([name, value]) => `${indent}${`${name}:`.padEnd(width + 1)}  ${oneLine(value)}`);
}

function listHeadFields(vm: ShownVm, nowMs: number): readonly Field[] {
  const { metadata, spec, status = {} } = vm;
  const since = metadata.deletionTimestamp;
  return [
    ["Name", metadata.name],
    ["Namespace", metadata.namespace],
    ["Mode", spec?.mode],
    ["Guest", status.guest],
    ["Source", writeSource(vm)],
    ["Created", `${metadata.creationTimestamp ?? "<unknown>"} (${writeAgeOf(metadata.creationTimestamp, nowMs)} ago)`],
    ["Being deleted", since === undefined ? undefined : `since ${writeAgeOf(since, nowMs)}`],
    ["Note", isBehind(vm) ? "the status below is about an earlier version of the spec" : undefined],
    ["Term", status.term?.toString()],
    ["Primary", writeSide(status.primary)],
    ["Standby", writeSide(status.standby) ?? "<none>"],
  ];
}

const writeSource = ({ spec }: ShownVm): string =>
  spec?.virtualMachineRef === undefined
    ? "its own template (the guest exists only under protection)"
    : `VirtualMachine ${spec.virtualMachineRef.name}`;

const isBehind = ({ metadata, status }: ShownVm): boolean =>
  status?.observedGeneration !== undefined && status.observedGeneration !== metadata.generation;

type Side = NonNullable<NonNullable<ShownVm["status"]>["primary"]>;

const writeSide = (side: Side | undefined): string | undefined =>
  side && `${side.node} (VirtualMachineInstance ${side.vmi.namespace}/${side.vmi.name})`;

function listPlacementFields({ spec = {}, status = {} }: ShownVm): readonly Field[] {
  const { placement, failover, checkpoint } = spec;
  return [
    ["Nodes", placement?.nodes?.join(", ")],
    ["Node selector", writeLabels(placement?.nodeSelector)],
    ...listCompanyFields({ spec, status }),
    ["Reprotect", failover?.reprotect],
    ["Detection", writeDetection(spec)],
    ["Latency bound", checkpoint && `${checkpoint.maxAddedLatencyMs} ms`],
  ];
}

const writeDetection = ({ mode, failover }: NonNullable<ShownVm["spec"]>): string | undefined =>
  mode && failover && `${decideDetectionMs({ mode, failover })} ms of silence`;

function listCompanyFields({ spec = {}, status = {} }: Pick<ShownVm, "spec" | "status">): readonly Field[] {
  const { placement, failover, start = { order: 0, waitSeconds: 0 } } = spec;
  return [
    ["Apart from", writeLabels(placement?.apartFrom)],
    ["Group", writeGroup(status.group) ?? failover?.group],
    ["Starts", start.order === 0 ? undefined : `in order ${start.order}, after ${start.waitSeconds} s at most`],
  ];
}

function writeLabels(labels: Readonly<Record<string, string>> = {}): string | undefined {
  const texts = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return texts.length === 0 ? undefined : texts.join(", ");
}

function writeGroup(group: NonNullable<ShownVm["status"]>["group"]): string | undefined {
  const members = group?.members.map(({ name, primary }) => `${name} on ${primary ?? "<none>"}`);
  return group && `${group.name} on ${group.node ?? "<none>"} (${members?.join(", ") ?? ""})`;
}

function listFigureFields({ status }: ShownVm): readonly Field[] {
  const checkpoint = status?.checkpoint;
  if (checkpoint === undefined) {
    return [];
  }
  const { perSecond, pause, addedLatency, dirtyPagesP50 } = checkpoint;
  return [
    ["Checkpoints", `${round(perSecond)} per second`],
    ["Pause", `${round(pause.p50Ms)} ms p50, ${round(pause.p99Ms)} ms p99`],
    ["Added latency", `${round(addedLatency.p50Ms)} ms p50, ${round(addedLatency.p99Ms)} ms p99`],
    ["Changed pages", `${round(dirtyPagesP50)} per checkpoint (p50)`],
  ];
}

function writeDisks({ status }: ShownVm): readonly string[] {
  const columns: readonly Column<{ readonly name: string; readonly syncPercent: number }>[] = [
    { head: "NAME", cell: ({ name }) => name },
    { head: "STANDBY HAS", cell: ({ syncPercent }) => `${round(syncPercent)}%` },
  ];
  const disks = status?.disks === undefined || status.disks.length === 0 ? [] : writeTable(columns, status.disks);
  return indent([...disks, ...writeResync(status?.resync)]);
}

function writeResync(resync: NonNullable<ShownVm["status"]>["resync"]): readonly string[] {
  if (resync === undefined) {
    return [];
  }
  const { percent, leftBytes, secondsLeft } = resync;
  const estimate = secondsLeft === undefined ? "" : `, about ${secondsLeft} s`;
  return [`copying: the standby has ${round(percent)}%, ${Math.ceil(leftBytes / 2 ** 20)} MiB are left${estimate}`];
}

function listFailoverFields({ status }: ShownVm, nowMs: number): readonly Field[] {
  const last = status?.lastFailover;
  if (last === undefined) {
    return [];
  }
  return [
    ["When", `${last.at} (${writeAgeOf(last.at, nowMs)} ago)`],
    ["Cause", last.cause],
    ["Stood still", last.durationMs === undefined ? "not measured" : `${last.durationMs} ms`],
    ["Went on from", `checkpoint ${last.epoch}`],
  ];
}

function writeFaults(vm: ShownVm, nowMs: number, paint: Paint): readonly string[] {
  const shown = listFaults([vm]);
  const columns = listFaultColumns({ withNamespace: false, withName: false, isWide: false, nowMs });
  return shown.length === 0 ? [] : indent(writeTable(columns, shown, { paint }));
}

/** True is good for some and bad for others. */
const GOOD_WHEN_FALSE = new Set(["Reconciling", "Stalled"]);

function writeConditions(conditions: readonly KubeCondition[], nowMs: number, paint: Paint): readonly string[] {
  const columns: readonly Column<KubeCondition>[] = [
    { head: "TYPE", cell: ({ type }) => type },
    {
      head: "STATUS",
      cell: ({ status }) => status,
      paint: ({ type, status }) =>
        status === (GOOD_WHEN_FALSE.has(type) ? "False" : "True") ? "good" : type === "Stalled" ? "bad" : "doubtful",
    },
    { head: "SINCE", cell: ({ lastTransitionTime }) => writeAgeOf(lastTransitionTime, nowMs) },
    { head: "REASON", cell: ({ reason }) => reason ?? "" },
    { head: "MESSAGE", cell: ({ message }) => message ?? "" },
  ];
  return conditions.length === 0
    ? ["  none: the operator has not seen it yet"]
    : indent(writeTable(columns, conditions, { paint }));
}

function writeSides({ pair, nowMs }: Described, paint: Paint): readonly string[] {
  if (pair.tag !== "known") {
    return pair.tag === "unknown" ? ["Agents' reports:", `  not shown: ${oneLine(pair.why)}`] : [];
  }
  const sides = pair.value.status?.sides ?? [];
  return [
    "Agents' reports:",
    ...(sides.length === 0 ? ["  none yet"] : sides.flatMap((side) => writeReport(side, nowMs, paint))),
  ];
}

function writeReport(side: ShownSide, nowMs: number, paint: Paint): readonly string[] {
  const links = side.links.map(({ name, alive, rttMs }) => {
    const trip = rttMs === undefined ? "" : ` ${round(rttMs)} ms`;
    return alive ? `${name}${trip}` : `${name} ${paint.bad("down")}`;
  });
  const takeover = side.lastTakeover;
  const lasted = takeover?.durationMs === undefined ? "" : ` in ${writeAge(takeover.durationMs)}`;
  return [
    `  ${side.node}:`,
    ...writeFields("    ", [
      ["Role", `${side.role} (${side.state}), term ${side.term}, checkpoint ${side.epoch}`],
      ["Trouble", side.trouble],
      ["Waits for", side.wantedShape && `a QEMU started as ${side.wantedShape}`],
      ["In sync", `${round(side.syncPercent)}%${side.lagMs === undefined ? "" : `, ${round(side.lagMs)} ms behind`}`],
      ["Output", side.outputMode],
      ["Tracking", side.tracker],
      ["Links", links.join(", ")],
      ["Traffic", writeTraffic(side)],
      [
        "Takeovers",
        `${side.takeoversCount}${takeover === undefined ? "" : `, the last ${writeAgeOf(takeover.at, nowMs)} ago${lasted}`}`,
      ],
      ["Reported", `${writeAgeOf(side.reportedAt, nowMs)} ago`],
    ]),
  ];
}

function writeTraffic({ traffic }: ShownSide): string | undefined {
  const held = traffic?.heldToMiBPerSecond;
  const holds = held === undefined ? "" : `, held to ${round(held)} MiB/s, its share of the links (see doctor)`;
  return traffic && `${round(traffic.mibPerSecond)} MiB/s of checkpoints and copies${holds}`;
}

function writeEvents({ events, nowMs }: Described, paint: Paint): readonly string[] {
  if (events.tag !== "known") {
    return ["Events:", `  not shown: ${events.tag === "unknown" ? oneLine(events.why) : "there are none"}`];
  }
  const columns = listEventColumns({ withNamespace: false, withObject: true, nowMs });
  const rows = sortEvents(events.value);
  return rows.length === 0 ? ["Events:  <none>"] : ["Events:", ...indent(writeTable(columns, rows, { paint }))];
}

const indent = (lines: readonly string[]): readonly string[] => lines.map((line) => `  ${line}`);
