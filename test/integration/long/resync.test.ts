/** The way back into sync, by trust: what changed, what differs, or everything; within a limit, and in spite of interruptions. */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "@jest/globals";
import { present } from "../../../src/lib/assert.ts";
import { type EngineReport } from "../../../src/protocol/assignment.ts";
import { type Cluster, createCluster } from "../../lab/cluster.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { waitForGuest } from "../../lab/guest-health.ts";
import { createLab, type Lab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import {
  isFlawless,
  startWitnesses,
  stopWitnesses,
  sumVerdicts,
  waitForReplies,
  type Witness,
} from "../../lab/load.ts";
import { pairHosts, placeGuest, type PlacedGuest } from "../../lab/placement.ts";
import { type LoggedResync, readResyncs, touchGranules } from "../../lab/resyncs.ts";

const patienceMs = 120_000;

let lab: Lab;
let cluster: Cluster;
let guest: PlacedGuest;
let witnesses: Witness[];

beforeAll(async () => {
  lab = await createLab({});
  const image = await provideImage("busybox", () => undefined);
  guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
  cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
  cluster.start();
  await waitForGuest(guest, patienceMs);
}, 2 * patienceMs);

afterAll(async () => {
  await lab.destroy();
});

beforeEach(async () => {
  await cluster.waitUntilProtected(patienceMs);
  witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: patienceMs });
}, patienceMs);

/** Whatever was done, nobody noticed, and the disks are equal to the last byte. */
afterEach(async () => {
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(isFlawless(verdict)).toBe(true);
  const [a, b] = pairHosts.map((host) => present(guest.specs[host].disks[0], "a disk").path);
  const { differingOffsets } = await compareDisks(present(a, "disk on A"), present(b, "disk on B"), 10_000);
  expect(differingOffsets).toEqual([]);
}, patienceMs);

/** What the primary copied since `count` copies, once the pair is whole. */
async function waitForResync(count: number): Promise<LoggedResync> {
  await cluster.waitFor("another copy is whole", () => readResyncs(lab, "a").length > count, patienceMs);
  await cluster.waitUntilProtected(patienceMs);
  return present(readResyncs(lab, "a").at(-1), "a copy");
}

function setLinks(change: "cutLink" | "restoreLink"): void {
  lab[change]("replication1");
  lab[change]("replication2");
}

test(
  "a standby that was cut off gets what changed meanwhile",
  async () => {
    const before = readResyncs(lab, "a").length;
    setLinks("cutLink");
    await cluster.waitFor("A is alone", ([view]) => view?.sides.a?.report?.state === "alone", patienceMs);
    await touchGranules(lab, guest, 128);
    setLinks("restoreLink");
    const resync = await waitForResync(before);
    expect(resync).toMatchObject({ ram: "delta", disks: "delta" });
    expect(resync.mib).toBeLessThan(60);
  },
  3 * patienceMs,
);

test(
  "one whose engine died is compared by hashes",
  async () => {
    const before = readResyncs(lab, "a").length;
    await cluster.killEngine("b", guest.name);
    expect(await waitForResync(before)).toMatchObject({ ram: "full", disks: "hashes" });
  },
  3 * patienceMs,
);

test(
  "everything is copied when asked for, no faster than allowed, with progress and an estimate, and goes on after an interruption",
  async () => {
    await touchGranules(lab, guest, 1024); // Something to copy: 64 MiB of granules that hold data.
    const before = readResyncs(lab, "a").length;
    cluster.reassign(guest.name, { checkpoint: { resyncMiBPerSecond: 8 }, fullResync: "once" });
    const isCopying = (report: EngineReport | null | undefined): boolean =>
      typeof report?.resync?.secondsLeft === "number" && report.syncPercent >= 20;
    const view = await cluster.waitFor("a fifth is copied", ([now]) => isCopying(now?.sides.a?.report), patienceMs);
    expect(view[0]?.sides.a?.report?.syncPercent).toBeLessThan(90);
    await waitForReplies(witnesses, 10, patienceMs);

    setLinks("cutLink");
    await cluster.waitFor("A is alone", ([now]) => now?.sides.a?.report?.state === "alone", patienceMs);
    setLinks("restoreLink");
    const resync = await waitForResync(before);
    expect(resync).toMatchObject({ ram: "full", disks: "full" });
    expect(resync.mib / resync.seconds).toBeLessThan(9);
    cluster.reassign(guest.name, { checkpoint: {}, fullResync: "once" });
  },
  4 * patienceMs,
);
