import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { type LinkCapacity } from "../protocol/assignment.ts";
import { isOtherShare, type LinkDemand, planLinkShares, shareLinks, type SharingGuest } from "./link-shares.ts";

const demand = (guest: string, bytesPerSecond: number, nodes: readonly string[] = ["a"]): LinkDemand => ({
  ...{ guest, bytesPerSecond, nodes },
});
/** 100 are usable of a link of node A. */
const link = (usable = 100): ReadonlyMap<string, number> => new Map([["a", usable / 0.9]]);

function limitsOf(
  demands: readonly LinkDemand[],
  capacities: ReadonlyMap<string, number> = link(),
): Readonly<Record<string, number>> {
  const limits = [...shareLinks(demands, capacities)];
  return Object.fromEntries(limits.map(([guest, limit]) => [guest, Math.round(limit)]));
}

test.each<{
  when: string;
  demands: readonly LinkDemand[];
  limits: Readonly<Record<string, number>>;
}>([
  {
    when: "a guest is alone: all there is",
    demands: [demand("web", 5)],
    limits: { web: 100 },
  },
  {
    when: "one is loud: what the quiet ones leave",
    demands: [demand("loud", Infinity), demand("one", 5), demand("other", 10)],
    // The quiet ones may use more than they do, down to the equal share of the loud one.
    limits: { loud: 85, one: 45, other: 48 },
  },
  {
    when: "two are loud: what is left in halves",
    demands: [demand("loud", Infinity), demand("louder", Infinity), demand("quiet", 10)],
    limits: { loud: 45, louder: 45, quiet: 33 },
  },
  {
    when: "nobody was measured yet",
    demands: [demand("one", 0), demand("other", 0)],
    limits: { one: 100, other: 100 },
  },
])("$when", ({ demands, limits }) => {
  expect(limitsOf(demands)).toEqual(limits);
});

test("the narrower of both nodes' links counts, and what it leaves of the other one goes to others", () => {
  const demands = [demand("far", Infinity, ["a", "slow"]), demand("near", Infinity, ["a", "b"])];
  const capacities = new Map([...link(), ["slow", 20 / 0.9]]);
  expect(limitsOf(demands, capacities)).toEqual({ far: 20, near: 80 });
});

test("where nothing is known of a link there is no limit", () => {
  expect(limitsOf([demand("web", Infinity)], new Map())).toEqual({});
  expect(limitsOf([demand("web", Infinity, ["b"]), demand("db", 1)])).toEqual({
    db: 100,
  });
});

const someDemands = fc
  .array(fc.oneof(fc.double({ min: 0, max: 300, noNaN: true }), fc.constant(Infinity)), { minLength: 1, maxLength: 12 })
  .map((wanted) => wanted.map((bytesPerSecond, index) => demand(`guest-${index}`, bytesPerSecond)));

test("whatever they want: a quiet guest is left alone, nobody starves, and together they fill the link and no more", () => {
  fc.assert(
    fc.property(someDemands, (demands) => {
      const limits = shareLinks(demands, link());
      const equalShare = 100 / demands.length;
      const used = demands.map(({ guest, bytesPerSecond }) => Math.min(bytesPerSecond, limits.get(guest) ?? Infinity));
      const total = used.reduce((sum, each) => sum + each, 0);
      const wanted = demands.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
      expect(Math.min(...limits.values())).toBeGreaterThanOrEqual(equalShare - 1e-6);
      expect(total).toBeCloseTo(Math.min(100, wanted));
      // Whoever gets less than it wants gets as much as anybody.
      const slowed = used.filter((each, index) => each < (demands[index]?.bytesPerSecond ?? 0) - 1e-6);
      slowed.forEach((each) => {
        expect(each).toBeCloseTo(Math.max(...used));
      });
    }),
  );
});

const MIB = 2 ** 20;
const sharing = (
  guest: string,
  peerNode: string,
  linkCapacity: LinkCapacity | undefined,
  difference: Partial<SharingGuest> = {},
): SharingGuest => ({
  assignment: { guest, peerNode, linkCapacity },
  bytesPerSecond: MIB,
  isHeldTo: false,
  ...difference,
});

test("an agent takes the links of its node, and those of each peer for the guests that go there", () => {
  const guests = [
    sharing("web", "node-b", { ownMiBPerSecond: 100, peerMiBPerSecond: 20 }, { isHeldTo: true }),
    sharing("mail", "node-b", { ownMiBPerSecond: 100, peerMiBPerSecond: 20 }, { isHeldTo: true }),
    sharing("db", "node-c", { ownMiBPerSecond: 100 }, { isHeldTo: true }),
  ];
  const shares = [...planLinkShares(guests, "node-a")].map(([guest, bytes]) => [guest, Math.round(bytes / MIB)]);
  expect(shares).toEqual([
    ["web", 9],
    ["mail", 9],
    ["db", 72],
  ]);
  expect(planLinkShares([sharing("web", "node-b", undefined, { isHeldTo: true })], "node-a").size).toBe(0);
});

test("an engine hears of a share that is there, gone, or has really changed", () => {
  expect(isOtherShare(undefined, undefined)).toBe(false);
  expect(isOtherShare(undefined, 100)).toBe(true);
  expect(isOtherShare(100, undefined)).toBe(true);
  expect(isOtherShare(100, 104)).toBe(false);
  expect(isOtherShare(100, 90)).toBe(true);
});
