import { expect, test } from "@jest/globals";
import { listNodesBeside, planGroupNote, viewGroup } from "./guest-group.ts";
import { type GroupNote } from "./guest-notes.ts";
import { type Observed } from "./protected-vm-plan.ts";

type Member = {
  readonly name: string;
  readonly runsOn?: string | undefined;
  readonly nodes?: readonly string[];
  readonly note?: GroupNote;
};

const [a, b, c] = ["node-a", "node-b", "node-c"];

/** In the order of their age; seen by the last one unless `by` says otherwise. */
function see(members: readonly Member[], by = members.length - 1): Observed {
  const all = members.map(({ name, runsOn, nodes = ["node-a", "node-b"], note }, age) => ({
    protectedVm: {
      metadata: { name, uid: name, creationTimestamp: `2026-11-27T12:00:0${age}Z` },
      spec: { failover: { group: "shop" } },
    },
    pair: {
      metadata: {
        name,
        annotations: { "twinrun.dev/notes": JSON.stringify({ first: "node-a", machine: {}, group: note }) },
      },
      spec: { sides: nodes.map((node) => ({ node })), roles: { term: 1, primary: "node-a" } },
      status: { sides: runsOn === undefined ? [] : [{ node: runsOn, role: "primary", term: 1, conditions: [] }] },
    },
  }));
  return { ...all[by], neighbours: all.filter((_, index) => index !== by) } as unknown as Observed;
}

const settledOn = (node = "", ...guests: readonly string[]): GroupNote => ({ node, guests });

test.each<{ readonly when: string; readonly members: readonly Member[]; readonly node: string | undefined }>([
  {
    when: "all are where they were",
    members: [
      { name: "db", runsOn: a, note: settledOn(a, "db", "web") },
      { name: "web", runsOn: a },
    ],
    node: a,
  },
  {
    when: "one has moved",
    members: [
      { name: "db", runsOn: a, note: settledOn(a, "db", "web", "cache") },
      { name: "web", runsOn: b },
      { name: "cache", runsOn: a },
    ],
    node: b,
  },
  {
    when: "one that came later runs elsewhere",
    members: [
      { name: "db", runsOn: a, note: settledOn(a, "db") },
      { name: "web", runsOn: b },
    ],
    node: a,
  },
  {
    when: "nobody says that he runs the one that moves",
    members: [
      { name: "db", note: settledOn(a, "db", "web") },
      { name: "web", runsOn: a },
    ],
    node: a,
  },
  {
    when: "they were never together",
    members: [
      { name: "db", runsOn: b },
      { name: "web", runsOn: b },
    ],
    node: b,
  },
])("$when: the group is on $node, whoever looks", ({ members, node }) => {
  expect(members.map((_, by) => viewGroup(see(members, by))?.node)).toEqual(members.map(() => node));
});

test("the oldest notes where they are together, and does not forget one that is changing sides", () => {
  const note = settledOn(a, "db", "web");
  const between = viewGroup(see([{ name: "db", runsOn: a, note }, { name: "web" }]));
  expect(planGroupNote(between, "db")).toEqual(note);
  expect(planGroupNote(between, "web")).toBeUndefined();
  const scattered = viewGroup(
    see([
      { name: "db", runsOn: a, note },
      { name: "web", runsOn: b },
    ]),
  );
  expect(planGroupNote(scattered, "db")).toEqual(note);
  const moved = viewGroup(
    see([
      { name: "db", runsOn: b, note },
      { name: "web", runsOn: b },
    ]),
  );
  expect(planGroupNote(moved, "db")).toEqual(settledOn(b, "db", "web"));
});

test("the first that loses a side chooses where the group goes", () => {
  const places = { lost: "node-b", stays: "node-a" };
  const first = viewGroup(
    see([
      { name: "db", runsOn: a },
      { name: "web", runsOn: a },
    ]),
  );
  expect(listNodesBeside(first, "web", places)).toBeUndefined();
  const nodes = ["node-a", "node-c"];
  const second = viewGroup(
    see([
      { name: "db", runsOn: a, nodes },
      { name: "web", runsOn: a },
    ]),
  );
  expect(listNodesBeside(second, "web", places)).toEqual([c]);
});
