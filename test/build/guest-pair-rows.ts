/** What GuestPairs are taken and refused, told once for every judge: zod, the generated CRD and a real API server. */
import { type GuestPairStatus, parseGuestPair } from "../../src/api/guest-pair.ts";
import { assert } from "../../src/lib/assert.ts";
import { type EngineReport } from "../../src/protocol/assignment.ts";
import { buildReport } from "./engine-report.ts";
import { buildGuestPair, buildSeenFault, buildSide } from "./resources.ts";
import { type ResourceRows } from "./resource-rows.ts";

const at = "2026-01-31T08:30:00Z";

type Json = Readonly<Record<string, unknown>>;
type StatusSide = NonNullable<GuestPairStatus["sides"]>[number];

/** An agent's item, as it can be made of an engine's report without inventing anything; the compiler checks the kinds. */
function sideOf(node: string, report: EngineReport): StatusSide {
  const { primaryNode, lagMs, checkpoint, conditions, links, quorums, resync } = report;
  const { perSecond, phases, dirtyPagesP50 } = checkpoint;
  return {
    ...report,
    node,
    observedGeneration: 1,
    reportedAt: at,
    primaryNode: primaryNode === "" ? undefined : primaryNode,
    lagMs: lagMs ?? undefined,
    resync: resync === null ? undefined : { ...resync, secondsLeft: resync.secondsLeft ?? undefined },
    disks: [...report.disks],
    links: links.map(({ rttMs, ...link }) => ({ ...link, rttMs: rttMs ?? undefined })),
    quorums: quorums?.map(({ latencyMs, ...quorum }) => ({ ...quorum, latencyMs: latencyMs ?? undefined })),
    checkpoint: phases.pause === undefined ? undefined : { perSecond, pause: phases.pause, dirtyPagesP50 },
    conditions: conditions.map((condition) => ({ ...condition, lastTransitionTime: at })),
  };
}

/** An item of status.sides as the API server keeps it of a report: fields that the resource does not have are pruned. */
export function buildReportedSide(node: string, report: EngineReport): StatusSide {
  const { status } = parseGuestPair(buildGuestPair({}, { sides: [sideOf(node, report)] }), "report");
  const [side] = status?.sides ?? [];
  assert(side !== undefined, "the side that was given");
  return JSON.parse(JSON.stringify(side)) as StatusSide;
}

const reported = buildReportedSide("node-a", buildReport());
const [primary, standby] = [
  {
    ...reported,
    conditions: reported.conditions.map((condition) => ({ ...condition, observedGeneration: 1 })),
    lastTakeover: { cause: "silent", at, durationMs: 580, term: 2, epoch: 9 },
    faults: [buildSeenFault({ state: "InService", repairedAt: at })],
    resync: { leftBytes: 1_073_741_824, secondsLeft: 12 },
    links: reported.links.map((link) => ({ ...link, roundTrip: { p50Ms: 0.2, p99Ms: 0.9 }, carriesData: true })),
    quorums: [{ seat: "preferred", reachable: true, latencyMs: 3.5, inForce: true }],
    traffic: { mibPerSecond: 812.5, nodePeakMiBPerSecond: 1_100, heldToMiBPerSecond: 900 },
    override: { who: "kubernetes-admin", why: "site A burnt down", at, term: 4 },
  },
  buildReportedSide("node-b", buildReport({ role: "standby", primaryNode: "", lagMs: null, takeoversCount: 0 })),
];

const a = buildSide("node-a");

const [first, second, third] = ["10.0.9.1", "10.0.9.2", "10.0.9.3"].map((host) => ({ host, port: 7_000 }));
const quorum = (difference: Json = {}): Json => ({
  quorum: { preferred: [first], inForce: "preferred", ...difference },
});

const roles = (term: number, node: string): Json => ({ roles: { term, primary: node } });

