/** What a guest does to itself while it is protected: it starts anew, its kernel panics, it switches itself off. */
import { expect, test } from "@jest/globals";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { type Cluster, createCluster } from "../lab/cluster.ts";
import { tellGuest } from "../lab/guest-acts.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { type GuestOptions, secondMonitorOf } from "../lab/guests.ts";
import { type Lab, withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts, waitForReplies } from "../lab/load.ts";
import { pairHosts, placeGuest, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 180_000;
/** What is looked at here is not how fast a fault is noticed. */
const detectionTimeoutMs = 2_000;

type Story = { readonly lab: Lab; readonly cluster: Cluster; readonly guest: PlacedGuest };

async function tell(
  options: Partial<Omit<GuestOptions, "firmware">>,
  story: (story: Story) => Promise<void>,
): Promise<void> {
  await withLab({}, async (lab) => {
    const image = await provideImage("busybox", () => undefined);
    const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, options }, "a");
    const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a", failover: { detectionTimeoutMs } });
    cluster.start();
    await waitForGuest(guest, patienceMs);
    await cluster.waitUntilProtected(patienceMs);
    await story({ lab, cluster, guest });
  });
}

/** Both sides' serial lines together: a guest goes on writing where it goes on. */
const countBoots = ({ specs }: PlacedGuest): number =>
  pairHosts
    .map((host) => specs[host].serialLog)
    .flatMap((path) => (existsSync(path) ? (readFileSync(path, "latin1").match(/twinrun: guest ready/g) ?? []) : []))
    .length;

async function waitForBoots(guest: PlacedGuest, count: number): Promise<void> {
  const deadlineMs = Date.now() + patienceMs;
  while (countBoots(guest) < count) {
    if (Date.now() > deadlineMs) {
      throw new Error(`the guest has come up ${countBoots(guest)} times, not ${count}`);
    }
    await sleep(100);
  }
  expect(countBoots(guest)).toBe(count);
}

/** Nobody whom it answers from now on notices that its QEMU is killed. */
async function expectSurvival({ lab, cluster, guest }: Story): Promise<void> {
  const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
  await waitForReplies(witnesses, 20, patienceMs);
  await cluster.killQemu("a", guest.name);
  await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
  await cluster.waitUntilProtected(patienceMs);
  await waitForReplies(witnesses, 20, patienceMs);
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(isFlawless(verdict)).toBe(true);
}

test(
  "a guest that reboots, or whose kernel panics and resets it, stays protected on its side; it reboots where it was taken over, too",
  async () => {
    await tell({ display: true }, async (story) => {
      const { lab, cluster, guest } = story;
      for (const [index, act] of (["reboot", "panic"] as const).entries()) {
        await tellGuest(lab, guest, act);
        await waitForBoots(guest, index + 2);
        expect((await cluster.readGuest(guest.name)).primary).toBe("a");
        await cluster.waitUntilProtected(patienceMs);
      }
      await expectSurvival(story);
      expect(countBoots(guest)).toBe(3);
      await tellGuest(lab, guest, "reboot");
      await waitForBoots(guest, 4);
      const [view] = await cluster.waitUntilProtected(patienceMs);
      expect(view?.primary).toBe("b");
    });
  },
  4 * patienceMs,
);

test.each([
  { what: "switches itself off", act: "poweroff", devices: [] },
  { what: "tells a panic device that its kernel panics", act: "panic", devices: ["panic"] },
] as const)(
  "a guest that $what ends on both sides, and on none starts again",
  async ({ act, devices }) => {
    await tell({ devices }, async ({ lab, cluster, guest }) => {
      await tellGuest(lab, guest, act);
      await expectEnd(cluster, guest);
    });
  },
  2 * patienceMs,
);

test(
  "a guest that stands still because it panicked is not taken over when its QEMU is ended for that, as libvirt does",
  async () => {
    await tell({ devices: ["panic-pauses"], secondMonitor: true }, async ({ lab, cluster, guest }) => {
      await tellGuest(lab, guest, "panic");
      const monitor = await QmpClient.connect(secondMonitorOf(guest.specs.a));
      while ((await monitor.execute("query-status", {})).status !== "guest-panicked") {
        await sleep(100);
      }
      monitor.close();
      await cluster.endQemu("a", guest.name);
      await expectEnd(cluster, guest);
    });
  },
  2 * patienceMs,
);

async function expectEnd(cluster: Cluster, guest: PlacedGuest): Promise<void> {
  const [view] = await cluster.waitFor(
    "both sides rest",
    ([now]) => pairHosts.every((host) => now?.sides[host]?.supervision === "ended"),
    patienceMs,
  );
  expect(pairHosts.map((host) => view?.sides[host]?.qemu ?? null)).toEqual([null, null]);
  expect(countBoots(guest)).toBe(1);
}
