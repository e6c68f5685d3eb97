import { describe, expect, test } from "@jest/globals";
import { admit } from "../../test/build/crd-admission.ts";
import { buildReport } from "../../test/build/engine-report.ts";
import { expectAccepted, expectRefused } from "../../test/build/judge.ts";
import { buildGuestPair, buildSide, type ResourceObject } from "../../test/build/resources.ts";
import { assert } from "../lib/assert.ts";
import { type EngineReport, type GuestAssignment } from "../protocol/assignment.ts";
import { encodeCrd } from "./custom-resource.ts";
import { type GuestPairSpec, type GuestPairStatus, guestPairResource, parseGuestPair } from "./guest-pair.ts";

const at = "2026-01-31T08:30:00Z";

type StatusSide = NonNullable<GuestPairStatus["sides"]>[number];

/** An agent's item, as it can be made of an engine's report without inventing anything; the compiler checks the kinds. */
function sideOf(node: string, report: EngineReport): StatusSide {
  const { primaryNode, lagMs, checkpoint, conditions, links } = report;
  const { perSecond, phases, dirtyPagesP50 } = checkpoint;
  return {
    ...report,
    node,
    observedGeneration: 1,
    reportedAt: at,
    primaryNode: primaryNode === "" ? undefined : primaryNode,
    lagMs: lagMs ?? undefined,
    disks: [...report.disks],
    links: links.map(({ rttMs, ...link }) => ({ ...link, rttMs: rttMs ?? undefined })),
    checkpoint: phases.pause === undefined ? undefined : { perSecond, pause: phases.pause, dirtyPagesP50 },
    conditions: conditions.map((condition) => ({ ...condition, lastTransitionTime: at })),
  };
}

describe("zod and the CRD take", () => {
  const [primary, standby] = [
    {
      ...parsedSide("node-a", buildReport()),
      lastTakeover: { cause: "silent", at, durationMs: 580, term: 2, epoch: 9 },
    },
    parsedSide("node-b", buildReport({ role: "standby", primaryNode: "", lagMs: null, takeoversCount: 0 })),
  ];

  test.each<{ when: string; object: ResourceObject }>([
    { when: "a new pair", object: buildGuestPair() },
    {
      when: "a guest without disks, whose pods are not there yet",
      object: buildGuestPair({
        sides: ["node-a", "node-b"].map((node) => buildSide(node, { disks: [], pod: undefined })),
      }),
    },
    { when: "the reports of both sides", object: buildGuestPair({}, { sides: [primary, standby] }) },
    { when: "the report of one side", object: buildGuestPair({}, { sides: [standby] }) },
  ])("$when", ({ object }) => {
    expectAccepted(guestPairResource, parseGuestPair, object);
  });
});

/** What the API server keeps of a report: fields that the resource does not have are pruned. */
function parsedSide(node: string, report: EngineReport): StatusSide {
  const { status } = parseGuestPair(buildGuestPair({}, { sides: [sideOf(node, report)] }), "report");
  const [side] = status?.sides ?? [];
  assert(side !== undefined, "the side that was given");
  return JSON.parse(JSON.stringify(side)) as StatusSide;
}

