/** One of two replication links is lost: the guest is protected all the time, whichever carried the data. */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { type Story, patienceMs, tellToClients } from "./guest-story.ts";

const links = ["replication1", "replication2"] as const;
/** Longer than either side waits before it gives a silent link up. */
const cutMs = 2_500;

const isAlive = (report: { readonly links: readonly { readonly alive: boolean }[] } | null | undefined): boolean =>
  report?.links.every(({ alive }) => alive) === true;

test(
  "a guest that loses one replication link after the other stays protected, and its host may die while one is cut",
  async () => {
    await tellToClients({ disksCount: 2 }, async (story) => {
      const { lab, cluster, guest } = story;
      const sinceMs = Date.now();
      for (const network of links) {
        lab.cutLink(network);
        await sleep(cutMs);
        lab.restoreLink(network);
        await waitForLinks(story);
      }
      expect(cluster.listTransitions(guest.name, sinceMs)).toEqual([]);
      lab.cutLink(links[0]);
      await sleep(cutMs);
      await cluster.powerOff("a");
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
      lab.restoreLink(links[0]);
      cluster.powerOn("a");
      await cluster.waitUntilProtected(patienceMs);
    });
  },
  3 * patienceMs,
);

async function waitForLinks({ cluster, guest }: Story): Promise<void> {
  await cluster.waitFor(
    "both links are up",
    ([view]) => Object.values(present(view, guest.name).sides).every((side) => isAlive(side?.report)),
    patienceMs,
  );
}
