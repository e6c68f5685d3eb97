/** The cable by which clients reach a guest is pulled out: the guest goes to the host that still has one. */
import { expect, test } from "@jest/globals";
import { createCluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import {
  findLongestWait,
  isFlawless,
  startWitnesses,
  stopWitnesses,
  sumVerdicts,
  waitForReplies,
} from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";
import { setTimeout as sleep } from "node:timers/promises";

const patienceMs = 300_000;

test(
  "a guest whose clients cannot reach it any more moves to the other host, without losing a connection",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a", uplinks: ["guest"] });
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      await cluster.waitUntilProtected(patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 4, thinkMs: 10, stallMs: patienceMs });
      await waitForReplies(witnesses, 20, patienceMs / 4);

      const pulledAtMs = Date.now();
      lab.pullCable("guest", "a");
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs / 4);
      await waitForReplies(witnesses, 20, patienceMs / 4);
      // It was handed over, and with the cable still out its standby on A is in sync again.
      await cluster.waitUntilProtected(patienceMs / 4);
      expect(cluster.transitions.a.all.some(({ to }) => to === "handingOver")).toBe(true);
      expect((await cluster.readGuest(guest.name)).primary).toBe("b");

      // It does not go where there is no cable either.
      lab.pullCable("guest", "b");
      await sleep(3000);
      expect((await cluster.readGuest(guest.name)).primary).toBe("b");
      lab.plugCable("guest", "b");
      lab.plugCable("guest", "a");
      await waitForReplies(witnesses, 20, patienceMs / 4);
      const results = await stopWitnesses(witnesses);
      const verdict = sumVerdicts(results);
      expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      const waitMs = findLongestWait(results, guest.name, pulledAtMs, pulledAtMs + 10_000);
      process.stdout.write(`longest wait of a client when the cable was pulled out: ${waitMs.toFixed(0)} ms\n`);
    });
  },
  patienceMs,
);