export const guestPairRows: ResourceRows = {
  taken: [
    { when: "a new pair", object: buildGuestPair() },
    { when: "a guest without disks", object: buildGuestPair({ disks: [] }) },
    { when: "a disk that lives in the pod", object: buildGuestPair({ podDisks: ["system"] }) },
    {
      when: "several links and disks",
      object: buildGuestPair({
        sides: ["node-a", "node-b"].map((node) =>
          buildSide(node, { links: ["fast", "slow"].map((name) => ({ name, host: `${name}.${node}.example` })) }),
        ),
        disks: ["system", "data"],
      }),
    },
    {
      when: "a contract of its own",
      object: buildGuestPair({
        checkpoint: { maxAddedLatencyMs: 20, minIntervalMs: 10, maxIntervalMs: 100, resyncMiBPerSecond: 200 },
        fullResync: at,
        sides: ["node-a", "node-b"].map((node) => buildSide(node, { uplinks: ["lan"], linkMiBPerSecond: 1_000 })),
        failover: { detectionTimeoutMs: 300 },
      }),
    },
    { when: "quorums of its own", object: buildGuestPair(quorum({ alternate: [second] })) },
    { when: "a pair that is given up", object: buildGuestPair({ intent: "Release" }) },
    {
      when: "a side that waits for its QEMU",
      object: buildGuestPair({}, { sides: [{ ...standby, wantedShape: "standby", trouble: "no pod yet" }] }),
    },
    { when: "the reports of both sides", object: buildGuestPair({}, { sides: [primary, standby] }) },
    { when: "the report of one side", object: buildGuestPair({}, { sides: [standby] }) },
  ],
  refused: [
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
    { when: "a disk twice", spec: { disks: ["system", "system"] }, path: "spec.disks" },
    { when: "an intent that is none", spec: { intent: "Forget" }, path: "spec.intent" },
    { when: "three sides", spec: { sides: [a, buildSide("node-b"), buildSide("node-c")] }, path: "spec.sides" },
    {
      when: "a side without its instance",
      spec: { sides: [{ ...a, vmi: undefined }, buildSide("node-b")] },
      path: "spec.sides[0].vmi",
    },
    { when: "a port of 0", spec: { port: 0 }, path: "spec.port" },
    { when: "no disks", spec: { disks: undefined }, path: "spec.disks" },
    { when: "a role that is none", status: { sides: [{ ...primary, role: "owner" }] }, path: "status.sides[0].role" },
    {
      when: "an output that is none",
      status: { sides: [{ ...primary, outputMode: "ajar" }] },
      path: "status.sides[0].outputMode",
    },
    {
      when: "different links",
      spec: { sides: [a, buildSide("node-b", { links: [{ name: "other", host: "h" }] })] },
      path: "spec.sides",
      says: "must have the same links",
    },
    { when: "a quorum without a place", spec: quorum({ preferred: [] }), path: "spec.quorum.preferred" },
    { when: "a quorum that is none", spec: quorum({ inForce: "third" }), path: "spec.quorum.inForce" },
    { when: "no links", spec: { sides: [{ ...a, links: [] }, buildSide("node-b")] }, path: "spec.sides[0].links" },
    { when: "a port that is none", spec: { port: 65_536 }, path: "spec.port" },
    {
      when: "crossed intervals",
      spec: { checkpoint: { minIntervalMs: 9, maxIntervalMs: 8 } },
      path: "spec.checkpoint.minIntervalMs",
      says: "must not be greater than maxIntervalMs",
    },
    {
      when: "a shape that is none",
      status: { sides: [{ ...primary, wantedShape: "spare" }] },
      path: "status.sides[0].wantedShape",
    },
    {
      when: "a fault of something that is no component",
      status: { sides: [{ ...primary, faults: [buildSeenFault({ component: "roof" })] }] },
      path: "status.sides[0].faults[0].component",
    },
    {
      when: "a fault that an agent holds for isolated",
      status: { sides: [{ ...primary, faults: [buildSeenFault({ state: "Isolated" })] }] },
      path: "status.sides[0].faults[0].state",
    },
    {
      when: "traffic that nobody measured",
      status: { sides: [{ ...primary, traffic: { mibPerSecond: -1, nodePeakMiBPerSecond: 0 } }] },
      path: "status.sides[0].traffic.mibPerSecond",
    },
    { when: "two reports for one node", status: { sides: [primary, primary] }, path: "status.sides" },
  ],
  changes: [
    { when: "takes roles for a later term", before: roles(1, "node-a"), after: roles(2, "node-b") },
    {
      when: "takes another quorum in force",
      before: quorum({ alternate: [second] }),
      after: quorum({ alternate: [second], inForce: "alternate" }),
    },
    { when: "takes an alternate quorum later", before: quorum(), after: quorum({ alternate: [second] }) },
    {
      when: "refuses another preferred quorum",
      before: quorum(),
      after: quorum({ preferred: [second] }),
      refused: { path: "spec.quorum" },
    },
    {
      when: "refuses another alternate quorum",
      before: quorum({ alternate: [second] }),
      after: quorum({ alternate: [third] }),
      refused: { path: "spec.quorum" },
    },
    { when: "refuses to lose its quorum", before: quorum(), after: {}, refused: { path: "spec" } },
    { when: "takes the same roles again", before: roles(2, "node-b"), after: roles(2, "node-b") },
    {
      when: "takes another standby in the same term",
      before: {},
      after: { sides: [buildSide("node-a"), buildSide("node-c")] },
    },
    {
      when: "refuses an earlier term",
      before: roles(2, "node-a"),
      after: roles(1, "node-a"),
      refused: { path: "spec.roles" },
    },
    {
      when: "refuses two primaries of a term",
      before: roles(2, "node-a"),
      after: roles(2, "node-b"),
      refused: { path: "spec.roles" },
    },
    {
      when: "refuses another name for the guest",
      before: {},
      after: { guest: "mail" },
      refused: { path: "spec.guest" },
    },
  ],
};
