import { describe, expect, test } from "@jest/globals";
import { type ClusterNode } from "./cluster-objects.ts";
import { chooseMachine } from "./common-machine.ts";

type Offer = { readonly models?: readonly string[]; readonly host?: string; readonly types?: readonly string[] };

function buildNode(
  name: string,
  { models = ["Haswell"], host, types = ["q35", "pc-q35-rhel9.6.0"] }: Offer,
): ClusterNode {
  const labels = [
    ...models.map((model) => `cpu-model.node.kubevirt.io/${model}`),
    ...types.map((type) => `machine-type.node.kubevirt.io/${type}`),
    ...(host === undefined ? [] : [`host-model-cpu.node.kubevirt.io/${host}`]),
  ];
  return {
    ...{ apiVersion: "v1", kind: "Node" },
    metadata: { name, labels: Object.fromEntries(labels.map((label) => [label, "true"])) },
  };
}

type Case = {
  readonly when: string;
  readonly first?: Offer;
  readonly second?: Offer;
  readonly domain?: object;
  readonly machine?: object;
  readonly says?: string;
};

describe("the machine two nodes have in common", () => {
  test.each<Case>([
    { when: "nothing is asked for", machine: { type: "pc-q35-rhel9.6.0", cpuModel: "Haswell" } },
    {
      when: "one node is newer",
      first: {
        models: ["Haswell", "Skylake-Server"],
        host: "Skylake-Server",
        types: ["pc-q35-rhel9.6.0", "pc-q35-rhel9.10.0"],
      },
      second: { models: ["Penryn", "Haswell"], host: "Haswell", types: ["pc-q35-rhel9.4.0", "pc-q35-rhel9.6.0"] },
      machine: { type: "pc-q35-rhel9.6.0", cpuModel: "Haswell" },
    },
    {
      when: "an emulating node lists processors without 64 bits",
      first: { models: ["486", "Westmere", "coreduo", "n270"] },
      second: { models: ["486", "Westmere", "coreduo", "n270"] },
      machine: { cpuModel: "Westmere" },
    },
    {
      when: "models are listed with their versions",
      first: { models: ["Westmere-v1", "Haswell", "Haswell-v2", "Penryn-v1"], host: "EPYC" },
      second: { models: ["Westmere-v1", "Haswell", "Haswell-v2", "Penryn-v1"], host: "EPYC" },
      machine: { cpuModel: "Haswell-v2" },
    },
    {
      when: "versions have two digits",
      first: { types: ["pc-q35-rhel9.6.0", "pc-q35-rhel9.10.0"] },
      second: { types: ["pc-q35-rhel9.6.0", "pc-q35-rhel9.10.0"] },
      machine: { type: "pc-q35-rhel9.10.0" },
    },
    {
      when: "no node says what it is",
      first: { models: [], types: [] },
      second: { models: [], types: [] },
      domain: { machine: { type: "q35" } },
      machine: { type: "q35", cpuModel: undefined },
    },
    {
      when: "host-model means another model on each",
      first: { models: ["Haswell", "EPYC"], host: "EPYC" },
      domain: { cpu: { model: "host-model" } },
      machine: { cpuModel: "Haswell" },
    },
    { when: "they are of different makers", first: { models: ["EPYC"] }, says: "no processor model in common" },
    {
      when: "the guest asks for what one has not",
      first: { models: ["Haswell", "Cascadelake-Server"] },
      domain: { cpu: { model: "Cascadelake-Server" } },
      says: "node-b cannot be the processor model Cascadelake-Server",
    },
    { when: "they have no version in common", first: { types: ["pc-q35-10.1"] }, says: "no versioned machine type" },
  ])("$when", ({ first = {}, second = {}, domain = {}, machine, says }) => {
    const choice = chooseMachine({ domain }, buildNode("node-a", first), buildNode("node-b", second));
    if (machine === undefined) {
      expect(choice).toEqual({ tag: "none", says: expect.stringContaining(says ?? "") });
    } else {
      expect(choice).toMatchObject({ tag: "chosen", machine });
    }
  });
});
