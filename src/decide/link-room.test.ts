import { expect, test } from "@jest/globals";
import { type ClusterNode } from "./cluster-objects.ts";
import { type LinkUse, listFullLinks, readLinkCapacity } from "./link-room.ts";

const use = (mibPerSecond: number, difference: Partial<LinkUse> = {}): LinkUse => ({
  ...{ guest: `guest-${mibPerSecond}`, nodes: ["node-a", "node-b"], mibPerSecond, isLate: false },
  peaks: new Map([["node-a", 1_000]]),
  ...difference,
});

const isFull = (uses: readonly LinkUse[], declared?: string): boolean => {
  const annotations = declared === undefined ? {} : { "twinrun.dev/replication-mib-per-second": declared };
  const node: ClusterNode = { apiVersion: "v1", kind: "Node", metadata: { name: "node-a", annotations } };
  return listFullLinks(uses, [node]).has("node-a");
};

test.each<{ readonly when: string; readonly uses: readonly LinkUse[]; readonly declared?: string }>([
  { when: "nobody uses it", uses: [] },
  { when: "nobody has measured it", uses: [use(900, { isLate: true, peaks: new Map() })] },
  { when: "it carries what it carried before, and nobody waits", uses: [use(900)] },
  { when: "somebody waits, for reasons of his own", uses: [use(100, { isLate: true }), use(50)] },
  { when: "its guests are elsewhere", uses: [use(900, { isLate: true, nodes: ["node-b", "node-c"] })] },
  { when: "more is declared than was measured", uses: [use(900, { isLate: true })], declared: "5000" },
])("there is room: $when", ({ uses, declared }) => {
  expect(isFull(uses, declared)).toBe(false);
});

test.each<{ readonly when: string; readonly uses: readonly LinkUse[]; readonly declared?: string }>([
  { when: "one is loud and late", uses: [use(900, { isLate: true })] },
  { when: "a neighbour of a loud one is late", uses: [use(900), use(1, { isLate: true })] },
  { when: "many together", uses: [use(300), use(200), use(250, { isLate: true })] },
  { when: "what is declared is used up, though nobody waits yet", uses: [use(400), use(350)], declared: "1000" },
  { when: "what is declared is no number", uses: [use(900, { isLate: true })], declared: "plenty" },
])("there is none: $when", ({ uses, declared }) => {
  expect(isFull(uses, declared)).toBe(true);
});

test.each([
  ["1000", 1_000],
  ["1.5", 1.5],
  ["0", undefined],
  ["-5", undefined],
  ["10G", undefined],
  ["", undefined],
])("a node that declares %j carries %j MiB a second", (declared, carries) => {
  const annotations = { "twinrun.dev/replication-mib-per-second": declared };
  expect(readLinkCapacity({ apiVersion: "v1", kind: "Node", metadata: { name: "node-a", annotations } })).toBe(carries);
  expect(readLinkCapacity(undefined)).toBeUndefined();
});
