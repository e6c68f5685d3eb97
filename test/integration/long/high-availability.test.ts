/**
 * A guest of HighAvailability on two hosts: what a client sees of each fault is a reboot, and what it was told is done is on the disk
 * of the guest that boots. Planned work moves the guest live, and its mode is changed while it runs.
 *
 * One pair lives through all of it, in this order.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster, createCluster } from "../../lab/cluster.ts";
import { createLab, type Lab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import { waitForGuest } from "../../lab/guest-health.ts";
import { startWitnesses, stopWitnesses, sumVerdicts, type Witness } from "../../lab/load.ts";
import { otherHost, pairHosts, type PairHost, placeGuest, type PlacedGuest } from "../../lab/placement.ts";
import { findMissingInImage } from "../../lab/clients/synced-disk.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";

const patienceMs = 240_000;
/** The declared bound, from the loss of power to the guest's kernel. */
const BOOT_MS_MAX = 20_000;
const networks = ["replication1", "replication2"] as const;

let lab: Lab;
let guest: PlacedGuest;
let cluster: Cluster;

beforeAll(async () => {
  lab = await createLab();
  const image = await provideImage("busybox", () => undefined);
  guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
  cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a", mode: "HighAvailability" });
  cluster.start();
  await waitForGuest(guest, patienceMs);
  await cluster.waitUntilProtected(patienceMs);
}, 2 * patienceMs);

afterAll(async () => {
  await lab.destroy();
}, patienceMs);

/** How often a guest has come to its services on a host. */
function countBoots(host: PairHost): number {
  return (
    readFileSync(guest.specs[host].serialLog, { encoding: "latin1", flag: "a+" }).split("twinrun: guest ready").length -
    1
  );
}

async function waitForBoot(host: PairHost, before: number): Promise<void> {
  const deadlineMs = Date.now() + patienceMs;
  while (countBoots(host) <= before) {
    if (Date.now() > deadlineMs) {
      throw new Error(`no guest has booted on ${host}; ${(await cluster.readGuests()).map(({ name }) => name).join()}`);
    }
    await sleep(20);
  }
}

async function whoRuns(): Promise<PairHost> {
  const [view] = await cluster.waitUntilProtected(patienceMs);
  if (view?.primary === undefined) {
    throw new Error("nobody runs the guest");
  }
  return view.primary;
}

const startClients = (): Witness[] => startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 5, stallMs: 15_000 });

/** Strikes at the guest of `whoRuns`, and tells how long it took until the other host's booted to its services. */
async function strike(
  fault: (host: PairHost) => unknown,
): Promise<{ readonly bootedMs: number; readonly to: PairHost }> {
  const from = await whoRuns();
  const to = otherHost(from);
  const before = countBoots(to);
  const clients = startClients();
  await sleep(3_000);
  const struckAtMs = Date.now();
  await fault(from);
  await waitForBoot(to, before);
  const bootedMs = Date.now() - struckAtMs;
  const results = await stopWitnesses(clients);
  expect(sumVerdicts(results)).toMatchObject({ duplicated: 0, reordered: 0, wrong: 0 });
  const disk = guest.specs[to].disks.map(({ path }) => path);
  for (const { result } of results) {
    result.acknowledged.forEach((acknowledged, connection) => {
      expect(acknowledged).toBeGreaterThan(20);
      expect(findMissingInImage(disk, connection, acknowledged)).toBeUndefined();
    });
  }
  return { bootedMs, to };
}

test(
  "a pair is in sync, its output passes, and writes are on both disks",
  async () => {
    const primary = await whoRuns();
    const [view] = await cluster.readGuests();
    expect(view?.report).toMatchObject({ outputMode: "leased" });
    const clients = startClients();
    await sleep(5_000);
    const verdict = sumVerdicts(await stopWitnesses(clients));
    expect(verdict).toMatchObject({ survived: 2, lost: 0, broken: 0, wrong: 0 });
    expect(verdict.replies).toBeGreaterThan(50);
    const path = (host: PairHost): string => guest.specs[host].disks[0]?.path ?? "";
    expect((await compareDisks(path(primary), path(otherHost(primary)), 10_000)).differingOffsets).toEqual([]);
  },
  patienceMs,
);

test(
  "its QEMU killed, it boots on the other host",
  async () => {
    const { bootedMs } = await strike((host) => cluster.killQemu(host, guest.name));
    process.stderr.write(`booted ${bootedMs} ms after kill -9\n`);
    await cluster.waitUntilProtected(patienceMs);
  },
  2 * patienceMs,
);

