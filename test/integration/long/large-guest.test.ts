/** As many processors, disks and network cards as a guest may have. */
import { expect, test } from "@jest/globals";
import { present } from "../../../src/lib/assert.ts";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { guestPorts } from "../../lab/guests.ts";
import { ask, patienceMs, tellToClients, waitUntilOnB } from "../guest-story.ts";

test(
  "a guest with 16 processors, 8 disks and 4 network cards survives a kill of its QEMU, with all of them and equal disks",
  async () => {
    const options = { vcpuCount: 16, memoryMiB: 256 };
    await tellToClients({ options, disksCount: 8, nicsCount: 4 }, async (story) => {
      const { lab, cluster, guest } = story;
      await cluster.killQemu("a", guest.name);
      await waitUntilOnB(story);
      expect(await ask(story, "devices")).toBe("vda vdb vdc vdd vde vdf vdg vdh eth0 eth1 eth2 eth3 16");
      for (const [index, { address, mac }] of guest.specs.b.nics.entries()) {
        // A guest answers for all its addresses on any of its cards.
        lab.run("c", ["ip", "neigh", "replace", address, "lladdr", mac, "dev", "guest"]);
        const talk = `exec 3<>/dev/tcp/${address}/${guestPorts.echo + index}; echo card >&3; head -n 1 <&3`;
        expect(await lab.execute("c", ["timeout", "60", "bash", "-c", talk])).toBe("card\n");
      }
      for (const [index, { path }] of guest.specs.a.disks.entries()) {
        const other = present(guest.specs.b.disks[index], "the other side's disk").path;
        expect((await compareDisks(path, other, 10_000)).differingOffsets).toEqual([]);
      }
    });
  },
  4 * patienceMs,
);
