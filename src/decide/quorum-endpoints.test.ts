import { expect, test } from "@jest/globals";
import { listQuorumEndpoints, type EndpointSlice } from "./quorum-endpoints.ts";

const ports = [{ name: "quorum", port: 7000 }] as const;
const slice = (...endpoints: NonNullable<EndpointSlice["endpoints"]>): EndpointSlice => ({
  addressType: "IPv4",
  endpoints,
  ports,
});

test.each<{ when: string; slices: readonly EndpointSlice[]; hosts: readonly string[] }>([
  { when: "nothing is known", slices: [], hosts: [] },
  { when: "there are no replicas", slices: [{ addressType: "IPv4", endpoints: null, ports: null }], hosts: [] },
  {
    when: "replicas are listed in any order",
    slices: [slice({ addresses: ["10.0.0.3"] }, { addresses: ["10.0.0.1"] }), slice({ addresses: ["10.0.0.2"] })],
    hosts: ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
  },
  {
    when: "one is not ready",
    slices: [slice({ addresses: ["10.0.0.1"], conditions: { ready: false } }, { addresses: ["10.0.0.2"] })],
    hosts: ["10.0.0.2", "10.0.0.1"],
  },
  {
    when: "one is ending",
    slices: [
      slice({ addresses: ["10.0.0.1"], conditions: { terminating: true, serving: true } }, { addresses: ["10.0.0.2"] }),
    ],
    hosts: ["10.0.0.2"],
  },
  {
    when: "all are ending",
    slices: [slice({ addresses: ["10.0.0.1"], conditions: { terminating: true } })],
    hosts: ["10.0.0.1"],
  },
  {
    when: "one stands in two slices",
    slices: [slice({ addresses: ["10.0.0.1"] }), slice({ addresses: ["10.0.0.1"] })],
    hosts: ["10.0.0.1"],
  },
  {
    when: "there are two families",
    slices: [
      { addressType: "IPv6", endpoints: [{ addresses: ["fd00::1"] }], ports },
      slice({ addresses: ["10.0.0.1"] }),
    ],
    hosts: ["10.0.0.1"],
  },
  {
    when: "there is only the other family",
    slices: [{ addressType: "IPv6", endpoints: [{ addresses: ["fd00::1"] }], ports }],
    hosts: ["fd00::1"],
  },
])("$when", ({ slices, hosts }) => {
  expect(listQuorumEndpoints(slices)).toEqual(hosts.map((host) => ({ host, port: 7000 })));
});
