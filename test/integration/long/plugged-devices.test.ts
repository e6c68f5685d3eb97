/** What is plugged into a guest, or taken out of it, past everything that refuses it, where there is more to it than a takeover. */
import { expect, test } from "@jest/globals";
import {
  ask,
  patienceMs,
  plugDisk,
  readHuman,
  tellToClients,
  waitForFault,
  waitUntilOnB,
  withMonitor,
} from "../guest-story.ts";

test(
  "in HighAvailability a disk that is plugged in is told, and the guest runs on with it",
  async () => {
    await tellToClients({ mode: "HighAvailability", options: { secondMonitor: true } }, async (story) => {
      await withMonitor(story, "a", (monitor) => plugDisk(story, monitor));
      await waitForFault(story);
      const [view] = await story.cluster.waitUntilProtected(patienceMs);
      expect(view?.primary).toBe("a");
      expect(await ask(story, "devices")).toBe("vda vdb eth0 1");
    });
  },
  2 * patienceMs,
);

test(
  "a disk that is plugged into a guest without a standby stays, and the reason why there is none any more is told",
  async () => {
    await tellToClients({ options: { secondMonitor: true } }, async (story) => {
      const { cluster, guest } = story;
      await cluster.powerOff("b");
      await cluster.waitFor("it is alone", ([view]) => view?.sides.a?.report?.state === "alone", patienceMs);
      await withMonitor(story, "a", (monitor) => plugDisk(story, monitor));
      cluster.powerOn("b");
      await cluster.waitForWords("a", guest.name, /has 2 devices virtio-blk-pci, the standby's QEMU 1/, patienceMs);
      expect(await ask(story, "devices")).toBe("vda vdb eth0 1");
      // The guest has a say in it, and its disk goes when it has let it go.
      await readHuman(story, "a", "device_del plugged");
      await cluster.waitUntilProtected(patienceMs);
      expect(await ask(story, "devices")).toBe("vda eth0 1");
      await cluster.killQemu("a", guest.name);
      await waitUntilOnB(story);
    });
  },
  3 * patienceMs,
);

test(
  "a disk that the guest lets go of is gone on whichever side; clients notice nothing, and why no standby is taken is told",
  async () => {
    await tellToClients({ disksCount: 3, options: { secondMonitor: true } }, async (story) => {
      const { cluster, guest } = story;
      await readHuman(story, "a", "device_del disk2-device");
      await cluster.waitFor("the guest runs on B", ([view]) => view?.primary === "b", patienceMs);
      // It was asked to before the epoch from which it goes on, and lets it go there as well.
      await cluster.waitForWords("b", guest.name, /has 2 devices virtio-blk-pci, the standby's QEMU 3/, patienceMs);
      expect(await ask(story, "devices")).toBe("vda vdb eth0 1");
      await waitForFault(story);
    });
  },
  2 * patienceMs,
);
