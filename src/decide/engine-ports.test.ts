import { describe, expect, test } from "@jest/globals";
import { findFreePort, listUsedPorts } from "./engine-ports.ts";

const range = { low: 7_100, high: 7_102 };
const pair = (port: number, ...nodes: readonly string[]) => ({
  spec: { port, sides: nodes.map((node) => ({ node, vmi: { namespace: "n", name: "v" }, links: [] })) },
});
const pairs = [pair(7_100, "a", "b"), pair(7_100, "c", "d"), pair(7_101, "a", "c"), pair(7_102, "b", "d")];

describe("the port of a guest's engines", () => {
  test.each([
    { nodes: ["a", "b"], port: undefined },
    { nodes: ["a", "d"], port: undefined },
    { nodes: ["a", "e"], port: 7_102 },
    { nodes: ["b", "e"], port: 7_101 },
    { nodes: ["c", "e"], port: 7_102 },
    { nodes: ["e", "f"], port: 7_100 },
  ])("on $nodes is $port", ({ nodes, port }) => {
    expect(findFreePort(range, listUsedPorts(pairs), nodes)).toBe(port);
  });

  test("two thousand guests find one each on forty nodes that have a hundred ports", () => {
    const given: ReturnType<typeof pair>[] = [];
    const ports = { low: 7_100, high: 7_199 };
    for (let guest = 0; guest < 2_000; guest += 1) {
      const nodes = [`node-${(2 * guest) % 40}`, `node-${(2 * guest + 1) % 40}`];
      const port = findFreePort(ports, listUsedPorts(given), nodes);
      given.push(pair(port ?? NaN, ...nodes));
    }
    expect(given.filter(({ spec }) => !(spec.port >= ports.low && spec.port <= ports.high))).toEqual([]);
    const onNodes = given.flatMap(({ spec }) => spec.sides.map(({ node }) => `${node}:${spec.port}`));
    expect(new Set(onNodes).size).toBe(4_000);
  });
});