describe("zod and the CRD refuse", () => {
  const a = buildSide("node-a");
  const disk = (id: string): object => ({ id, path: "/dev/disk" });

  test.each<{ when: string; spec: object; path: string; says?: string }>([
    { when: "a guest of no such name", spec: { guest: "Web" }, path: "spec.guest" },
    { when: "a guest named like a socket", spec: { guest: "web.sock" }, path: "spec.guest", says: "must not end in" },
    { when: "no roles", spec: { roles: undefined }, path: "spec.roles" },
    { when: "term 0", spec: { roles: { term: 0, primary: "node-a" } }, path: "spec.roles.term" },
    {
      when: "a primary that is no side",
      spec: { roles: { term: 1, primary: "node-c" } },
      path: "spec.roles.primary",
      says: "must be the node of a side",
    },
    { when: "one side", spec: { sides: [a] }, path: "spec.sides" },
    { when: "two sides on one node", spec: { sides: [a, a] }, path: "spec.sides" },
    {
      when: "a disk on one side only",
      spec: { sides: [a, buildSide("node-b", { disks: [] })] },
      path: "spec.sides",
      says: "must have the same disks",
    },
    {
      when: "disks in another order",
      spec: {
        sides: [
          buildSide("node-a", { disks: [disk("x"), disk("y")] }),
          buildSide("node-b", { disks: [disk("y"), disk("x")] }),
        ],
      },
      path: "spec.sides",
      says: "in the same order",
    },
    {
      when: "different links",
      spec: { sides: [a, buildSide("node-b", { links: [{ name: "other", host: "h" }] })] },
      path: "spec.sides",
      says: "must have the same links",
    },
    { when: "no links", spec: { sides: [{ ...a, links: [] }, buildSide("node-b")] }, path: "spec.sides[0].links" },
    {
      when: "a relative disk",
      spec: { sides: [{ ...a, disks: [{ id: "system", path: "disk.img" }] }, buildSide("node-b")] },
      path: "spec.sides[0].disks[0].path",
    },
    { when: "a port that is none", spec: { port: 65_536 }, path: "spec.port" },
    { when: "no quorum", spec: { quorum: [] }, path: "spec.quorum" },
    {
      when: "crossed intervals",
      spec: { checkpoint: { minIntervalMs: 9, maxIntervalMs: 8 } },
      path: "spec.checkpoint.minIntervalMs",
      says: "must not be greater than maxIntervalMs",
    },
  ])("$when", ({ spec, path, says }) => {
    expectRefused(guestPairResource, parseGuestPair, buildGuestPair({ ...spec }), { path, says });
  });

  test("two reports for one node", () => {
    const side = parsedSide("node-a", buildReport());
    const object = buildGuestPair({}, { sides: [side, side] });
    expectRefused(guestPairResource, parseGuestPair, object, { path: "status.sides" });
  });
});

describe("the CRD, which sees what was there before,", () => {
  const crd = encodeCrd(guestPairResource);
  const roles = (term: number, primary: string): object => ({ roles: { term, primary } });

  test.each<{ when: string; before: object; after: object; refused?: string }>([
    { when: "takes roles for a later term", before: roles(1, "node-a"), after: roles(2, "node-b") },
    { when: "takes the same roles again", before: roles(2, "node-b"), after: roles(2, "node-b") },
    {
      when: "takes another standby in the same term",
      before: {},
      after: { sides: [buildSide("node-a"), buildSide("node-c")] },
    },
    { when: "refuses an earlier term", before: roles(2, "node-a"), after: roles(1, "node-a"), refused: "spec.roles" },
    {
      when: "refuses two primaries of a term",
      before: roles(2, "node-a"),
      after: roles(2, "node-b"),
      refused: "spec.roles",
    },
    { when: "refuses another name for the guest", before: {}, after: { guest: "mail" }, refused: "spec.guest" },
  ])("$when", ({ before, after, refused }) => {
    const { problems } = admit(crd, buildGuestPair({ ...after }), buildGuestPair({ ...before }));
    expect(problems.map(({ path }) => path)).toEqual(refused === undefined ? [] : [refused]);
  });
});

/** What an agent starts an engine with. That `qemu` is missing is what is different under KubeVirt, which starts QEMU itself. */
function assignmentOf(spec: GuestPairSpec, node: string): Omit<GuestAssignment, "qemu"> {
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
    disks: own.disks,
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
    disks: [{ id: "system", path: "/dev/node-a-system" }],
  });
  expect(assignmentOf(spec, "node-b")).toEqual({
    ...common,
    peerNode: "node-a",
    links: [{ name: "direct", localHost: "node-b.example", peerHost: "node-a.example" }],
    disks: [{ id: "system", path: "/dev/node-b-system" }],
  });
});
