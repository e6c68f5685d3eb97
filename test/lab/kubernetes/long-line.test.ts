/** A far node: everything it says and hears takes its time, also after it was off, and cuts hold for it as for any other. */
import { spawnSync } from "node:child_process";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { type LabRecord, removeLeftovers, writeLabRecord } from "../hosts.ts";
import { LabNetwork } from "./network.ts";

const id = `tr${process.pid.toString(36)}-far`;
const nodes = ["near", "far"];
let record: LabRecord;
let network: LabNetwork;

beforeAll(() => {
  record = writeLabRecord(id, { namespaces: LabNetwork.listNamespaces(id, nodes), directories: [] });
  network = LabNetwork.create(id, nodes);
  nodes.forEach((node) => {
    network.addNode(node);
  });
});

afterAll(async () => {
  network.close();
  await removeLeftovers(record);
});

/** Of a refused connection, the quickest of five, in milliseconds; undefined when nobody answers. */
function measure(to: string): number | undefined {
  const program = `
    const { connect } = await import("node:net");
    const once = () => new Promise((resolve) => {
      const startedMs = performance.now();
      const socket = connect({ host: process.argv[1], port: 9, timeout: 1000 });
      socket.on("error", ({ code }) => resolve(code === "ECONNREFUSED" ? performance.now() - startedMs : Infinity));
      socket.on("timeout", () => { socket.destroy(); resolve(Infinity); });
    });
    let best = Infinity;
    for (let turn = 0; turn < 5; turn += 1) best = Math.min(best, await once());
    console.log(best);
  `;
  const from = network.placeOf("near").namespace;
  const args = ["netns", "exec", from, process.execPath, "--input-type=module", "--eval", program, "--", to];
  const { stdout } = spawnSync("ip", args, { encoding: "utf8" });
  return Number.isFinite(Number(stdout)) ? Number(stdout) : undefined;
}

test("a node becomes far, farther, and near again, in both networks of replication", async () => {
  const { address, replicationAddress } = network.placeOf("far");
  for (const distanceMs of [20, 40]) {
    await network.setDistance("far", distanceMs);
    for (const host of [address, replicationAddress]) {
      expect(measure(host)).toBeGreaterThanOrEqual(distanceMs);
    }
  }
  await network.setDistance("far", 0);
  expect(measure(address)).toBeLessThan(20);
}, 120_000);

test("cut from a peer it is silent, and off and on again it is as far as before", async () => {
  const { address, replicationAddress, namespace } = network.placeOf("far");
  await network.setDistance("far", 20);
  network.cutLink("near", "management", "far");
  expect(measure(address)).toBeUndefined();
  expect(measure(replicationAddress)).toBeGreaterThanOrEqual(20);
  network.mendLink("near", "management", "far");
  network.dropCarrier("far");
  spawnSync("ip", ["netns", "delete", namespace]);
  network.addNode("far");
  expect(measure(address)).toBeGreaterThanOrEqual(20);
}, 120_000);
