/**
 * What has failed of a guest, put together from what its agents have seen and what Kubernetes says of their nodes, and which of
 * it may not be used any more.
 *
 *   OutOfService <----> InService        as the agents say
 *         \               /
 *          +--> Isolated +               by the last of several incidents within an hour; ends when a person clears it
 *
 * A component that fails again and again does more harm than one that is away: each return costs a whole copy, and protection that
 * lasts until the next time. It stays out until somebody has looked at it. Nothing is taken from a guest by that: whoever runs it
 * goes on, and a standby that is in sync remains one; only a new copy is not made there.
 *
 * Records outlive what they were made from: an agent that lost its own, a node that is no side any more, an operator that died.
 */
import { type Fault, type SeenFault } from "../api/fault.ts";
import { FAULTS } from "./fault-catalogue.ts";
import { INCIDENT_WINDOW_MS, INCIDENTS_MAX } from "./fault-log.ts";

/** A node with a side of the guest. */
export type FaultSide = {
  readonly node: string;
  /** What its agent reports; undefined when it has never reported, or nothing can be expected of it now. */
  readonly seen: readonly SeenFault[] | undefined;
  /** Since when Kubernetes holds the node for lost, for longer than it takes to come back; undefined while it does not. */
  readonly lostSinceMs: number | undefined;
  /** Somebody has taken it out of use: that the node or its agent goes meanwhile is his doing. */
  readonly isCordoned: boolean;
  /** It is in maintenance: nothing of it has failed. */
  readonly isMaintained: boolean;
};

export type FaultsInput = {
  readonly previous: readonly Fault[];
  readonly sides: readonly FaultSide[];
  /** Nodes that are no sides any more, but there and ready. */
  readonly isReady: (node: string) => boolean;
  /** So many incidents within an hour isolate a component. */
  readonly limit: number;
  /** What a person asks to clear: a component, a node, both as NODE/COMPONENT, or `all`. */
  readonly clear: string | undefined;
  readonly nowMs: number;
};

export const COMPONENT_FAULTS_MAX = 32;

export function mergeFaults(input: FaultsInput): readonly Fault[] {
  const seen = [...listSeen(input), ...listLost(input)];
  const known = seen.map((each) => mergeSeen(findSame(input.previous, each), each));
  const others = input.previous
    .filter((record) => findSame(known, record) === undefined)
    .flatMap((record) => settleUnseen(record, input));
  const cleared = [...known, ...others].map((record) => restRecord(clearRecord(record, input), input));
  return limitFaults(cleared.map((record) => judge(record, cleared, input)));
}

type Identity = Pick<Fault, "node" | "component" | "code">;

const findSame = <Record extends Identity>(records: readonly Record[], { node, component, code }: Identity) =>
  records.find((each) => each.node === node && each.component === component && each.code === code);

/** Both agents may speak of the same; the later word counts. */
function listSeen({ sides }: FaultsInput): readonly SeenFault[] {
  const all = sides.flatMap(({ seen }) => seen ?? []).toSorted((one, other) => compareTimes(other.lastAt, one.lastAt));
  return all.filter((record) => findSame(all, record) === record);
}

/** Nodes that Kubernetes holds for lost, as records; those that are back are settled with the rest. */
function listLost({ sides, previous, nowMs }: FaultsInput): readonly SeenFault[] {
  return sides.flatMap(({ node, lostSinceMs }) => {
    // Of a node that is gone altogether nobody knows since when.
    const lostAt = lostSinceMs === undefined ? undefined : encodeTime(lostSinceMs === 0 ? nowMs : lostSinceMs);
    return lostAt === undefined ? [] : [encodeLost(node, lostAt, previous)];
  });
}

function encodeLost(node: string, lostAt: string, previous: readonly Fault[]): SeenFault {
  const identity = { node, component: "host", code: "NodeAway" } as const;
  const known = findSame(previous, identity);
  const isOut = previous.some(
    (each) => each.node === node && each.component === "host" && each.repairedAt === undefined,
  );
  const { done, remedy } = FAULTS.NodeAway;
  const text = { message: `Kubernetes holds ${node} for lost`, done, remedy };
  if (known !== undefined && isSameLoss(known, lostAt)) {
    const { firstAt, lastAt, count } = known;
    return { ...identity, ...text, state: "OutOfService", firstAt, lastAt, count, incidents: [] };
  }
  const count = (known?.count ?? 0) + 1;
  const times = { firstAt: known?.firstAt ?? lostAt, lastAt: lostAt, incidents: isOut ? [] : [lostAt] };
  return { ...identity, ...text, ...times, state: "OutOfService", count };
}

const isSameLoss = ({ repairedAt, lastAt }: Fault, lostAt: string): boolean =>
  repairedAt === undefined || compareTimes(lastAt, lostAt) >= 0;

function mergeSeen(known: Fault | undefined, seen: SeenFault): Fault {
  if (known === undefined) {
    return { ...seen };
  }
  // An agent that has counted less has forgotten the rest.
  const isNew = compareTimes(seen.lastAt, known.lastAt) > 0;
  const count = seen.count >= known.count ? seen.count : known.count + (isNew ? 1 : 0);
  const firstAt = compareTimes(seen.firstAt, known.firstAt) < 0 ? seen.firstAt : known.firstAt;
  const incidents = keepRecent([...known.incidents, ...seen.incidents]);
  const { clearedAt } = known;
  return { ...seen, firstAt, count, incidents, ...(clearedAt === undefined ? {} : { clearedAt }) };
}

/** The last hour before the newest: what is older has no weight any more, and nothing changes while nothing happens. */
function keepRecent(incidents: readonly string[]): string[] {
  const sorted = [...new Set(incidents)].toSorted(compareTimes);
  const newestMs = Date.parse(sorted.at(-1) ?? "");
  return sorted.filter((at) => newestMs - Date.parse(at) < INCIDENT_WINDOW_MS).slice(-INCIDENTS_MAX);
}

