/** Stories about one guest on two hosts: how they begin and end, and what they do at its monitor. */
import { expect } from "@jest/globals";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { type AvailabilityMode } from "../../src/protocol/messages.ts";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { type Cluster, createCluster } from "../lab/cluster.ts";
import { askGuest } from "../lab/guest-acts.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { secondMonitorOf } from "../lab/guests.ts";
import { type Lab, withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts, waitForReplies } from "../lab/load.ts";
import { pairHosts, placeGuest, type GuestRequest, type PairHost, type PlacedGuest } from "../lab/placement.ts";

export const patienceMs = 180_000;
/** What is looked at here is not how fast a fault is noticed. */
const detectionTimeoutMs = 2_000;

export type Story = { readonly lab: Lab; readonly cluster: Cluster; readonly guest: PlacedGuest };
export type StoryGuest = Partial<GuestRequest> & { readonly mode?: AvailabilityMode };

/** Told while the guest is protected, on A. */
export async function tellOfGuest(
  { mode = "FaultTolerant", ...request }: StoryGuest,
  story: (story: Story) => Promise<void>,
): Promise<void> {
  await withLab({}, async (lab) => {
    const image = await provideImage("busybox", () => undefined);
    const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, ...request }, "a");
    const cluster = await createCluster(lab, {
      guests: [guest],
      firstPrimary: "a",
      mode,
      failover: { detectionTimeoutMs },
    });
    cluster.start();
    await waitForGuest(guest, patienceMs);
    await cluster.waitUntilProtected(patienceMs);
    await story({ lab, cluster, guest });
  });
}

/** The same, with clients that notice nothing from its beginning to its end. */
export function tellToClients(guest: StoryGuest, story: (story: Story) => Promise<void>): Promise<void> {
  return tellOfGuest(guest, (told) => expectUnnoticed(told, () => story(told)));
}

export async function expectUnnoticed({ lab, guest }: Story, happens: () => Promise<void>): Promise<void> {
  const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
  await waitForReplies(witnesses, 20, patienceMs);
  await happens();
  await waitForReplies(witnesses, 20, patienceMs);
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(isFlawless(verdict)).toBe(true);
}

export async function waitUntilOnB({ cluster }: Story): Promise<void> {
  await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
  await cluster.waitUntilProtected(patienceMs);
}

/** As libvirt, or a person past it, has one. */
export async function withMonitor<Result>(
  { guest }: Story,
  host: PairHost,
  work: (monitor: QmpClient) => Promise<Result>,
): Promise<Result> {
  const monitor = await QmpClient.connect(secondMonitorOf(guest.specs[host]));
  try {
    return await work(monitor);
  } finally {
    monitor.close();
  }
}

export const ask = ({ lab, guest }: Story, line: string): Promise<string> => askGuest(lab, guest, line, patienceMs);

export const readHuman = (story: Story, host: PairHost, line: string): Promise<string> =>
  withMonitor(story, host, (monitor) => monitor.execute("human-monitor-command", { "command-line": line }));

export async function waitForFault({ lab, guest }: Story): Promise<void> {
  const path = join(lab.runDirectory("a"), guest.name, "faults.json");
  const deadlineMs = Date.now() + patienceMs;
  while (!existsSync(path) || !readFileSync(path, "utf8").includes("DevicesChanged")) {
    expect(Date.now()).toBeLessThan(deadlineMs);
    await sleep(100);
  }
}

export async function plugDisk({ guest }: Story, monitor: QmpClient): Promise<void> {
  const filename = `${present(guest.specs.a.disks[0], "a disk").path}.plugged`;
  writeFileSync(filename, Buffer.alloc(2 ** 20));
  await monitor.execute("blockdev-add", { driver: "file", "node-name": "plugged", filename });
  const said = await monitor.execute("human-monitor-command", {
    "command-line": "device_add virtio-blk-pci,drive=plugged,id=plugged",
  });
  expect(said).toBe("");
}

/** Both sides' serial lines together: a guest goes on writing where it goes on. */
export const countBoots = ({ specs }: PlacedGuest): number =>
  pairHosts
    .map((host) => specs[host].serialLog)
    .flatMap((path) => (existsSync(path) ? (readFileSync(path, "latin1").match(/twinrun: guest ready/g) ?? []) : []))
    .length;

export async function waitForBoots(guest: PlacedGuest, count: number): Promise<void> {
  const deadlineMs = Date.now() + patienceMs;
  while (countBoots(guest) < count) {
    if (Date.now() > deadlineMs) {
      throw new Error(`the guest has come up ${countBoots(guest)} times, not ${count}`);
    }
    await sleep(100);
  }
  expect(countBoots(guest)).toBe(count);
}

/** The guest has ended by itself: on both sides, and on none does it start again. */
export async function expectEnd({ cluster, guest }: Story, bootsCount = 1): Promise<void> {
  const [view] = await cluster.waitFor(
    "both sides rest",
    ([now]) => pairHosts.every((host) => now?.sides[host]?.supervision === "ended"),
    patienceMs,
  );
  expect(pairHosts.map((host) => view?.sides[host]?.qemu ?? null)).toEqual([null, null]);
  expect(countBoots(guest)).toBe(bootsCount);
}
