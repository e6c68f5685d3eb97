/** The tables of `faults`, and what a person is to do about what they show. */
import { type Fault } from "../api/fault.ts";
import { writeAgeOf } from "./duration.ts";
import { type Paint } from "./paint.ts";
import { type ShownVm } from "./protected-vms.ts";
import { type Column } from "./table.ts";

export type ShownFault = { readonly vm: ShownVm; readonly fault: Fault };

export const listFaults = (vms: readonly ShownVm[]): readonly ShownFault[] =>
  vms.flatMap((vm) => (vm.status?.faults ?? []).map((fault) => ({ vm, fault })));

export type FaultTable = {
  readonly withNamespace: boolean;
  readonly withName: boolean;
  readonly isWide: boolean;
  readonly nowMs: number;
};

const PAINTS: Readonly<Record<Fault["state"], keyof Paint>> = {
  ...{ Isolated: "bad", OutOfService: "doubtful", InService: "good" },
};

export function listFaultColumns({
  withNamespace,
  withName,
  isWide,
  nowMs,
}: FaultTable): readonly Column<ShownFault>[] {
  const column = (head: string, cell: (fault: Fault) => string): Column<ShownFault> => ({
    head,
    cell: ({ fault }) => cell(fault),
  });
  const age = (time: string | undefined): string => (time === undefined ? "<none>" : writeAgeOf(time, nowMs));
  return [
    ...(withNamespace ? [{ head: "NAMESPACE", cell: ({ vm }: ShownFault) => vm.metadata.namespace ?? "" }] : []),
    ...(withName ? [{ head: "NAME", cell: ({ vm }: ShownFault) => vm.metadata.name }] : []),
    column("NODE", ({ node }) => node),
    column("COMPONENT", ({ component }) => component),
    { ...column("STATE", ({ state }) => state), paint: ({ fault }) => PAINTS[fault.state] },
    column("FAULT", ({ code }) => code),
    column("COUNT", ({ count }) => String(count)),
    ...(isWide ? [column("FIRST SEEN", ({ firstAt }) => age(firstAt))] : []),
    column("LAST SEEN", ({ lastAt }) => age(lastAt)),
    column("REPAIRED", ({ repairedAt }) => age(repairedAt)),
    ...(isWide ? [column("CLEARED", ({ clearedAt }) => age(clearedAt))] : []),
    column("MESSAGE", ({ message }) => message),
    ...(isWide ? [column("DONE", ({ done }) => done), column("WHAT TO DO", ({ remedy }) => remedy)] : []),
  ];
}

/** For whatever is not in service, once for each component. */
export function writeRemedies(shown: readonly ShownFault[]): readonly string[] {
  const lines = shown.filter(({ fault }) => fault.state !== "InService").map(writeRemedy);
  return lines.length === 0 ? [] : ["", "What to do:", ...new Set(lines)];
}

function writeRemedy({ vm: { metadata }, fault: { node, component, state, remedy } }: ShownFault): string {
  const { name, namespace = "default" } = metadata;
  const clear = `kubectl twinrun faults clear ${name} ${node}/${component} -n ${namespace}`;
  return `  ${component} of ${node}: ${remedy}${state === "Isolated" ? `; then ${clear}` : ""}`;
}

/** For programs: each record with whose it is. */
export const encodeFaults = (shown: readonly ShownFault[]): unknown => ({
  faults: shown.map(({ vm: { metadata }, fault }) => ({
    ...{ namespace: metadata.namespace, protectedVm: metadata.name },
    ...fault,
  })),
});
