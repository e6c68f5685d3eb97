/** The table of `status`. */
import { writeAgeOf } from "./duration.ts";
import { type Paint } from "./paint.ts";
import { findCondition, findSyncPercent, type ShownVm } from "./protected-vms.ts";
import { type Column } from "./table.ts";

export type StatusTable = { readonly withNamespace: boolean; readonly isWide: boolean; readonly nowMs: number };

const none = "<none>";
const orNone = (value: string | number | undefined): string => (value === undefined ? none : String(value));

const ready = (vm: ShownVm): string => findCondition(vm, "Ready")?.status ?? "Unknown";

/** Red is for a person to mend; yellow mends itself. */
function paintReady(vm: ShownVm): keyof Paint | undefined {
  if (findCondition(vm, "Stalled")?.status === "True" || findCondition(vm, "QuorumReachable")?.status === "False") {
    return "bad";
  }
  return ready(vm) === "True" ? "good" : "doubtful";
}

/** `yes`, or how far the copy is. */
function writeSync(vm: ShownVm): string {
  const inSync = findCondition(vm, "InSync");
  if (inSync?.status === "True") {
    return "yes";
  }
  const percent = findSyncPercent(vm);
  return inSync?.reason === "Synchronising" && percent !== undefined ? `${Math.floor(percent)}%` : "no";
}

export function listStatusColumns({ withNamespace, isWide, nowMs }: StatusTable): readonly Column<ShownVm>[] {
  const latency = (vm: ShownVm): string => {
    const figures = vm.status?.checkpoint?.addedLatency;
    return figures === undefined ? none : `${round(figures.p50Ms)}/${round(figures.p99Ms)} ms`;
  };
  return [
    ...(withNamespace ? [{ head: "NAMESPACE", cell: ({ metadata }: ShownVm) => orNone(metadata.namespace) }] : []),
    { head: "NAME", cell: ({ metadata }) => metadata.name },
    { head: "READY", cell: ready, paint: paintReady },
    { head: "REASON", cell: (vm) => orNone(findCondition(vm, "Ready")?.reason), paint: paintReady },
    { head: "PRIMARY", cell: ({ status }) => orNone(status?.primary?.node) },
    { head: "STANDBY", cell: ({ status }) => orNone(status?.standby?.node) },
    { head: "IN-SYNC", cell: writeSync },
    {
      head: "LAST-FAILOVER",
      cell: ({ status }) => (status?.lastFailover === undefined ? "never" : writeAgeOf(status.lastFailover.at, nowMs)),
    },
    { head: "AGE", cell: ({ metadata }) => writeAgeOf(metadata.creationTimestamp, nowMs) },
    ...(isWide
      ? [
          { head: "GROUP", cell: ({ spec }: ShownVm) => orNone(spec?.failover?.group) },
          { head: "TERM", cell: ({ status }: ShownVm) => orNone(status?.term) },
          { head: "ADDED-LATENCY", cell: latency },
          { head: "CHECKPOINTS", cell: ({ status }: ShownVm) => writeRate(status?.checkpoint?.perSecond) },
          { head: "GUEST", cell: ({ status }: ShownVm) => orNone(status?.guest) },
          { head: "MESSAGE", cell: writeMessage },
        ]
      : []),
  ];
}

const writeRate = (perSecond: number | undefined): string => (perSecond === undefined ? none : `${round(perSecond)}/s`);

/** What a person has to do comes before how it is. */
function writeMessage(vm: ShownVm): string {
  const stalled = findCondition(vm, "Stalled");
  return (stalled?.status === "True" ? stalled.message : findCondition(vm, "Ready")?.message) ?? none;
}

/** Three digits are what such a figure is worth. */
export function round(value: number): string {
  return String(Number(value.toPrecision(3)));
}
