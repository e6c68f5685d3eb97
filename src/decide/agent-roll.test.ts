import { describe, expect, test } from "@jest/globals";
import { AGENT_SETTLE_MS, type AgentPod, planAgentRoll, ROLL_PATIENCE_MS } from "./agent-roll.ts";
import { type PairBrief } from "./pair-brief.ts";

const nowMs = 10_000_000;
const agent = (letter: string, difference: Partial<AgentPod> = {}): AgentPod => ({
  ...{ name: `agent-${letter}`, node: `node-${letter}`, isOutdated: true, isGoing: false, isReady: true, sinceMs: 0 },
  ...difference,
});
const pair = (guest: string, nodes: string, difference: Partial<PairBrief> = {}): PairBrief => {
  const names = nodes.split(" ").map((letter) => `node-${letter}`);
  return { guest, nodes: names, primary: names[0], isWhole: true, turnAt: undefined, ...difference };
};

type Rest = { readonly resting?: readonly string[]; readonly waitedMs?: number };
const plan = (agents: readonly AgentPod[], pairs: readonly PairBrief[], { resting = [], waitedMs = 0 }: Rest = {}) =>
  planAgentRoll({ agents, pairs, restingNodes: new Set(resting), nowMs, lastStepMs: nowMs - waitedMs });
const replaced = (letter: string) => ({ tag: "replace", pod: `agent-${letter}`, node: `node-${letter}` });

describe("agents are replaced", () => {
  test("not at all while each is as it should be", () => {
    expect(plan([agent("a", { isOutdated: false })], [pair("web", "a b")])).toEqual({ tag: "done" });
    expect(plan([agent("a", { isGoing: true })], [])).toEqual({ tag: "done" });
  });

  test("where fewest guests run first", () => {
    const agents = [agent("a"), agent("b"), agent("c")];
    expect(plan(agents, [pair("web", "a b"), pair("db", "a c"), pair("mail", "b c")])).toEqual(replaced("c"));
    expect(plan(agents, [])).toEqual(replaced("a"));
  });

  test("only while every guest is whole, for a quarter of an hour at most where it has nothing to do with the node", () => {
    const agents = [agent("a"), agent("b"), agent("c")];
    const pairs = [pair("web", "a b", { isWhole: false })];
    expect(plan(agents, pairs)).toEqual({ tag: "wait", until: "web is whole" });
    expect(plan(agents, pairs, { waitedMs: ROLL_PATIENCE_MS })).toEqual(replaced("b"));
  });

  test("never where a guest has its only whole copy, or may have", () => {
    const alone = [pair("web", "a b", { isWhole: false })];
    const says = { tag: "wait", until: "web has a second whole copy" };
    expect(plan([agent("a")], alone, { waitedMs: ROLL_PATIENCE_MS })).toEqual(says);
    const unknown = [pair("web", "a b", { isWhole: false, primary: undefined })];
    expect(plan([agent("b")], unknown, { waitedMs: ROLL_PATIENCE_MS })).toEqual(says);
  });

  test("though a guest's other node is away or in maintenance, but not where it runs", () => {
    const alone = [pair("web", "a b", { isWhole: false })];
    expect(plan([agent("a"), agent("c")], alone, { resting: ["node-b"] })).toEqual(replaced("c"));
    expect(plan([agent("a")], alone, { resting: ["node-b"] })).toMatchObject({ tag: "wait" });
  });

  test("one after the other: the one before has to be ready, and to have said what it knows", () => {
    const fresh = agent("a", { isOutdated: false, sinceMs: nowMs - AGENT_SETTLE_MS + 1 });
    expect(plan([fresh, agent("b")], [])).toEqual({
      tag: "wait",
      until: "the agent on node-a has been ready for 10 s",
    });
    expect(plan([{ ...fresh, sinceMs: nowMs - AGENT_SETTLE_MS }, agent("b")], [])).toEqual(replaced("b"));
    expect(plan([agent("a", { isGoing: true }), agent("b")], [])).toMatchObject({ tag: "wait" });
    expect(plan([agent("a", { isReady: false, sinceMs: nowMs - 5_000 }), agent("b")], [])).toMatchObject({
      tag: "wait",
    });
  });

  test("at once where it does not become ready: the new version may mend that", () => {
    const broken = agent("b", { isReady: false, sinceMs: nowMs - 60_000 });
    expect(plan([agent("a"), broken], [pair("web", "a b", { isWhole: false })])).toEqual(replaced("b"));
  });
});
