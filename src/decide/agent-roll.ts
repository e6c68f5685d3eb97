/**
 * Which node's agent is to be replaced by one of the wanted version. A DaemonSet of its own accord looks only at its pods; what
 * matters are the guests: an agent that ends takes its engines along, so each guest with a side on the node changes sides or gets
 * a new standby, and must be whole again before the agent of its other node goes.
 */
import { type PairBrief } from "./pair-brief.ts";

export type AgentPod = {
  readonly name: string;
  readonly node: string;
  readonly isOutdated: boolean;
  readonly isGoing: boolean;
  readonly isReady: boolean;
  /** When its readiness last changed; undefined when it does not say. */
  readonly sinceMs: number | undefined;
};

export type AgentRollView = {
  /** Those on nodes that are there. */
  readonly agents: readonly AgentPod[];
  readonly pairs: readonly PairBrief[];
  /** Nodes whose guests cannot be whole now: away, cordoned, in maintenance. */
  readonly restingNodes: ReadonlySet<string>;
  readonly nowMs: number;
  /** When an agent was replaced last, or the roll was first seen. */
  readonly lastStepMs: number;
};

export type AgentRoll =
  | { readonly tag: "done" }
  | { readonly tag: "replace"; readonly pod: string; readonly node: string }
  | { readonly tag: "wait"; readonly until: string };

/** Reports of what its guests lost are there by then. */
export const AGENT_SETTLE_MS = 10_000;
/** One that is not ready for so long does not become so by itself. */
const BROKEN_AFTER_MS = 60_000;
/** So long guests that have nothing to do with a node hold it up. */
export const ROLL_PATIENCE_MS = 900_000;

export function planAgentRoll(view: AgentRollView): AgentRoll {
  const outdated = view.agents.filter(({ isOutdated, isGoing }) => isOutdated && !isGoing);
  if (outdated.length === 0) {
    return { tag: "done" };
  }
  const broken = outdated.find((agent) => isBroken(agent, view.nowMs));
  if (broken !== undefined) {
    return replace(broken);
  }
  const unsettled = view.agents.find((agent) => !isSettled(agent, view.nowMs));
  if (unsettled !== undefined) {
    return { tag: "wait", until: `the agent on ${unsettled.node} has been ready for ${AGENT_SETTLE_MS / 1_000} s` };
  }
  return chooseAmong(outdated, view);
}

const replace = ({ name, node }: AgentPod): AgentRoll => ({ tag: "replace", pod: name, node });

const isBroken = ({ isReady, sinceMs }: AgentPod, nowMs: number): boolean =>
  !isReady && sinceMs !== undefined && nowMs - sinceMs >= BROKEN_AFTER_MS;

const isSettled = ({ isReady, isGoing, sinceMs }: AgentPod, nowMs: number): boolean =>
  isReady && !isGoing && (sinceMs === undefined || nowMs - sinceMs >= AGENT_SETTLE_MS);

function chooseAmong(outdated: readonly AgentPod[], view: AgentRollView): AgentRoll {
  const { pairs, nowMs, lastStepMs, restingNodes } = view;
  const coming = pairs.find(({ isWhole, nodes }) => !isWhole && !nodes.some((node) => restingNodes.has(node)));
  if (coming !== undefined && nowMs - lastStepMs < ROLL_PATIENCE_MS) {
    return { tag: "wait", until: `${coming.guest} is whole` };
  }
  // Where least guests run, for those have to change sides.
  const guestsOn = ({ node }: AgentPod): number => pairs.filter(({ primary }) => primary === node).length;
  const ordered = outdated.toSorted(
    (one, other) => guestsOn(one) - guestsOn(other) || one.node.localeCompare(other.node),
  );
  const [free] = ordered.filter(({ node }) => findKept(node, pairs) === undefined);
  const first = ordered[0];
  return free === undefined
    ? { tag: "wait", until: `${findKept(first?.node ?? "", pairs)?.guest ?? ""} has a second whole copy` }
    : replace(free);
}

/** A guest that would stand still while its agent is replaced: it runs here, or nobody knows where, and has no other copy. */
const findKept = (node: string, pairs: readonly PairBrief[]): PairBrief | undefined =>
  pairs.find(
    ({ nodes, isWhole, primary }) => nodes.includes(node) && !isWhole && (primary === undefined || primary === node),
  );
