import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { buildReport } from "../../test/build/engine-report.ts";
import { type GuestWish } from "../decide/pair-assignment.ts";
import { type Override } from "../protocol/quorum-record.ts";
import { silentLog } from "../telemetry/log.ts";
import { type GuestStatus, type SwitchoverAnswer } from "./guest-runner.ts";
import { PairWishes } from "./pair-wishes.ts";

const calm: GuestWish = {
  guest: "web",
  object: { namespace: "twinrun", name: "web", generation: 1 },
  roles: { term: 1, primary: "host-a" },
  failoverFrom: undefined,
  isStartAsked: false,
  latestTerm: 3,
};
const status: GuestStatus = {
  guest: "web",
  mode: "FaultTolerant",
  peerNode: "host-b",
  disks: [],
  links: [],
  supervision: "running",
  enginePid: 7,
  engineRestartsCount: 0,
  qemu: null,
  changePending: false,
  wantedShape: null,
  trouble: null,
  report: buildReport({ term: 3, primaryNode: "host-a" }),
};

let directory = "";
let answer: SwitchoverAnswer = { accepted: true, message: "" };
const done: string[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-wishes-"));
  mkdirSync(join(directory, "web"));
  done.length = 0;
  answer = { accepted: true, message: "handing over" };
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

function open(): PairWishes {
  const control = {
    readGuest: () => status,
    requestSwitchover: (): Promise<SwitchoverAnswer> => {
      done.push("switchover");
      return Promise.resolve(answer);
    },
    failGuest: (): boolean => {
      done.push("fail");
      return true;
    },
    startEnded: (): void => {
      done.push("start");
    },
    moveQuorum: (_: string, to: string): void => {
      done.push(`move to ${to}`);
    },
    force: (_: string, { who, term }: Override): void => {
      done.push(`force for ${who} after term ${term}`);
    },
  };
  return new PairWishes({ node: "host-a", runDirectory: directory, control, log: silentLog });
}

test("a change of sides is asked for once, however often the status is looked at", async () => {
  const wishes = open();
  wishes.setWishes([{ ...calm, roles: { term: 4, primary: "host-b" } }]);
  wishes.guestChanged("web");
  await turn();
  wishes.guestChanged("web");
  expect(done).toEqual(["switchover"]);
  expect(wishes.readTrouble("web")).toBeUndefined();
});

test("a refusal is told until the wish is gone", async () => {
  answer = { accepted: false, message: "the standby is not in sync: wait" };
  const wishes = open();
  const told: (string | undefined)[] = [];
  wishes.onTrouble = (guest): void => {
    told.push(wishes.readTrouble(guest));
  };
  wishes.setWishes([{ ...calm, roles: { term: 4, primary: "host-b" } }]);
  await turn();
  expect(told).toEqual(["the hand-over to host-b was refused: the standby is not in sync: wait"]);
  wishes.setWishes([calm]);
  expect(told).toHaveLength(2);
  expect(wishes.readTrouble("web")).toBeUndefined();
});

test("a failover is carried out once, also by an agent that starts anew, until it is asked for again", () => {
  const failing = { ...calm, failoverFrom: "host-a" };
  open().setWishes([failing]);
  expect(existsSync(join(directory, "web", "failover.json"))).toBe(true);
  const next = open();
  next.setWishes([failing]);
  expect(done).toEqual(["fail"]);
  next.setWishes([calm]);
  next.setWishes([failing]);
  expect(done).toEqual(["fail", "fail"]);
});

test("another quorum, and an override, are asked of the engine until it reports them, not with every look", () => {
  const quorums = (["preferred", "alternate"] as const).map((seat) => {
    return { seat, reachable: true, latencyMs: 2, inForce: seat === "preferred" };
  });
  const override = {
    node: "host-a",
    who: "admin",
    why: "site B burnt down",
    at: "2026-01-31T08:30:00Z",
    isCertain: true,
  };
  const { node, isCertain, ...recorded } = override;
  const wish: GuestWish = { ...calm, quorumSeat: "alternate", override, latestTerm: 5 };
  const before = status.report;
  const wishes = open();
  Object.assign(status, { report: buildReport({ term: 3, quorums }) });
  wishes.setWishes([wish]);
  wishes.guestChanged("web");
  expect(done).toEqual(["move to alternate", "force for admin after term 5"]);
  const moved = quorums.map((quorum) => ({ ...quorum, inForce: quorum.seat === "alternate" }));
  Object.assign(status, { report: buildReport({ term: 6, quorums: moved, override: { ...recorded, term: 6 } }) });
  open().setWishes([wish]);
  expect(done).toHaveLength(2);
  expect([node, isCertain]).toEqual(["host-a", true]);
  Object.assign(status, { report: before });
});
