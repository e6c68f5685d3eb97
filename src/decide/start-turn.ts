/**
 * Which guest starts before which (spec.start), when they start from their disks: at first, and after a loss that left no side with
 * the guest's memory, such as that of the power of both nodes. A takeover never comes here, for it needs no new QEMU.
 *
 * A guest waits for those of its namespace that have a lower order, until each of them runs (and is ready, if it has a readiness
 * probe) or until it has waited for long enough; since when is in its pair's notes (startAt).
 */
import { readText } from "../lib/json-merge.ts";
import { findCondition, isGoing, type Pod } from "./cluster-objects.ts";
import { listLatest } from "./pair-brief.ts";
import { type Neighbour, type NeighbourVm } from "./neighbours.ts";
import { isColdState, type PairView } from "./pair-view.ts";
import { type Observed } from "./protected-vm-plan.ts";

/** Since when the guest is to start; undefined for one that runs, rests, or has nobody before it. */
export function planStartAt({ nowMs, protectedVm }: Observed, view: PairView): string | undefined {
  return protectedVm.spec.start.order > 0 && isStarting(view)
    ? (view.notes.startAt ?? new Date(nowMs).toISOString())
    : undefined;
}

/** No side has it, and one is to make it from its disks. */
const isStarting = ({ isNew, sides }: PairView): boolean =>
  isNew || sides.some(({ report }) => report?.wantedShape === "primary");

/** Whom the guest waits for; undefined when it may start. */
export function findStartHold(observed: Observed, view: PairView): string | undefined {
  const { order, waitSeconds } = observed.protectedVm.spec.start;
  const { startAt } = view.notes;
  const isOver = startAt !== undefined && observed.nowMs - Date.parse(startAt) >= waitSeconds * 1_000;
  if (isOver || waitSeconds === 0) {
    return undefined;
  }
  const earlier = observed.neighbours.filter(
    ({ protectedVm }) => (protectedVm.spec?.start?.order ?? 0) < order && !isGoing(protectedVm),
  );
  const [awaited, ...more] = earlier.filter((each) => !hasStarted(observed, each));
  const others = more.length === 0 ? ", which starts" : ` and ${more.length} more, which start`;
  return awaited && `${awaited.protectedVm.metadata.name}${others} before it (spec.start)`;
}

/** One that rests, or that cannot be made, holds nobody up. */
function hasStarted(observed: Observed, { protectedVm, pair }: Neighbour): boolean {
  if (pair === undefined) {
    return isStalled(protectedVm);
  }
  const reports = listLatest(pair).filter(({ node, reportedAt }) => isOfNow(observed.agents, node, reportedAt));
  if (reports.some(({ role }) => role === "ended" || role === "released")) {
    return true;
  }
  const runs = reports.find(({ role, state }) => role === "primary" && !isColdState(state));
  const name = pair.spec?.sides?.find(({ node }) => node === runs?.node)?.vmi;
  const vmi = name === undefined ? undefined : observed.findVmi(name);
  return vmi !== undefined && findCondition(vmi, "Ready")?.status !== "False";
}

const isStalled = ({ status }: NeighbourVm): boolean =>
  status?.conditions?.some((condition) => condition.type === "Stalled" && condition.status === "True") === true;

/** What was said before the node went down is there still when it comes back. */
function isOfNow(agents: readonly Pod[], node: string, reportedAt: string): boolean {
  const agent = agents.find((pod) => readText(pod.spec, "nodeName") === node && !isGoing(pod));
  const ready = agent === undefined ? undefined : findCondition(agent, "Ready");
  if (agent === undefined || ready?.status !== "True") {
    return false;
  }
  const starts = (agent.status?.containerStatuses ?? []).flatMap(({ state }) => state?.running?.startedAt ?? []);
  const since = starts.length === 0 ? (ready.lastTransitionTime ?? "") : (starts.sort().at(-1) ?? "");
  return Date.parse(reportedAt) >= Date.parse(since);
}
