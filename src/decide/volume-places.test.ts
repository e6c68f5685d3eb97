import { describe, expect, test } from "@jest/globals";
import { type Json } from "../lib/json-merge.ts";
import { type Claim, type ClusterNode } from "./cluster-objects.ts";
import { type Observed } from "./protected-vm-plan.ts";
import { findLastNode, findUnreachable, SELECTED_NODE_ANNOTATION } from "./volume-places.ts";

const nodeOf = (name: string, labels: Readonly<Record<string, string>> = {}): ClusterNode => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name, labels: { "kubernetes.io/hostname": name, ...labels } },
});

const claimOf = (volumeName: string | undefined, selected?: string): Claim => ({
  apiVersion: "v1",
  kind: "PersistentVolumeClaim",
  metadata: {
    ...{ namespace: "shop", name: "disk" },
    annotations: selected === undefined ? {} : { [SELECTED_NODE_ANNOTATION]: selected },
  },
  spec: { volumeName },
});

/** A cluster whose volume `disk-volume` can be used where one of the terms says. */
const withVolume = (nodeSelectorTerms: readonly Json[] | undefined): Observed =>
  ({
    findVolume: () => ({
      ...{ apiVersion: "v1", kind: "PersistentVolume", metadata: { name: "disk-volume" } },
      spec: nodeSelectorTerms === undefined ? {} : { nodeAffinity: { required: { nodeSelectorTerms } } },
    }),
  }) as unknown as Observed;

const expression = (key: string, operator: string, ...values: readonly string[]): Json => ({
  matchExpressions: [{ key, operator, values }],
});

describe("where a guest can be started", () => {
  test.each([
    ["its volume has no affinity", undefined, true],
    ["the volume is on the node's own disk", [expression("kubernetes.io/hostname", "In", "node-a")], true],
    ["the volume is on another node's disk", [expression("kubernetes.io/hostname", "In", "node-b")], false],
    ["one of several terms allows it", [expression("zone", "In", "east"), expression("zone", "In", "west")], true],
    ["the zone is ruled out", [expression("zone", "NotIn", "west")], false],
    ["a label is asked for that it has", [expression("zone", "Exists")], true],
    ["a label is asked for that it has not", [expression("rack", "Exists")], false],
    ["a label is unwanted that it has", [expression("zone", "DoesNotExist")], false],
    ["a number is larger than asked", [expression("generation", "Gt", "3")], true],
    ["a number is not smaller than asked", [expression("generation", "Lt", "4")], false],
    [
      "one of two requirements of a term is not met",
      [{ matchExpressions: [...readAll(expression("zone", "In", "west")), ...readAll(expression("rack", "In", "7"))] }],
      false,
    ],
    ["the node is named", [{ matchFields: [{ key: "metadata.name", operator: "In", values: ["node-a"] }] }], true],
    ["a term asks for nothing, which nothing meets", [{}], false],
  ])("%s", (_, terms, isReachable) => {
    const node = nodeOf("node-a", { zone: "west", generation: "4" });
    const why = findUnreachable(withVolume(terms), [claimOf("disk-volume")], node);
    expect(why).toBe(isReachable ? undefined : "volume shop/disk is elsewhere");
  });

  test("a claim that is about to be bound goes where the scheduler said", () => {
    const claims = [claimOf(undefined, "node-b")];
    expect(findUnreachable(withVolume(undefined), claims, nodeOf("node-a"))).toBe("volume shop/disk is on node-b");
    expect(findUnreachable(withVolume(undefined), claims, nodeOf("node-b"))).toBeUndefined();
    expect(findLastNode([claimOf(undefined), ...claims])).toBe("node-b");
  });

  test("a bound claim that can be used elsewhere too is not kept where it was used last", () => {
    const claims = [claimOf("disk-volume", "node-b")];
    expect(findUnreachable(withVolume(undefined), claims, nodeOf("node-a"))).toBeUndefined();
  });

  test("a claim that nobody used goes anywhere", () => {
    expect(findUnreachable(withVolume(undefined), [claimOf(undefined)], nodeOf("node-a"))).toBeUndefined();
    expect(findLastNode([claimOf(undefined)])).toBeUndefined();
  });
});

function readAll(term: Json): readonly Json[] {
  return term["matchExpressions"] as readonly Json[];
}
