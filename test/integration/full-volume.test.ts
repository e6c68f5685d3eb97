/** The standby's volume is full: the guest serves on without it, and is protected again when there is room. */
import { expect, test } from "@jest/globals";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { createCluster } from "../lab/cluster.ts";
import { compareDisks } from "../lab/disk-comparison.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { countReplies, isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";

const patienceMs = 300_000;
/** An empty guest fits in; what its clients write within a few seconds does not. */
const smallBytes = 128 * 1024;
const enoughBytes = 256 * 1024 * 1024;

test(
  "a full volume of the standby costs protection, nothing else, until it is enlarged",
  async () => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const volume = join(lab.diskDirectory("b"), "guest");
      lab.mountVolume(volume, smallBytes);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      await cluster.waitUntilProtected(patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 4, thinkMs: 10, stallMs: 60_000 });

      const words = /writing .* failed: ENOSPC.*; free or replace the standby's volume, then it is synchronised anew/;
      const refused = await cluster.waitForWords("a", guest.name, words, patienceMs / 4);
      expect(refused).toMatchObject({ primary: "a", isProtected: false });
      await cluster.waitForWords("b", guest.name, words, patienceMs / 4);
      // As often as it is tried now, the standby does not claim what it has not on its disk.
      const fullSinceMs = Date.now();
      const repliesWhenFull = countReplies(witnesses);
      await sleep(8000);
      const claims = cluster.transitions.b.all.filter(({ to, atMs }) => to === "holding" && atMs > fullSinceMs);
      expect(claims).toEqual([]);
      expect(countReplies(witnesses)).toBeGreaterThan(repliesWhenFull + 100);

      lab.resizeVolume(volume, enoughBytes);
      await cluster.waitUntilProtected(patienceMs / 4);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      const [a, b] = (["a", "b"] as const).map((host) => present(guest.specs[host].disks[0], "a disk").path);
      const { differingOffsets } = await compareDisks(present(a, "disk on A"), present(b, "disk on B"), 10_000);
      expect(differingOffsets).toEqual([]);
    });
  },
  patienceMs,
);
