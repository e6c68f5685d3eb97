/** What people are told of the faults of a guest: a condition, events, what isolation asks of them, what became of a request. */
import { type Fault } from "../api/fault.ts";
import { type ComponentsReason } from "../api/conditions.ts";
import { type ProtectedVm } from "../api/protected-vm.ts";
import { requestAnnotations } from "../api/requests.ts";
import { isMeantBy, listWeighty } from "./component-faults.ts";
import { type Action, type Observed, type PlannedEvent } from "./protected-vm-plan.ts";
import { type Verdict } from "./verdicts.ts";

/** A condition is no place for all of it. */
const MESSAGE_MAX = 4_096;

/** An isolated component may work; a person has to say that it can be relied on. */
const isOut = ({ repairedAt }: Fault): boolean => repairedAt === undefined;

const sayComponent = ({ component, node }: Fault): string => `${component} of ${node}`;

/** With the remedy. */
export function sayIsolated(record: Fault, { metadata, spec }: ProtectedVm): string {
  const { name, namespace = "" } = metadata;
  const often = `failed at least ${spec.failover.isolateAfterFaults} times within an hour and is isolated`;
  return `${sayComponent(record)} ${often}: ${record.remedy}; then kubectl twinrun faults clear ${name} -n ${namespace}`;
}

export function judgeComponents(faults: readonly Fault[], protectedVm: ProtectedVm): Verdict<ComponentsReason> {
  const isolated = faults.filter(({ state }) => state === "Isolated");
  if (isolated.length > 0) {
    const message = isolated.map((record) => sayIsolated(record, protectedVm)).join("; ");
    return { status: "False", reason: "Isolated", message: message.slice(0, MESSAGE_MAX) };
  }
  const out = faults.filter(isOut);
  const message = out.map((record) => `${sayComponent(record)}: ${record.message}; ${record.remedy}`).join("; ");
  return out.length > 0
    ? { status: "False", reason: "OutOfService", message: message.slice(0, MESSAGE_MAX) }
    : { status: "True", reason: "Healthy", message: "nothing is out of service" };
}

/** What is news since the records before. */
export function listFaultEvents(before: readonly Fault[], now: readonly Fault[]): readonly PlannedEvent[] {
  return now.flatMap((record) => {
    const known = before.find(
      ({ node, component, code }) => node === record.node && component === record.component && code === record.code,
    );
    const others = now.filter(({ node, component }) => node === record.node && component === record.component);
    return [...listChange(known, record, others.some(isOut)), ...listIsolation(known, record)];
  });
}

/** `isStillOut`: something of the component, this or another, is. */
function listChange(known: Fault | undefined, record: Fault, isStillOut: boolean): readonly PlannedEvent[] {
  const what = sayComponent(record);
  if (isOut(record)) {
    const message = `${what}: ${record.message}; ${record.done}`;
    return known === undefined || !isOut(known) ? [{ type: "Warning", reason: "FaultDetected", message }] : [];
  }
  if (known === undefined || !isOut(known)) {
    // It came and went before anybody looked.
    const isMissed = listWeighty(record).some((at) => known?.incidents.includes(at) !== true);
    return isMissed
      ? [{ type: "Warning", reason: "FaultDetected", message: `${what}: ${record.message}; it works again` }]
      : [];
  }
  const message = record.state === "Isolated" ? `${what} works again, and stays isolated` : `${what} works again`;
  return isStillOut ? [] : [{ type: "Normal", reason: "FaultRepaired", message }];
}

function listIsolation(known: Fault | undefined, record: Fault): readonly PlannedEvent[] {
  const isNews = record.state === "Isolated" && known?.state !== "Isolated";
  const use = record.component.startsWith("link/") ? "while there is another" : "for a new copy of the guest";
  const message = `${sayComponent(record)} failed too often within an hour: it is not used ${use} until a person clears it`;
  return isNews ? [{ type: "Warning", reason: "ComponentIsolated", message }] : [];
}

type ClearPlan = { readonly actions: readonly Action[]; readonly events: readonly PlannedEvent[] };

/** What was asked has been done to the records by now, or there is nothing that it could mean. */
export function planClear({ protectedVm }: Observed, faults: readonly Fault[]): ClearPlan {
  const clear = protectedVm.metadata.annotations?.[requestAnnotations.clearFaults];
  if (clear === undefined) {
    return { actions: [], events: [] };
  }
  const meant = [...new Set(faults.filter((record) => isMeantBy(clear, record)).map(sayComponent))];
  const event: PlannedEvent =
    meant.length === 0
      ? { type: "Warning", reason: "ClearRefused", message: `nothing called ${clear} has failed; see status.faults` }
      : { type: "Normal", reason: "FaultsCleared", message: `used again, whatever failed before: ${meant.join(", ")}` };
  return { actions: [{ tag: "clearRequest", annotation: requestAnnotations.clearFaults }], events: [event] };
}