test(
  "its host without power, it boots on the other one within the bound",
  async () => {
    const from = await whoRuns();
    const { bootedMs } = await strike((host) => cluster.powerOff(host));
    process.stderr.write(`booted ${bootedMs} ms after the loss of power\n`);
    expect(bootedMs).toBeLessThan(BOOT_MS_MAX);
    cluster.powerOn(from);
    await cluster.waitUntilProtected(patienceMs);
  },
  2 * patienceMs,
);

test(
  "the links cut and both hosts alive, the guest goes on where it is, and nobody notices",
  async () => {
    const primary = await whoRuns();
    const boots = pairHosts.map(countBoots);
    const clients = startClients();
    await sleep(2_000);
    networks.forEach((network) => {
      lab.cutLink(network);
    });
    await cluster.waitFor("the guest runs alone", ([view]) => view?.report?.state === "alone", patienceMs);
    await sleep(3_000);
    networks.forEach((network) => {
      lab.restoreLink(network);
    });
    expect(await whoRuns()).toBe(primary);
    expect(sumVerdicts(await stopWitnesses(clients))).toMatchObject({ survived: 2, lost: 0, broken: 0, wrong: 0 });
    expect(pairHosts.map(countBoots)).toEqual(boots);
  },
  2 * patienceMs,
);

test(
  "cut off from its peer and the quorum, a guest stands still and is not seen, and the other host's boots",
  async () => {
    const cut = ["replication1", "replication2", "management"] as const;
    const from = await whoRuns();
    const { to } = await strike((host) => {
      cut.forEach((network) => {
        lab.cutLink(network, host);
      });
    });
    const [view] = await cluster.readGuests();
    // The isolated side is asked on its own host, for it still thinks that the guest is its own.
    expect(view?.sides[from]?.report).toMatchObject({ state: "arbitrating", outputMode: "held" });
    cut.forEach((network) => {
      lab.restoreLink(network, from);
    });
    expect(await whoRuns()).toBe(to);
  },
  2 * patienceMs,
);

test(
  "an engine killed shuts the gate by its end: the guest boots on the other host, and was never seen twice",
  async () => {
    await strike((host) => cluster.killEngine(host, guest.name));
    await cluster.waitUntilProtected(patienceMs);
  },
  2 * patienceMs,
);

test(
  "a switchover moves it live, and so is its mode changed: connections last",
  async () => {
    const from = await whoRuns();
    const boots = pairHosts.map(countBoots);
    const clients = startClients();
    await sleep(2_000);
    expect((await cluster.switchOver(from, guest.name)).accepted).toBe(true);
    await cluster.waitFor("it runs on the other host", ([view]) => view?.primary === otherHost(from), patienceMs);
    await cluster.waitUntilProtected(patienceMs);
    cluster.setMode("FaultTolerant", guest.name);
    await cluster.waitFor(
      "its output is held",
      ([view]) => view?.isProtected === true && view.report?.outputMode === "held",
      patienceMs,
    );
    await sleep(2_000);
    cluster.setMode("HighAvailability", guest.name);
    await cluster.waitFor(
      "its output passes",
      ([view]) => view?.isProtected === true && view.report?.outputMode === "leased",
      patienceMs,
    );
    await sleep(2_000);
    expect(sumVerdicts(await stopWitnesses(clients))).toMatchObject({ survived: 2, lost: 0, broken: 0, wrong: 0 });
    expect(pairHosts.map(countBoots)).toEqual(boots);
  },
  2 * patienceMs,
);

test(
  "raised to FaultTolerant it survives the death of its QEMU unseen",
  async () => {
    cluster.setMode("FaultTolerant", guest.name);
    await cluster.waitFor(
      "its output is held",
      ([view]) => view?.isProtected === true && view.report?.outputMode === "held",
      patienceMs,
    );
    const from = await whoRuns();
    const clients = startClients();
    await sleep(1_000);
    await cluster.killQemu(from, guest.name);
    await cluster.waitFor("it runs on the other host", ([view]) => view?.primary === otherHost(from), patienceMs);
    await sleep(2_000);
    expect(sumVerdicts(await stopWitnesses(clients))).toMatchObject({ survived: 2, lost: 0, broken: 0, wrong: 0 });
  },
  2 * patienceMs,
);
