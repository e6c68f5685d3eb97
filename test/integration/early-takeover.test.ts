/** The primary dies while its guest still boots: the boot goes on where it was, on the other host. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { createCluster } from "../lab/cluster.ts";
import { isReadyOn, waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

test(
  "a guest that is taken over while it boots comes up on the other host",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      cluster.start();
      await cluster.waitUntilProtected(patienceMs / 4);
      const killedAtMs = await cluster.killQemu("a", guest.name);
      expect(isReadyOn(guest, "a")).toBe(false);

      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs / 4);
      await waitForGuest(guest, patienceMs / 4);
      expect(isReadyOn(guest, "b")).toBe(true);
      // It was taken over, not started a second time.
      expect(await cluster.awaitTakeover("b", guest.name, killedAtMs, patienceMs / 4)).toBeDefined();
      const boots = cluster.transitions.b.all.filter(({ to }) => to === "booting");
      expect(boots).toEqual([]);

      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
      await cluster.waitUntilProtected(patienceMs / 4);
      await sleep(2000);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      expect(verdict.replies).toBeGreaterThan(0);
    });
  },
  patienceMs,
);
