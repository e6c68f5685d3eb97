/**
 * One side is ended in order, as KubeVirt does it: QEMU is told to end, or the guest to shut down. The standby goes on as after
 * kill -9, from a moment at which nobody had asked anything of the guest.
 */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { createCluster } from "../lab/cluster.ts";
import { QmpClient } from "../../src/qemu/qmp-client.ts";
import { QmpFailure } from "../../src/qemu/qmp-failure.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { secondMonitorOf } from "../lab/guests.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { type PairHost, placeGuest, type PlacedGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

test(
  "a QEMU that is told to end loses its clients nothing",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
      await cluster.waitUntilProtected(patienceMs / 4);
      await sleep(1000);
      const endedAtMs = await cluster.endQemu("a", guest.name);
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs / 4);
      expect(await cluster.awaitTakeover("b", guest.name, endedAtMs, patienceMs / 4)).toBeDefined();
      await cluster.waitUntilProtected(patienceMs / 4);
      await sleep(1000);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
    });
  },
  patienceMs,
);

test(
  "a power button that is pressed on a protected guest loses its clients nothing; on one that is alone it shuts the guest down",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const options = { secondMonitor: true };
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0, options }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 5, stallMs: 60_000 });
      // Several times: each meets another moment of a checkpoint.
      for (const [host, other] of [
        ["a", "b"],
        ["b", "a"],
        ["a", "b"],
        ["b", "a"],
      ] as const) {
        await cluster.waitUntilProtected(patienceMs / 4);
        await sleep(500);
        await pressPowerButton(guest, host);
        await cluster.waitFor(`the guest runs on ${other}`, ([view]) => view?.primary === other, patienceMs / 4);
      }
      await cluster.waitUntilProtected(patienceMs / 4);
      await sleep(1000);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });

      await cluster.powerOff("b");
      await cluster.waitFor("the guest is alone", ([view]) => view?.sides.a?.report?.state === "alone", patienceMs / 4);
      await pressPowerButton(guest, "a");
      await cluster.waitFor(
        "the guest has shut itself down",
        ([view]) => view?.sides.a?.supervision === "ended",
        patienceMs / 4,
      );
    });
  },
  2 * patienceMs,
);

async function pressPowerButton(guest: PlacedGuest, host: PairHost): Promise<void> {
  const monitor = await QmpClient.connect(secondMonitorOf(guest.specs[host]));
  // Where a standby goes on this QEMU is ended at once, which may be before it has answered.
  await monitor.execute("system_powerdown", {}).catch((error: unknown) => {
    if (!(error instanceof QmpFailure) || error.detail.code !== "QmpClosed") {
      throw error;
    }
  });
  monitor.close();
}
