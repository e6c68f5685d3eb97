/**
 * No quorum from the start: nobody knows where the guest belongs, so it runs nowhere until the quorum says so. No quorum later: a
 * pair goes on, and is not handed over, for nobody could say when that is done.
 */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { createCluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { isFlawless, startWitnesses, stopWitnesses, sumVerdicts, waitForReplies } from "../lab/load.ts";
import { pairHosts, placeGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

test(
  "without a quorum the guest waits, and with the quorum it starts once and is protected; without it again it goes on where it is",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      pairHosts.forEach((host) => {
        cluster.startAgent(host);
      });
      const words =
        /quorum does not answer: .*so it is not started here; check the quorum service \(.*10\.77\.3\.3 port 7400.*start/;
      for (const host of pairHosts) {
        await cluster.waitForWords(host, guest.name, words, patienceMs / 4);
      }
      await sleep(3000);
      const waiting = await cluster.readGuest(guest.name);
      for (const host of pairHosts) {
        expect(waiting.sides[host]).toMatchObject({
          qemu: null,
          engineRestartsCount: 0,
          report: { state: "starting" },
        });
      }

      cluster.startQuorum();
      await waitForGuest(guest, patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
      const [view] = await cluster.waitUntilProtected(patienceMs / 4);
      expect(view).toMatchObject({ primary: "a" });
      await sleep(2000);

      await cluster.quorum.stop("SIGKILL");
      await cluster.waitForWords("a", guest.name, /quorum does not answer: a healthy pair goes on/, patienceMs / 4);
      expect(await cluster.switchOver("a", guest.name)).toMatchObject({
        accepted: false,
        message: expect.stringMatching(
          /a switchover needs the quorum, which does not answer: .*10\.77\.3\.3 port 7400/,
        ),
      });
      await waitForReplies(witnesses, 20, patienceMs / 4);
      cluster.startQuorum();
      await cluster.waitFor(
        "the quorum is seen again, and the guest can be moved",
        ([now]) => now?.report?.conditions.every(({ status }) => status !== "False") === true,
        patienceMs / 4,
      );
      expect((await cluster.switchOver("a", guest.name)).accepted).toBe(true);
      await cluster.waitFor("the guest runs on B", ([now]) => now?.primary === "b", patienceMs / 4);
      await waitForReplies(witnesses, 20, patienceMs / 4);

      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      expect(verdict.replies).toBeGreaterThan(0);
    });
  },
  patienceMs,
);
