/** What a guest does to itself while it is protected: it starts anew, its kernel panics, it switches itself off. */
import { expect, test } from "@jest/globals";
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { type Cluster } from "../lab/cluster.ts";
import { tellGuest } from "../lab/guest-acts.ts";
import { secondMonitorOf } from "../lab/guests.ts";
import { pairHosts, type PlacedGuest } from "../lab/placement.ts";
import { expectUnnoticed, patienceMs, tellOfGuest, waitUntilOnB } from "./guest-story.ts";

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

test(
  "a guest that reboots, or whose kernel panics and resets it, stays protected on its side; it reboots where it was taken over, too",
  async () => {
    await tellOfGuest({ options: { display: true } }, async (story) => {
      const { lab, cluster, guest } = story;
      for (const [index, act] of (["reboot", "panic"] as const).entries()) {
        await tellGuest(lab, guest, act);
        await waitForBoots(guest, index + 2);
        expect((await cluster.readGuest(guest.name)).primary).toBe("a");
        await cluster.waitUntilProtected(patienceMs);
      }
      await expectUnnoticed(story, async () => {
        await cluster.killQemu("a", guest.name);
        await waitUntilOnB(story);
      });
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
    await tellOfGuest({ options: { devices } }, async ({ lab, cluster, guest }) => {
      await tellGuest(lab, guest, act);
      await expectEnd(cluster, guest);
    });
  },
  2 * patienceMs,
);

test(
  "a guest that stands still because it panicked is not taken over when its QEMU is ended for that, as libvirt does",
  async () => {
    await tellOfGuest(
      { options: { devices: ["panic-pauses"], secondMonitor: true } },
      async ({ lab, cluster, guest }) => {
        await tellGuest(lab, guest, "panic");
        const monitor = await QmpClient.connect(secondMonitorOf(guest.specs.a));
        while ((await monitor.execute("query-status", {})).status !== "guest-panicked") {
          await sleep(100);
        }
        monitor.close();
        await cluster.endQemu("a", guest.name);
        await expectEnd(cluster, guest);
      },
    );
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
