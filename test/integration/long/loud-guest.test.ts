/** A guest that changes much memory beside one that does not, over links that carry little. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { startClient } from "../../lab/clients/client-process.ts";
import { type Cluster, createCluster, type GuestView } from "../../lab/cluster.ts";
import { askGuest } from "../../lab/guest-acts.ts";
import { waitForGuest } from "../../lab/guest-health.ts";
import { type Lab, withLab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import {
  isFlawless,
  startWitnesses,
  stopWitnesses,
  sumVerdicts,
  waitForReplies,
  type Witness,
} from "../../lab/load.ts";
import { type PlacedGuest, placeGuest } from "../../lab/placement.ts";

const patienceMs = 120_000;
const MIB = 2 ** 20;
const LINK_MIB_PER_SECOND = 6;
/** The rest of the link is for others. */
const DECLARED_MIB_PER_SECOND = 3;
const BOUND_MS = 150;
const MEASURED_MS = 10_000;

async function placeGuests(lab: Lab): Promise<readonly [PlacedGuest, PlacedGuest]> {
  const image = await provideImage("busybox", () => undefined);
  const place = (name: string, index: number): PlacedGuest =>
    placeGuest(lab, { name, kind: "busybox", image, index }, "a");
  return [place("quiet", 0), place("loud", 1)];
}

function startEcho(lab: Lab, { name, address }: PlacedGuest): Witness {
  const options = { host: address, memoryOnly: true, thinkMs: 20, stallMs: patienceMs };
  return { name: "echo", guest: name, client: startClient(lab, "counted", options) };
}

const find = (views: readonly GuestView[], name: string): GuestView =>
  present(
    views.find((view) => view.name === name),
    name,
  );

const isWithinBound = ({ report }: GuestView): boolean =>
  report?.conditions.some(({ type, status }) => type === "LatencyWithinBound" && status === "True") === true;

/** What the engine sends over some seconds, in MiB a second. */
async function measureRate(cluster: Cluster, guest: string): Promise<number> {
  const read = async (): Promise<{ readonly sentBytes: number; readonly atMs: number }> => {
    const { report } = await cluster.readGuest(guest);
    return { sentBytes: present(report, guest).checkpoint.sentBytes, atMs: performance.now() };
  };
  const before = await read();
  await sleep(MEASURED_MS);
  const after = await read();
  return ((after.sentBytes - before.sentBytes) / (after.atMs - before.atMs)) * (1_000 / MIB);
}

test(
  "it is held to its share once somebody says what the links carry: the other one is within its bound, and nobody loses a reply",
  () =>
    withLab({}, async (lab) => {
      const guests = await placeGuests(lab);
      const [quiet, loud] = guests;
      const checkpoint = { maxAddedLatencyMs: BOUND_MS };
      const cluster = await createCluster(lab, {
        ...{ guests, firstPrimary: "a", checkpoint, failover: { detectionTimeoutMs: 5_000 } },
      });
      cluster.start();
      await Promise.all(guests.map((guest) => waitForGuest(guest, patienceMs)));
      await cluster.waitUntilProtected(patienceMs);
      for (const network of ["replication1", "replication2"] as const) {
        lab.narrowLink(network, { mibPerSecond: LINK_MIB_PER_SECOND, bufferMs: 4 * BOUND_MS });
      }
      const witnesses = [startEcho(lab, quiet)];
      // Nobody asks the loud one yet: one that is itself too late is slowed down for that.
      expect(await askGuest(lab, loud, "churn 8", patienceMs)).toBe("done");
      expect(await measureRate(cluster, loud.name)).toBeGreaterThan(DECLARED_MIB_PER_SECOND);

      const linkCapacity = { ownMiBPerSecond: DECLARED_MIB_PER_SECOND, peerMiBPerSecond: DECLARED_MIB_PER_SECOND };
      guests.forEach(({ name }) => {
        cluster.reassign(name, { checkpoint, linkCapacity });
      });
      const isHeld = (views: readonly GuestView[], guest: PlacedGuest): boolean =>
        find(views, guest.name).report?.linkShare?.isHeldTo === true;
      await cluster.waitFor("the loud guest is held to its share", (views) => isHeld(views, loud), patienceMs);
      // What it is asked needs its disk as well, whose writes have their part of the share.
      witnesses.push(...startWitnesses(lab, loud, { connectionsCount: 1, thinkMs: 20, stallMs: patienceMs }));
      await cluster.waitForWords("a", loud.name, /more than its share of the links carries \(\d+ MiB\/s/, patienceMs);
      const rate = await measureRate(cluster, loud.name);
      expect(rate).toBeLessThan(DECLARED_MIB_PER_SECOND);
      expect(rate).toBeGreaterThan(DECLARED_MIB_PER_SECOND / 4);
      await cluster.waitFor(
        "the quiet guest is within its bound, and not held",
        (views) => isWithinBound(find(views, quiet.name)) && !isHeld(views, quiet),
        patienceMs,
      );
      await waitForReplies(witnesses, 20, patienceMs);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);

      expect(await askGuest(lab, loud, "rest", patienceMs)).toBe("done");
      await cluster.waitFor("nobody is held to a share", (views) => !isHeld(views, loud), patienceMs);
      await cluster.stop();
    }),
  6 * patienceMs,
);
