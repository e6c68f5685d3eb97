import { expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { planWish, type WishView } from "./guest-wish.ts";
import { type GuestWish } from "./pair-assignment.ts";

const wish: GuestWish = {
  guest: "web",
  object: { namespace: "twinrun", name: "web", generation: 3 },
  roles: { term: 1, primary: "host-a" },
  failoverFrom: undefined,
  isStartAsked: false,
  latestTerm: 3,
};
const toPeer: GuestWish = { ...wish, roles: { term: 4, primary: "host-b" } };
const calm: WishView = {
  node: "host-a",
  peerNode: "host-b",
  wish,
  report: buildReport({ term: 3, primaryNode: "host-a" }),
  enginePid: 7,
  askedKey: undefined,
  hasFailedOver: false,
  isResting: false,
  movedBeforeMs: Infinity,
  forcedBeforeMs: Infinity,
};
const failing: GuestWish = { ...wish, failoverFrom: "host-a" };

test.each<{ when: string; view: Partial<WishView>; tags: string[] }>([
  { when: "nothing is wished for", view: {}, tags: [] },
  {
    when: "roles of a later term name the peer",
    view: { wish: toPeer },
    tags: ["requestSwitchover"],
  },
  {
    when: "that was asked for already",
    view: { wish: toPeer, askedKey: "4.7" },
    tags: [],
  },
  {
    when: "a new engine has come since",
    view: { wish: toPeer, askedKey: "4.6" },
    tags: ["requestSwitchover"],
  },
  {
    when: "the pair is not in sync yet",
    view: {
      wish: toPeer,
      report: buildReport({ term: 3, primaryNode: "host-a", state: "syncing" }),
    },
    tags: [],
  },
  {
    when: "this side is the standby",
    view: {
      wish: toPeer,
      report: buildReport({
        term: 3,
        primaryNode: "host-b",
        role: "standby",
        state: "holding",
      }),
    },
    tags: [],
  },
  {
    when: "the roles name the owner itself",
    view: { wish: { ...toPeer, roles: { term: 4, primary: "host-a" } } },
    tags: [],
  },
  {
    when: "the record has got there",
    view: {
      wish: toPeer,
      askedKey: "4.7",
      report: buildReport({ term: 4, primaryNode: "host-b" }),
    },
    tags: ["forgetSwitchover"],
  },
  { when: "a start is asked for a guest that runs", view: { wish: { ...wish, isStartAsked: true } }, tags: [] },
  {
    when: "a start is asked for a guest that shut itself down",
    view: { wish: { ...wish, isStartAsked: true }, isResting: true, report: null },
    tags: ["startGuest"],
  },
  { when: "a guest that shut itself down is left alone", view: { isResting: true, report: null }, tags: [] },
  { when: "no engine speaks", view: { wish: toPeer, report: null }, tags: [] },
  {
    when: "a failover from here is asked for",
    view: { wish: failing },
    tags: ["failGuest"],
  },
  {
    when: "it was carried out already",
    view: { wish: failing, hasFailedOver: true },
    tags: [],
  },
  {
    when: "nobody asks for it any more",
    view: { hasFailedOver: true },
    tags: ["forgetFailover"],
  },
  {
    when: "a failover from the peer is asked for",
    view: { wish: { ...wish, failoverFrom: "host-b" } },
    tags: [],
  },
  {
    when: "there is no standby that could take over",
    view: {
      wish: failing,
      report: buildReport({ term: 3, primaryNode: "host-a", state: "alone" }),
    },
    tags: [],
  },
])("$when => $tags", ({ view, tags }) => {
  expect(planWish({ ...calm, ...view }).map(({ tag }) => tag)).toEqual(tags);
});
