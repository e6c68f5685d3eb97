/** What a guest does to itself while it is protected: it starts anew, its kernel panics, it switches itself off. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { tellGuest } from "../lab/guest-acts.ts";
import { secondMonitorOf } from "../lab/guests.ts";
import {
  countBoots,
  expectEnd,
  expectUnnoticed,
  patienceMs,
  tellOfGuest,
  waitForBoots,
  waitUntilOnB,
} from "./guest-story.ts";

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

test(
  "a guest that switches itself off ends on both sides, and on none starts again",
  async () => {
    await tellOfGuest({}, async (story) => {
      await tellGuest(story.lab, story.guest, "poweroff");
      await expectEnd(story);
    });
  },
  2 * patienceMs,
);

test(
  "a guest that stands still because it panicked is not taken over when its QEMU is ended for that, as libvirt does",
  async () => {
    await tellOfGuest({ options: { devices: ["panic-pauses"], secondMonitor: true } }, async (story) => {
      const { lab, cluster, guest } = story;
      await tellGuest(lab, guest, "panic");
      const monitor = await QmpClient.connect(secondMonitorOf(guest.specs.a));
      while ((await monitor.execute("query-status", {})).status !== "guest-panicked") {
        await sleep(100);
      }
      monitor.close();
      await cluster.endQemu("a", guest.name);
      await expectEnd(story);
    });
  },
  2 * patienceMs,
);
