/** What devices of a guest are after a takeover, and what comes of changing them while it is protected. */
import { expect, test } from "@jest/globals";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { QmpFailure } from "../../src/qemu/qmp-failure.ts";
import { askAgent } from "../lab/guest-acts.ts";
import { agentChannelOf } from "../lab/guests.ts";
import { type PairHost } from "../lab/placement.ts";
import {
  ask,
  patienceMs,
  plugDisk,
  readHuman,
  type Story,
  tellToClients,
  waitForFault,
  waitUntilOnB,
  withMonitor,
} from "./guest-story.ts";

test(
  "display, balloon and frozen file systems are after a takeover what they were before; its disks are not resized",
  async () => {
    const options = {
      vcpuCount: 4,
      memoryMiB: 192,
      display: true,
      secondMonitor: true,
      devices: ["agent", "balloon"] as const,
    };
    await tellToClients({ disksCount: 3, options }, async (story) => {
      const { cluster, guest } = story;
      const agent = (host: PairHost, command: string): Promise<unknown> =>
        askAgent(agentChannelOf(guest.specs[host]), command, patienceMs);
      expect(await ask(story, "devices")).toBe("vda vdb vdc eth0 4");
      const blank = await readScreen(story, "a");
      expect(await ask(story, "draw twinrun")).toBe("done");
      const drawn = await readScreen(story, "a");
      expect(drawn.equals(blank)).toBe(false);
      await setBalloon(story, "a", 128);
      const remembered = await ask(story, "remember");
      expect(remembered).toMatch(/^[0-9a-f]{40}/);
      expect(await ask(story, "mount vdc")).toBe("done");
      expect(await ask(story, "write before")).toBe("before");
      expect(await agent("a", "guest-fsfreeze-freeze")).toEqual({ return: 1 });
      await expectNoResize(story);
      // What the agent says is not held back until the standby has it; what comes over the network is.
      expect(await ask(story, "devices")).toBe("vda vdb vdc eth0 4");
      await cluster.waitUntilProtected(patienceMs);

      await cluster.killQemu("a", guest.name);
      await waitUntilOnB(story);
      expect((await readScreen(story, "b")).equals(drawn)).toBe(true);
      expect(await readHuman(story, "b", "info balloon")).toContain("actual=128");
      expect(await ask(story, "recall")).toBe(remembered);
      await setBalloon(story, "b", 192);
      expect(await ask(story, "recall")).toBe(remembered);
      expect(await agent("b", "guest-fsfreeze-status")).toEqual({ return: "frozen" });
      expect(await agent("b", "guest-fsfreeze-thaw")).toEqual({ return: 1 });
      expect(await ask(story, "write after")).toBe("after");
    });
  },
  3 * patienceMs,
);

test(
  "a disk that is plugged into one side past all refusals is gone again: the guest goes on at the other side without it",
  async () => {
    await tellToClients({ options: { secondMonitor: true } }, async (story) => {
      expect(await ask(story, "devices")).toBe("vda eth0 1");
      await withMonitor(story, "a", (monitor) => plugDisk(story, monitor));
      await waitUntilOnB(story);
      expect(await ask(story, "devices")).toBe("vda eth0 1");
      await waitForFault(story);
    });
  },
  2 * patienceMs,
);

async function setBalloon(story: Story, host: PairHost, mib: number): Promise<void> {
  expect(await readHuman(story, host, `balloon ${mib}`)).toBe("");
  const deadlineMs = Date.now() + patienceMs;
  while ((await readHuman(story, host, "info balloon")).trim() !== `balloon: actual=${mib}`) {
    expect(Date.now()).toBeLessThan(deadlineMs);
    await sleep(100);
  }
}

async function readScreen(story: Story, host: PairHost): Promise<Buffer> {
  const path = join(story.lab.logDirectory, `screen-${host}.ppm`);
  expect(await readHuman(story, host, `screendump ${path}`)).toBe("");
  return readFileSync(path);
}

/** QEMU itself refuses that while a disk is mirrored, whoever asks. */
async function expectNoResize(story: Story): Promise<void> {
  const { id, path, sizeBytes } = present(story.guest.specs.a.disks[0], "a disk");
  const refused = await withMonitor(story, "a", (monitor) =>
    monitor.execute("block_resize", { "node-name": id, size: 2 * sizeBytes }).catch((error: unknown) => error),
  );
  expect(refused).toBeInstanceOf(QmpFailure);
  expect((refused as QmpFailure).message).toMatch(/in use|busy|conflict/i);
  expect(statSync(path).size).toBe(sizeBytes);
}
