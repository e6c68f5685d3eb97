/** QEMU is ended in order, as libvirt does when its machine is destroyed: the standby goes on, as after kill -9. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { createCluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";

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
