import { expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildReportedSide } from "../../test/build/guest-pair-rows.ts";
import { buildGuestPair } from "../../test/build/resources.ts";
import { parseGuestPair } from "../api/guest-pair.ts";
import { planPair } from "./pair-assignment.ts";

const object = { namespace: "twinrun", name: "web", generation: 2 };
const plan = (node: string, spec = {}, annotations = {}): ReturnType<typeof planPair> =>
  planPair(parseGuestPair(buildGuestPair(spec), "object"), { object, annotations }, node);

test("each side gets its half: its own addresses, the peer's, and devices to look for", () => {
  expect(plan("node-a")?.assignment).toEqual({
    guest: "shop.web",
    mode: "FaultTolerant",
    peerNode: "node-b",
    firstPrimary: "node-a",
    port: 7_500,
    links: [
      {
        name: "direct",
        localHost: "node-a.example",
        peerHost: "node-b.example",
      },
    ],
    disks: [{ id: "system", device: "ua-system" }],
    qemu: { tag: "pod", namespace: "shop" },
    checkpoint: {
      maxAddedLatencyMs: 50,
      minIntervalMs: 5,
      maxIntervalMs: 1_000,
    },
    failover: { detectionTimeoutMs: 500 },
    tracker: "auto",
    isReleasing: false,
  });
  expect(plan("node-b")?.assignment).toMatchObject({
    peerNode: "node-a",
    firstPrimary: "node-a",
    links: [
      {
        name: "direct",
        localHost: "node-b.example",
        peerHost: "node-a.example",
      },
    ],
  });
});

test("a node that has known a record makes no first one, whatever the roles say", () => {
  const sides = [buildReportedSide("node-a", buildReport({ term: 3 }))];
  const pair = parseGuestPair(buildGuestPair({}, { sides }), "object");
  const firstPrimaryOn = (node: string): string | undefined =>
    planPair(pair, { object, annotations: {} }, node)?.assignment.firstPrimary;
  expect(firstPrimaryOn("node-a")).toBe("node-b");
  // It has not heard of any, and it is not the one that the roles name.
  expect(firstPrimaryOn("node-b")).toBe("node-a");
});

test("disks that live in the pod are told apart", () => {
  expect(plan("node-a", { disks: ["system", "settings"], podDisks: ["settings"] })?.assignment.disks).toEqual([
    { id: "system", device: "ua-system" },
    { id: "settings", device: "ua-settings", isOfPod: true },
  ]);
});

test("each node has its own ways to clients, and a whole copy is asked of both", () => {
  const { sides } = buildGuestPair()["spec"] as { readonly sides: readonly object[] };
  const spec = { sides: [{ ...sides[0], uplinks: ["eth0", "eth1"] }, sides[1]], fullResync: "2026-11-27" };
  expect(plan("node-a", spec)?.assignment).toMatchObject({ uplinks: ["eth0", "eth1"], fullResync: "2026-11-27" });
  expect(plan("node-b", spec)?.assignment).toMatchObject({ fullResync: "2026-11-27" });
  expect(plan("node-b", spec)?.assignment.uplinks).toBeUndefined();
});

test("each node knows what its own links carry, and the peer's, where somebody has said it", () => {
  const { sides } = buildGuestPair()["spec"] as { readonly sides: readonly object[] };
  const spec = { sides: [{ ...sides[0], linkMiBPerSecond: 1_000 }, sides[1]] };
  expect(plan("node-a", spec)?.assignment.linkCapacity).toEqual({ ownMiBPerSecond: 1_000 });
  expect(plan("node-b", spec)?.assignment.linkCapacity).toEqual({ peerMiBPerSecond: 1_000 });
  expect(plan("node-a")?.assignment).not.toHaveProperty("linkCapacity");
});

test("a node that is no side has nothing to do with it", () => {
  expect(plan("node-c")).toBeUndefined();
});

test("what is wished for comes along", () => {
  const annotations = { "twinrun.dev/failover-from": "node-a" };
  const planned = plan("node-a", { intent: "Release", roles: { term: 3, primary: "node-b" } }, annotations);
  expect(planned?.wish).toEqual({
    guest: "shop.web",
    object,
    roles: { term: 3, primary: "node-b" },
    failoverFrom: "node-a",
    isStartAsked: false,
    latestTerm: 0,
  });
  expect(planned?.assignment).toMatchObject({
    isReleasing: true,
    firstPrimary: "node-b",
  });
});