/** A record of which nobody speaks any more. */
function settleUnseen(record: Fault, { sides, isReady, nowMs }: FaultsInput): readonly Fault[] {
  const { node, state, repairedAt } = record;
  const own = sides.find((side) => side.node === node);
  if (own === undefined && !isOfNode(record) && state !== "Isolated") {
    return []; // Nobody will ever know whether it works.
  }
  const isDone =
    repairedAt !== undefined || (own === undefined ? isOfNode(record) && isReady(node) : isBack(record, own, sides));
  return [isDone ? { ...record, state: "InService", repairedAt: repairedAt ?? encodeTime(nowMs) } : record];
}

/** Whoever would see it says nothing of it any more. */
function isBack(record: Fault, own: FaultSide, sides: readonly FaultSide[]): boolean {
  if (record.code === "NodeAway") {
    return own.lostSinceMs === undefined;
  }
  return sides.some((side) => (side === own) !== isOfNode(record) && side.seen !== undefined);
}

/** Whether the request speaks of the component. */
export const isMeantBy = (clear: string, { node, component }: Pick<Fault, "node" | "component">): boolean =>
  clear === "all" || clear === component || clear === node || clear === `${node}/${component}`;

/** Counts of before do not count any more; said again, the same request finds nothing left to do. */
function clearRecord(record: Fault, { clear, sides, previous, nowMs }: FaultsInput): Fault {
  const clearedAt = encodeTime(nowMs);
  if (clear !== undefined && isMeantBy(clear, record) && hasWeight(record)) {
    return { ...withoutIsolation(record), clearedAt };
  }
  const isIsolated = findSame(previous, record)?.state === "Isolated";
  return !isIsolated && isIntended(record, sides) && listWeighty(record).length > 0 ? { ...record, clearedAt } : record;
}

function isIntended(record: Fault, sides: readonly FaultSide[]): boolean {
  const own = sides.find(({ node }) => node === record.node);
  return own?.isMaintained === true || (own?.isCordoned === true && isOfNode(record));
}

/** For as long as the maintenance lasts. */
function restRecord(record: Fault, { sides, previous, nowMs }: FaultsInput): Fault {
  const isResting = sides.some(({ node, isMaintained }) => node === record.node && isMaintained);
  const repairedAt = record.repairedAt ?? findSame(previous, record)?.repairedAt ?? encodeTime(nowMs);
  return isResting ? { ...record, state: "InService", repairedAt } : record;
}

const isOfNode = ({ component }: Fault): boolean => component === "host" || component === "agent";

const hasWeight = (record: Fault): boolean => record.state === "Isolated" || listWeighty(record).length > 0;

/** Incidents that nobody has cleared or meant. */
export const listWeighty = ({ incidents, clearedAt }: Fault): readonly string[] =>
  incidents.filter((at) => clearedAt === undefined || compareTimes(at, clearedAt) > 0);

const withoutIsolation = (record: Fault): Fault => ({
  ...record,
  state: record.repairedAt === undefined ? "OutOfService" : "InService",
});

/** What is isolated stays so; what fails too often becomes so, by all the ways in which it fails together. */
function judge(record: Fault, all: readonly Fault[], { previous, limit }: FaultsInput): Fault {
  const ofComponent = all.filter(({ node, component }) => node === record.node && component === record.component);
  const before = findSame(previous, record);
  const wasCleared = record.clearedAt !== before?.clearedAt;
  const incidents = keepRecent(ofComponent.flatMap(listWeighty));
  const isIsolated = !wasCleared && before?.state === "Isolated";
  const isNewest = ofComponent.every(({ lastAt }) => compareTimes(lastAt, record.lastAt) <= 0);
  return isIsolated || (incidents.length >= limit && isNewest) ? { ...record, state: "Isolated" } : record;
}

function limitFaults(records: readonly Fault[]): readonly Fault[] {
  const rank = ({ state }: Fault): number => ({ Isolated: 0, OutOfService: 1, InService: 2 })[state];
  return records
    .toSorted((one, other) => rank(one) - rank(other) || compareTimes(other.lastAt, one.lastAt))
    .slice(0, COMPONENT_FAULTS_MAX);
}

/** Not as texts: an agent and a server may write the same time differently. */
const compareTimes = (one: string, other: string): number => Date.parse(one) - Date.parse(other);

const encodeTime = (timeMs: number): string => new Date(timeMs).toISOString().replace(/[.][0-9]+Z$/, "Z");

/** Components whose isolation keeps a new copy of the guest off their node; a link's and an uplink's do not. */
const KEEPS_OUT = /^(host|agent|engine|qemu|disk\/.*)$/;

/** Why no new copy is made on a node; undefined when one may be. */
export function findIsolation(faults: readonly Fault[], node: string): Fault | undefined {
  return faults.find(
    (record) => record.node === node && record.state === "Isolated" && KEEPS_OUT.test(record.component),
  );
}

/** Nodes that no guest should be placed on anew: what is isolated of them is no guest's own. */
export function listIsolatedNodes(faults: readonly Fault[]): ReadonlySet<string> {
  const isWhole = (component: string): boolean => /^(host|agent|uplink\/.*)$/.test(component);
  const isolated = faults.filter(({ component, state }) => state === "Isolated" && isWhole(component));
  return new Set(isolated.map(({ node }) => node));
}

/** Links that are not to be used, by name, while there is another. */
export function listIsolatedLinks(faults: readonly Fault[]): readonly string[] {
  return faults
    .filter(({ component, state }) => state === "Isolated" && component.startsWith("link/"))
    .map(({ component }) => component.slice("link/".length));
}
