/**
 * A guest that starts anew by itself: a reboot, a kernel that panics (with panic=1 it resets the machine, as most are told to), a
 * triple fault. To QEMU all of them are one thing, a reset that the guest asked for; here somebody asks for it at the monitor, by
 * the same path. The guest stays protected, and what boots can be lost and taken over like any other.
 */
import { expect, test } from "@jest/globals";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { createCluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { secondMonitorOf } from "../lab/guests.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { countReplies, isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { pairHosts, placeGuest, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 300_000;
const bootsOf = ({ specs }: PlacedGuest): number =>
  pairHosts.flatMap((host) => {
    try {
      return readFileSync(specs[host].serialLog, "latin1").match(/twinrun: guest ready/g) ?? [];
    } catch {
      return []; // It never ran there.
    }
  }).length;

test(
  "a guest that resets itself stays protected, and survives the loss of its QEMU afterwards",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const options = { secondMonitor: true, display: true, vcpuCount: 2 };
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, options }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      cluster.start();
      await waitForGuest(guest, patienceMs);
      await cluster.waitUntilProtected(patienceMs);
      const before = bootsOf(guest);

      const monitor = await QmpClient.connect(secondMonitorOf(guest.specs.a));
      await monitor.execute("system_reset", {});
      monitor.close();
      while (bootsOf(guest) === before) {
        await sleep(100);
      }
      await cluster.waitUntilProtected(patienceMs);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
      while (countReplies(witnesses) < 20) {
        await sleep(100);
      }
      await cluster.killQemu("a", guest.name);
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
      await cluster.waitUntilProtected(patienceMs);
      const repliesCount = countReplies(witnesses);
      while (countReplies(witnesses) < repliesCount + 20) {
        await sleep(100);
      }
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(isFlawless(verdict)).toBe(true);
      expect(bootsOf(guest)).toBe(before + 1);
    });
  },
  2 * patienceMs,
);
