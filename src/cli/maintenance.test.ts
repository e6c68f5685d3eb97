import { describe, expect, test } from "@jest/globals";
import { buildNode } from "../../test/build/doctor-facts.ts";
import { buildPairOn } from "../../test/build/pairs-on.ts";
import { encodeMaintenance } from "../decide/maintenance.ts";
import { mergeJson } from "../lib/json-merge.ts";
import { type Node } from "./kube-objects.ts";
import {
  decideBeginning,
  decideEmptied,
  decideWhole,
  encodeBeginning,
  encodeEnd,
  judgeNode,
  type MaintenanceFacts,
} from "./maintenance.ts";
import { type ShownPair } from "./protected-vms.ts";

const since = "2026-01-31T08:30:00Z";
const mark = encodeMaintenance({ by: "root", since, reason: "kernel", wasCordoned: false });
const maintained = { annotations: { "twinrun.dev/maintenance": mark } };

type Cluster = { readonly marked?: string; readonly away?: string };

function facts(pairs: readonly ShownPair[], { marked, away }: Cluster = {}): MaintenanceFacts {
  const nodes = ["node-a", "node-b", "node-c"].map((name) =>
    buildNode(name, { ...(name === marked ? maintained : {}), ready: name === away ? "Unknown" : "True" }),
  );
  return { node: nodes[0] as Node, nodes, pairs };
}

describe("maintenance may begin", () => {
  test("when every guest there has another whole copy; what will happen is said", () => {
    const pairs = [buildPairOn("web", { runsOn: "node-a" }), buildPairOn("db", { runsOn: "node-b" })];
    expect(decideBeginning(facts(pairs))).toEqual({
      tag: "possible",
      explains: [
        "node-a is cordoned. Guests that run there leave it, one after the other; clients keep their connections:",
        "  shop/web moves to node-b",
        "Guests with their standby there: 1.",
        "A standby gets another node where placement allows one; a guest without is unprotected until the maintenance ends.",
      ],
    });
    const elsewhere = buildPairOn("far", { nodes: ["node-b", "node-c"], runsOn: "node-b", isInSync: false });
    expect(decideBeginning(facts([elsewhere]))).toMatchObject({ tag: "possible" });
    expect(decideBeginning(facts([buildPairOn("off", { rests: true })]))).toMatchObject({ tag: "possible" });
  });

  test("not while the only whole copy of a guest is there", () => {
    expect(decideBeginning(facts([buildPairOn("web", { runsOn: "node-a", isInSync: false })]))).toEqual({
      tag: "refused",
      says:
        "the only whole copy of shop/web is on node-a: wait until node-b has one (kubectl twinrun status web -n shop --watch), " +
        "or shut the guest down from inside",
    });
  });

  test("not while nobody says which side runs a guest", () => {
    expect(decideBeginning(facts([buildPairOn("web", {})]))).toEqual({
      tag: "refused",
      says: "nobody says which side runs shop/web: look at it first (kubectl twinrun status web -n shop)",
    });
  });

  test("not while another node is in maintenance", () => {
    expect(decideBeginning(facts([], { marked: "node-b" }))).toEqual({
      tag: "refused",
      says:
        `node-b is in maintenance since ${since}, by root, and without both nodes guests would be lost; end it before node-a ` +
        "begins: kubectl twinrun maintenance node-b end",
    });
  });

  test("only once", () => {
    expect(decideBeginning(facts([], { marked: "node-a" }))).toEqual({ tag: "begun" });
  });
});

describe("a node in maintenance", () => {
  const marked = { marked: "node-a" };
  const judge = (pair: ShownPair, cluster: Cluster = marked): unknown => judgeNode(facts([pair], cluster));
  const not = (says: string): unknown => ({
    mayBeSwitchedOff: false,
    says: `node-a must not be switched off yet: shop/web awaits ${says}`,
  });

  test("may be switched off when the operator has nothing more to move, and says what is unprotected then", () => {
    const settled = buildPairOn("web", { runsOn: "node-b", settledFor: `node-a@${since}` });
    expect(judge(settled)).toEqual({
      mayBeSwitchedOff: true,
      says: "node-a may be switched off now; unprotected until it is back: shop/web",
    });
    expect(judgeNode(facts([], marked))).toEqual({ mayBeSwitchedOff: true, says: "node-a may be switched off now" });
  });

  test("may not while a guest runs there, may run there, or the operator has not spoken", () => {
    expect(judge(buildPairOn("web", { runsOn: "node-a" }))).toEqual(not("its hand-over to node-b"));
    expect(judge(buildPairOn("web", { runsOn: "node-a", isInSync: false }))).toEqual(
      not("its copy on node-b to be whole"),
    );
    expect(judge(buildPairOn("web", {}))).toEqual(not("a side that runs it"));
    const unsettled = not("the operator, which looks for another place for its standby");
    expect(judge(buildPairOn("web", { runsOn: "node-b" }))).toEqual(unsettled);
    expect(judge(buildPairOn("web", { runsOn: "node-b", settledFor: "node-a@2025-12-31T00:00:00Z" }))).toEqual(
      unsettled,
    );
  });

  test("may not while the node that runs a guest is away: the copy here may be the only one", () => {
    const settled = buildPairOn("web", { runsOn: "node-b", settledFor: `node-a@${since}` });
    expect(judge(settled, { ...marked, away: "node-b" })).toEqual(not("node-b to be Ready, where it runs"));
  });

  test("that is in none is said so", () => {
    expect(judge(buildPairOn("web", { runsOn: "node-a" }), {})).toEqual({
      mayBeSwitchedOff: false,
      says: "node-a is not in maintenance; guests with a side there: 1, of which run there: 1",
    });
  });

  test("is waited for until it is empty, unless somebody ends it", () => {
    const pair = buildPairOn("web", { runsOn: "node-a" });
    expect(decideEmptied(facts([pair], marked))).toMatchObject({ tag: "waiting" });
    expect(decideEmptied(facts([pair]))).toMatchObject({ tag: "refused" });
    expect(decideEmptied(facts([], marked))).toMatchObject({ tag: "done" });
  });
});

test("after the end all its guests are waited for", () => {
  const pairs = [
    buildPairOn("web", { runsOn: "node-b", isInSync: false }),
    buildPairOn("db", { runsOn: "node-b" }),
    buildPairOn("off", { rests: true }),
  ];
  expect(decideWhole(facts(pairs))).toEqual({
    tag: "waiting",
    says: "2 of 3 guests are protected; the next is shop/web",
  });
  expect(decideWhole(facts(pairs.slice(1)))).toMatchObject({ tag: "done" });
});

test("a node is cordoned with the mark and uncordoned without, unless it was cordoned before", () => {
  const node = buildNode("node-a");
  const begin = (before: Node): Node =>
    mergeJson(before, encodeBeginning(before, { by: "root", since, reason: "" })) as unknown as Node;
  const begun = begin(node);
  expect(begun.spec).toEqual({ unschedulable: true });
  const ended = mergeJson(begun, encodeEnd(begun)) as unknown as Node;
  expect(ended.spec).toEqual({});
  expect(ended.metadata.annotations).toEqual(node.metadata.annotations);
  const cordoned = begin({ ...node, spec: { unschedulable: true } });
  expect(mergeJson(cordoned, encodeEnd(cordoned))).toMatchObject({ spec: { unschedulable: true } });
});
