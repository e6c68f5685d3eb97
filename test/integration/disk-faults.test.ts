/** Disks that fail under the primary and under the standby: clients see nothing, people see which disk and what to do. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "@jest/globals";
import { present } from "../../src/lib/assert.ts";
import { type Cluster, createCluster, type GuestView } from "../lab/cluster.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { FaultyDisk } from "../lab/faulty-disk.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { guestPorts } from "../lab/guests.ts";
import { createLab, type Lab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import {
  countReplies,
  isFlawless,
  startWitnesses,
  stopWitnesses,
  sumVerdicts,
  waitForReplies,
  type Witness,
} from "../lab/load.ts";
import { pairHosts, placeGuest, type PairHost, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 120_000;
const otherOf = (host: PairHost): PairHost => (host === "a" ? "b" : "a");

let lab: Lab;
let cluster: Cluster;
let guest: PlacedGuest;
let disks: Record<PairHost, FaultyDisk>;
let witnesses: Witness[];

beforeAll(async () => {
  lab = await createLab({});
  const image = await provideImage("busybox", () => undefined);
  guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, options: { directDisk: true } }, "a");
  const insert = (host: PairHost): Promise<FaultyDisk> =>
    FaultyDisk.insert(lab, host, present(guest.specs[host].disks[0], "a disk").path);
  disks = { a: await insert("a"), b: await insert("b") };
  cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
  cluster.start();
  await waitForGuest(guest, patienceMs);
}, 2 * patienceMs);

afterAll(async () => {
  await lab.destroy();
});

/** The host that runs the guest, once it is protected and served. */
async function settle(): Promise<PairHost> {
  const [view] = await cluster.waitUntilProtected(patienceMs);
  await waitForReplies(witnesses, 20, patienceMs);
  return present(view?.primary, "a primary");
}

/** Nothing that a client was told is lost, and both disks are equal in the end. */
async function judge(): Promise<void> {
  await cluster.waitUntilProtected(patienceMs);
  await waitForReplies(witnesses, 20, patienceMs);
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(isFlawless(verdict)).toBe(true);
  const { differingOffsets } = await compareDisks(disks.a.path, disks.b.path, 10_000);
  expect(differingOffsets).toEqual([]);
  const view = await cluster.readGuest(guest.name);
  expect(pairHosts.map((host) => findDisksHealthy(view, host))).toEqual(["Healthy", "Healthy"]);
}

function findDisksHealthy(view: GuestView, host: PairHost): string | undefined {
  return view.sides[host]?.report?.conditions.find(({ type }) => type === "DisksHealthy")?.reason;
}

beforeEach(() => {
  witnesses = startWitnesses(lab, guest, { connectionsCount: 4, thinkMs: 10, stallMs: patienceMs });
});

/** Makes the guest read what no cache of its has. */
function readDisk(): Promise<string> {
  const script = `exec 3<>/dev/tcp/${guest.address}/${guestPorts.sectors}; echo 'vda 0 8' >&3; wc -c <&3`;
  return lab.execute("c", ["bash", "-c", script]);
}

const isRunBy =
  (host: PairHost) =>
  ([view]: readonly GuestView[]): boolean =>
    view?.primary === host;

describe("the primary's disk", () => {
  test.each(["write", "read"] as const)(
    "fails a %s: the standby goes on from the last epoch, and the guest has seen nothing",
    async (operation) => {
      const failing = await settle();
      const failedAtMs = Date.now();
      await disks[failing].fail(operation, "EIO");
      const reading = operation === "read" ? readDisk() : Promise.resolve("4096");
      await cluster.waitFor("the other side runs the guest", isRunBy(otherOf(failing)), patienceMs);
      expect(await cluster.awaitTakeover(otherOf(failing), guest.name, failedAtMs, patienceMs)).toBeDefined();
      await waitForReplies(witnesses, 20, patienceMs);
      expect((await reading).trim()).toBe("4096");
      await cluster.waitForWords(failing, guest.name, /^disk disk0: .*failed: /, patienceMs);
      await disks[failing].repair();
      await judge();
    },
    3 * patienceMs,
  );

  test(
    "hangs: the guest goes on at the other side instead of waiting with it",
    async () => {
      const hanging = await settle();
      disks[hanging].freeze();
      await cluster.waitFor("the other side runs the guest", isRunBy(otherOf(hanging)), patienceMs);
      await waitForReplies(witnesses, 20, patienceMs);
      await cluster.waitForWords(hanging, guest.name, /^disk disk0: a request is not answered; /, patienceMs);
      disks[hanging].resume();
      await judge();
    },
    3 * patienceMs,
  );

  test(
    "becomes slow: that is said before it holds anybody up, and not any more when it is well",
    async () => {
      const running = await settle();
      await disks[running].slowDown(2);
      await cluster.waitForWords(running, guest.name, /disk disk0: a request takes .* look at its volume/, patienceMs);
      expect((await cluster.readGuest(guest.name)).isProtected).toBe(true);
      await disks[running].slowDown(0);
      await cluster.waitFor(
        "the disk is well again",
        ([view]) => view !== undefined && findDisksHealthy(view, running) === "Healthy",
        patienceMs,
      );
      await judge();
    },
    3 * patienceMs,
  );
});

describe("the standby's disk", () => {
  test(
    "fails: the guest is served on without it, and is protected again when it works",
    async () => {
      const running = await settle();
      const failing = otherOf(running);
      await disks[failing].fail("write", "EIO");
      const words = /disk disk0: writing .* failed: .*; free or replace the standby's volume/;
      const alone = await cluster.waitForWords(running, guest.name, words, patienceMs);
      expect(alone).toMatchObject({ primary: running, isProtected: false });
      await cluster.waitFor(
        "both sides say that a disk has failed",
        ([view]) => view !== undefined && pairHosts.every((host) => findDisksHealthy(view, host) === "DiskFailed"),
        patienceMs,
      );
      await waitForReplies(witnesses, 100, patienceMs);
      await disks[failing].repair();
      await judge();
      expect((await cluster.readGuest(guest.name)).primary).toBe(running);
    },
    3 * patienceMs,
  );

  test(
    "hangs: the guest is served on without it",
    async () => {
      const running = await settle();
      disks[otherOf(running)].freeze();
      await cluster.waitFor("the standby is given up", ([view]) => view?.isProtected === false, patienceMs);
      await waitForReplies(witnesses, 100, patienceMs);
      disks[otherOf(running)].resume();
      await judge();
    },
    3 * patienceMs,
  );
});

test(
  "both disks fail, the primary's volume is full: the guest stands still, says so, and goes on by itself when there is room",
  async () => {
    const running = await settle();
    await disks[otherOf(running)].fail("write", "EIO");
    await cluster.waitForWords(running, guest.name, /the standby cannot follow/, patienceMs);
    await waitForReplies(witnesses, 20, patienceMs);
    await disks[running].fail("write", "ENOSPC");
    const words =
      /the guest stands still and goes on by itself once its disk works: disk disk0: write failed: .*enlarge/;
    await cluster.waitForWords(running, guest.name, words, patienceMs);
    const repliesWhenFull = countReplies(witnesses);
    // An engine that starts over finds it as it is: the guest must not be booted anew.
    await cluster.killEngine(running, guest.name);
    await cluster.waitForWords(running, guest.name, words, patienceMs);
    expect(countReplies(witnesses)).toBe(repliesWhenFull);

    await disks[running].repair();
    await waitForReplies(witnesses, 20, patienceMs);
    expect((await cluster.readGuest(guest.name)).primary).toBe(running);
    await disks[otherOf(running)].repair();
    await judge();
  },
  4 * patienceMs,
);
