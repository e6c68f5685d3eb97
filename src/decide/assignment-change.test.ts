import { expect, test } from "@jest/globals";
import { buildAssignment } from "../../test/build/guest-assignment.ts";
import { type GuestAssignment } from "../protocol/assignment.ts";
import { listAssignmentProblems, planAssignmentChange } from "./assignment-change.ts";

type Case = { when: string; running: GuestAssignment[]; wanted: GuestAssignment[]; tags: string[] };
const web = buildAssignment();
const mail = buildAssignment({ guest: "mail", port: 7101 });

test.each<Case>([
  { when: "nothing changes", running: [web], wanted: [buildAssignment()], tags: [] },
  { when: "a guest comes", running: [web], wanted: [web, mail], tags: ["startGuest"] },
  { when: "a guest goes and one comes", running: [web], wanted: [mail], tags: ["removeGuest", "startGuest"] },
  {
    when: "the contract changes",
    running: [web],
    wanted: [{ ...web, checkpoint: { ...web.checkpoint, maxAddedLatencyMs: 20 } }],
    tags: ["retuneGuest"],
  },
  { when: "the peer changes", running: [web], wanted: [{ ...web, peerNode: "host-c" }], tags: ["restartEngine"] },
  {
    when: "the disks change",
    running: [web],
    wanted: [{ ...web, disks: [{ id: "d", path: "/d" }] }],
    tags: ["awaitNextStart"],
  },
  {
    when: "peer and disks change",
    running: [web],
    wanted: [{ ...web, port: 1, disks: [{ id: "d", path: "/d" }] }],
    tags: ["restartEngine"],
  },
  {
    when: "the first primary of a plain host changes",
    running: [web],
    wanted: [{ ...web, firstPrimary: "host-b" }],
    tags: ["restartEngine"],
  },
  {
    when: "the operator wishes for other roles",
    running: [{ ...web, qemu: { tag: "pod", namespace: "shop" } }],
    wanted: [{ ...web, qemu: { tag: "pod", namespace: "shop" }, firstPrimary: "host-b" }],
    tags: ["retuneGuest"],
  },
  {
    when: "a whole copy is asked for, and clients come by another interface",
    running: [web],
    wanted: [{ ...web, fullResync: "once more", uplinks: ["eth1"] }],
    tags: ["retuneGuest"],
  },
  {
    when: "somebody says what the links carry",
    running: [web],
    wanted: [{ ...web, linkCapacity: { ownMiBPerSecond: 100 } }],
    tags: ["retuneGuest"],
  },
  {
    when: "the guest is to be released",
    running: [web],
    wanted: [{ ...web, isReleasing: true }],
    tags: ["retuneGuest", "setRelease"],
  },
  {
    when: "the guest is to be protected again, elsewhere",
    running: [{ ...web, isReleasing: true }],
    wanted: [{ ...web, peerNode: "host-c", isReleasing: false }],
    tags: ["restartEngine", "setRelease"],
  },
])("$when => $tags", ({ running, wanted, tags }) => {
  expect(planAssignmentChange(running, wanted).map(({ tag }) => tag)).toEqual(tags);
});

test("a peer that is this node and a first primary that is a stranger are named", () => {
  expect(listAssignmentProblems([web, mail], "host-a")).toEqual([]);
  expect(listAssignmentProblems([web], "host-b").join()).toMatch(/peerNode is this node, host-b/);
  expect(listAssignmentProblems([buildAssignment({ firstPrimary: "host-x" })], "host-a").join()).toMatch(
    /firstPrimary is host-x/,
  );
});
