import { describe, expect, test } from "@jest/globals";
import { guestPairRows } from "../../test/build/guest-pair-rows.ts";
import { expectAccepted, expectChange, expectRefused } from "../../test/build/judge.ts";
import { buildGuestPair } from "../../test/build/resources.ts";
import { assert } from "../lib/assert.ts";
import { type GuestAssignment } from "../protocol/assignment.ts";
import { type GuestPairSpec, guestPairResource, parseGuestPair } from "./guest-pair.ts";

describe("zod and the CRD take", () => {
  test.each(guestPairRows.taken)("$when", ({ object }) => {
    expectAccepted(guestPairResource, parseGuestPair, object);
  });
});

describe("zod and the CRD refuse", () => {
  test.each(guestPairRows.refused)("$when", ({ spec, status, path, says }) => {
    expectRefused(guestPairResource, parseGuestPair, buildGuestPair(spec, status), { path, says });
  });
});

describe("the CRD, which sees what was there before,", () => {
  test.each(guestPairRows.changes)("$when", ({ before, after, refused }) => {
    expectChange(guestPairResource, { before: buildGuestPair(before), after: buildGuestPair(after), refused });
  });
});

/** What an agent starts an engine with. `qemu` and `disks` come from the QEMU that KubeVirt starts. */
function assignmentOf(spec: GuestPairSpec, node: string): Omit<GuestAssignment, "qemu" | "disks"> {
  const own = spec.sides.find((side) => side.node === node);
  const peer = spec.sides.find((side) => side.node !== node);
  assert(own !== undefined && peer !== undefined, "a pair has two sides");
  return {
    guest: spec.guest,
    mode: spec.mode,
    peerNode: peer.node,
    firstPrimary: spec.roles.primary,
    port: spec.port,
    links: own.links.map(({ name, host }, index) => ({
      name,
      localHost: host,
      peerHost: peer.links[index]?.host ?? "",
    })),
    checkpoint: spec.checkpoint,
    failover: spec.failover,
    tracker: "auto",
  };
}

test("both agents can make their assignment from one pair", () => {
  const { spec } = parseGuestPair(buildGuestPair(), "object");
  const common = {
    guest: "shop.web",
    mode: "FaultTolerant",
    firstPrimary: "node-a",
    port: 7_500,
    checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1_000 },
    failover: { detectionTimeoutMs: 500 },
    tracker: "auto",
  };
  expect(assignmentOf(spec, "node-a")).toEqual({
    ...common,
    peerNode: "node-b",
    links: [{ name: "direct", localHost: "node-a.example", peerHost: "node-b.example" }],
  });
  expect(assignmentOf(spec, "node-b")).toEqual({
    ...common,
    peerNode: "node-a",
    links: [{ name: "direct", localHost: "node-b.example", peerHost: "node-a.example" }],
  });
});
