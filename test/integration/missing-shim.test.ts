/** An agent that was not told of the shim: its guests run, the pair stays unprotected, and the status says which host it is. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { createCluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest, type PairHost } from "../lab/placement.ts";

const patienceMs = 300_000;

test.each<{ readonly host: PairHost; readonly side: string }>([
  { host: "a", side: "the primary's host" },
  { host: "b", side: "the standby's host" },
])(
  "without the shim on $side the guest serves unprotected",
  async ({ host }) => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a", withoutShim: [host] });
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });

      const words = /QEMU \d+ runs without the twinrun shim: name twinrun-shim\.so as "shim" in the agent's file/;
      const said = await cluster.waitForWords(host, guest.name, words, patienceMs / 4);
      expect(said).toMatchObject({ primary: "a", isProtected: false });
      await sleep(3000);

      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      expect(verdict.replies).toBeGreaterThan(20);
      // It is the same QEMU and the same engine all the time, not one that is started again and again.
      const after = await cluster.readGuest(guest.name);
      expect(after).toMatchObject({ primary: "a", isProtected: false });
      for (const side of ["a", "b"] as const) {
        expect(after.sides[side]).toMatchObject({ supervision: "running", engineRestartsCount: 0, trouble: null });
      }
    });
  },
  patienceMs,
);
