/**
 * What has failed of a guest's side, as far as the agent of one node has seen it: one record for each way in which a component
 * failed.
 *
 *   no record --faulted--> OutOfService --repaired--> InService --faulted--> OutOfService
 *
 * A fault of a component that is out of service already belongs to the same incident: it is counted, but only incidents tell how
 * often the component fails. Whether one that fails again and again may be used any more is for the operator to decide, who sees
 * both sides and is asked by people (component-faults.ts).
 *
 * There are at most {@link FAULTS_MAX} records: of more the one that has been in service for longest goes.
 */
import { type EngineReport } from "../protocol/assignment.ts";
import { type Fault, type FaultCode, type Repair } from "../protocol/faults.ts";
import { FAULTS } from "./fault-catalogue.ts";

export type FaultRecord = Omit<Fault, "code" | "component"> & {
  /** Where the component is; a silent host is reported by its peer. */
  readonly node: string;
  readonly component: string;
  readonly code: string;
  readonly state: "InService" | "OutOfService";
  readonly firstAt: string;
  readonly lastAt: string;
  /** How often it was seen. */
  readonly count: number;
  readonly repairedAt?: string | undefined;
  /** When the component went out of service by it, within the last hour, the newest last. */
  readonly incidents: readonly string[];
  readonly done: string;
  readonly remedy: string;
};

export type FaultEvent =
  | ({ readonly tag: "faulted"; readonly node: string } & Fault)
  | ({ readonly tag: "repaired"; readonly node: string } & Repair);

/** What changed, for the log and the metrics. */
export type FaultEffect = {
  readonly tag: "outOfService" | "countedAgain" | "backInService";
  readonly record: FaultRecord;
};

export type FaultStep = { readonly records: readonly FaultRecord[]; readonly effects: readonly FaultEffect[] };

export const FAULTS_MAX = 16;
export const INCIDENT_WINDOW_MS = 3_600_000;
export const INCIDENTS_MAX = 16;
const MESSAGE_MAX = 1_024;
/** A component that works again has to do so for this long: what flaps is one incident. */
export const SETTLE_MS = 10_000;

export function stepFaults(records: readonly FaultRecord[], event: FaultEvent, nowMs: number): FaultStep {
  return event.tag === "faulted" ? noteFault(records, event, nowMs) : noteRepair(records, event, nowMs);
}

type Faulted = Extract<FaultEvent, { tag: "faulted" }>;
type Repaired = Extract<FaultEvent, { tag: "repaired" }>;

const isOf = (record: FaultRecord, { node, component }: Faulted | Repaired): boolean =>
  record.node === node && record.component === component;

function noteFault(records: readonly FaultRecord[], event: Faulted, nowMs: number): FaultStep {
  const known = records.find((record) => isOf(record, event) && record.code === event.code);
  const isIncident = !records.some((record) => isOf(record, event) && record.state === "OutOfService");
  const record = encodeFault(known, event, { nowMs, isIncident });
  const isNews = known?.state !== "OutOfService";
  return {
    records: limitRecords([record, ...records.filter((other) => other !== known)]),
    effects: [{ tag: isNews ? "outOfService" : "countedAgain", record }],
  };
}

function encodeFault(
  known: FaultRecord | undefined,
  { node, component, code, message }: Faulted,
  { nowMs, isIncident }: { readonly nowMs: number; readonly isIncident: boolean },
): FaultRecord {
  const now = encodeTime(nowMs);
  const recent = (known?.incidents ?? []).filter((at) => nowMs - Date.parse(at) < INCIDENT_WINDOW_MS);
  const { done, remedy } = FAULTS[code];
  return {
    node,
    component,
    code,
    message: message.slice(0, MESSAGE_MAX) || code,
    state: "OutOfService",
    firstAt: known?.firstAt ?? now,
    lastAt: now,
    count: (known?.count ?? 0) + 1,
    incidents: (isIncident ? [...recent, now] : recent).slice(-INCIDENTS_MAX),
    done,
    remedy,
  };
}

function noteRepair(records: readonly FaultRecord[], event: Repaired, nowMs: number): FaultStep {
  const isRepaired = (record: FaultRecord): boolean =>
    isOf(record, event) && record.state === "OutOfService" && (event.code ?? record.code) === record.code;
  const effects: FaultEffect[] = [];
  const after = records.map((record) => {
    if (!isRepaired(record)) {
      return record;
    }
    const repaired: FaultRecord = { ...record, state: "InService", repairedAt: encodeTime(nowMs) };
    effects.push({ tag: "backInService", record: repaired });
    return repaired;
  });
  return effects.length === 0 ? { records, effects } : { records: after, effects };
}

/** Without fractions: people read it, and nothing here is that exact. */
const encodeTime = (timeMs: number): string => new Date(timeMs).toISOString().replace(/[.][0-9]+Z$/, "Z");

function limitRecords(records: readonly FaultRecord[]): readonly FaultRecord[] {
  if (records.length <= FAULTS_MAX) {
    return records;
  }
  const rank = ({ state, lastAt }: FaultRecord): string => `${state === "OutOfService" ? 1 : 0} ${lastAt}`;
  const [oldest] = records.toSorted((one, other) => rank(one).localeCompare(rank(other)));
  return records.filter((record) => record !== oldest);
}

/** Of this node's own components those that work again, by what the engine reports; see `endsWith` in the catalogue. */
export function listRepairs(
  records: readonly FaultRecord[],
  { node, report, nowMs }: { readonly node: string; readonly report: EngineReport; readonly nowMs: number },
): readonly FaultEvent[] {
  const has = { working: isWorking(report), inSync: isInSync(report), told: false };
  return records
    .filter((record) => record.node === node && record.state === "OutOfService")
    .filter(({ lastAt, code }) => nowMs - Date.parse(lastAt) >= SETTLE_MS && has[endOf(code)])
    .map(({ component, code }) => {
      return { tag: "repaired", node, component, code } as FaultEvent;
    });
}

/** Codes of another version, read from a file, end when they are told to. */
const endOf = (code: string): "working" | "inSync" | "told" =>
  (FAULTS as Readonly<Record<string, (typeof FAULTS)[FaultCode] | undefined>>)[code]?.endsWith ?? "told";

const IDLE_STATES: ReadonlySet<string> = new Set(["coldWaiting", "booting", "waiting", "asking", "activating"]);

const isWorking = ({ role, state }: EngineReport): boolean =>
  (role === "primary" || role === "standby") && !IDLE_STATES.has(state);

const isInSync = ({ conditions }: EngineReport): boolean =>
  conditions.some(({ type, status }) => type === "InSync" && status === "True");
