import { describe, expect, test } from "@jest/globals";
import { encodeMaintenance } from "./maintenance.ts";
import { type ClusterNode, type Vmi } from "./cluster-objects.ts";
import { type PairBrief } from "./pair-brief.ts";
import { type PairView, type SideView } from "./pair-view.ts";
import { planWork } from "./planned-work.ts";
import { type Observed } from "./protected-vm-plan.ts";

const nowMs = Date.parse("2026-11-27T12:00:00Z");
const at = (agoMs: number): string => new Date(nowMs - agoMs).toISOString();

type Case = {
  readonly when: string;
  /** Which nodes are in maintenance. */
  readonly maintained?: readonly string[];
  readonly outdated?: readonly string[];
  readonly isInSync?: boolean;
  readonly runsOn?: string | undefined;
  readonly turnAgoMs?: number;
  readonly others?: readonly Partial<PairBrief>[];
  readonly substitute?: boolean;
  readonly renews?: boolean;
};

function plan(given: Omit<Case, "when">) {
  const { maintained = [], outdated = [], isInSync = true, others = [], renews = true } = given;
  const runsOn = "runsOn" in given ? given.runsOn : "node-a";
  const mark = encodeMaintenance({ by: "", since: "then", reason: "", wasCordoned: false });
  const nodes = ["node-a", "node-b", "node-c"].map((name): ClusterNode => ({
    ...{ apiVersion: "v1", kind: "Node" },
    metadata: { name, annotations: maintained.includes(name) ? { "twinrun.dev/maintenance": mark } : {} },
  }));
  const sides = ["node-a", "node-b"].map((node) => ({
    ...{ node, isOutdated: outdated.includes(node), vmi: { metadata: { name: node } } as Vmi },
    state: {
      node: nodes.find(({ metadata }) => metadata.name === node),
      obstacle: maintained.includes(node) ? "in maintenance" : undefined,
    },
  })) as unknown as [SideView, SideView];
  const turnAt = given.turnAgoMs === undefined ? undefined : at(given.turnAgoMs);
  const view = {
    ...{ pair: { metadata: { name: "web" } }, notes: { turnAt }, sides, isInSync, hasEnded: false },
    primary: sides.find(({ node }) => node === runsOn),
  } as unknown as PairView;
  const briefs = others.map((other): PairBrief => ({
    ...{ guest: "other", nodes: ["node-a", "node-b"], primary: "node-a", isWhole: true, turnAt: undefined },
    ...other,
  }));
  const observed = { nodes, others: briefs, nowMs, settings: { renewsLaunchers: renews } } as unknown as Observed;
  const work = planWork(observed, view, {
    substitute: given.substitute === true ? nodes[2] : undefined,
    misplaced: undefined,
  });
  return { wish: work.wish?.tag, turn: work.turnAt, says: work.says, settledFor: work.settledFor };
}

const nothing = { wish: undefined, turn: undefined, says: undefined, settledFor: undefined };
const settled = { ...nothing, settledFor: "node-b@then" };

describe("maintenance", () => {
  test.each<Case & { readonly is: object }>([
    { when: "no node is in maintenance", is: nothing },
    {
      when: "the node that runs it is",
      maintained: ["node-a"],
      is: { wish: undefined, turn: at(0), says: "node-a is in maintenance" },
    },
    { when: "it has had its turn for two seconds", maintained: ["node-a"], turnAgoMs: 2_000, is: { wish: "leave" } },
    {
      when: "another has waited for longer",
      maintained: ["node-a"],
      turnAgoMs: 3_000,
      others: [{ guest: "db", turnAt: at(4_000) }],
      is: { wish: undefined, says: "node-a is in maintenance; it waits for db" },
    },
    {
      when: "another has waited for as long, and comes later by name",
      maintained: ["node-a"],
      turnAgoMs: 3_000,
      others: [{ guest: "zoo", turnAt: at(3_000) }],
      is: { wish: "leave" },
    },
    {
      when: "another has had its turn for too long",
      maintained: ["node-a"],
      turnAgoMs: 3_000,
      others: [{ guest: "db", turnAt: at(600_000) }],
      is: { wish: "leave" },
    },
    { when: "its own turn is over", maintained: ["node-a"], turnAgoMs: 600_000, is: { wish: undefined, turn: at(0) } },
    { when: "it has no second copy", maintained: ["node-a"], isInSync: false, is: nothing },
    { when: "both its nodes are", maintained: ["node-a", "node-b"], is: nothing },
    { when: "its standby's is, and there is no other", maintained: ["node-b"], is: settled },
    {
      when: "its standby's is, and there is another, but guests run there",
      ...{ maintained: ["node-b"], substitute: true, turnAgoMs: 3_000, others: [{ primary: "node-b" }] },
      is: { ...nothing, says: "node-b is in maintenance; it waits until no guest runs on node-b any more" },
    },
    {
      when: "its standby's is, there is another, and no guest runs there",
      ...{ maintained: ["node-b"], substitute: true, turnAgoMs: 3_000, others: [{}] },
      is: { wish: "giveUp", settledFor: undefined },
    },
    { when: "nobody says that he runs it", maintained: ["node-b"], runsOn: undefined, is: nothing },
    {
      when: "its standby is being copied elsewhere",
      ...{ isInSync: false, turnAgoMs: 30_000 },
      is: { ...nothing, turn: at(30_000) },
    },
    {
      when: "it has left, and cannot be whole before the end",
      ...{ maintained: ["node-b"], isInSync: false, turnAgoMs: 30_000 },
      is: settled,
    },
  ])("$when", ({ is, ...given }) => {
    expect(plan(given)).toMatchObject(is);
  });
});

describe("outdated launchers", () => {
  const both = { outdated: ["node-a", "node-b"], turnAgoMs: 3_000 };
  test.each<Case & { readonly is: object }>([
    { when: "of both sides: the standby first", ...both, is: { wish: "renew" } },
    { when: "of the primary only: the guest moves", ...both, outdated: ["node-a"], is: { wish: "leave" } },
    {
      when: "while another guest is not whole",
      ...both,
      others: [{ isWhole: false }],
      is: { wish: undefined, turn: undefined },
    },
    {
      when: "during maintenance of any node",
      ...both,
      maintained: ["node-c"],
      is: { wish: undefined, turn: undefined },
    },
    { when: "when that is not wanted", ...both, renews: false, is: nothing },
  ])("$when", ({ is, ...given }) => {
    expect(plan(given)).toMatchObject(is);
  });
});
