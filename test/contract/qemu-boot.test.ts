/** A standby's QEMU that waits for a state is made to boot from its disk instead, as HighAvailability does it; with live QEMUs. */
import { afterEach, describe, expect, test } from "@jest/globals";
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isBootBlock, Standby } from "../../src/qemu/standby.ts";
import { GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const builds = await provideQemuBuilds();
const cleanUps: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

/** What the primary's engine sends in such a session. */
async function copyBootBlocks(source: GuestQemu, target: GuestQemu): Promise<void> {
  const places = new Map((await target.placeBlocks()).map(({ name, address }) => [name, Number(address)]));
  const from = openSync(`/proc/${source.pid}/mem`, "r");
  const to = openSync(`/proc/${target.pid}/mem`, "r+");
  for (const { name, address, bytes } of (await source.placeBlocks()).filter(isBootBlock)) {
    const content = Buffer.alloc(bytes);
    readSync(from, content, 0, bytes, Number(address));
    writeSync(to, content, 0, bytes, places.get(name) ?? 0);
  }
  closeSync(from);
  closeSync(to);
}

describe.each(builds)("$name", (build) => {
  test.each([
    { guest: "a boot sector", load: undefined, machine: "pc" as const, extra: [] },
    { guest: "Linux", load: ["net"] as const, machine: "q35" as const, extra: ["-device", "VGA"] },
  ])(
    "a waiting QEMU boots $guest while its primary runs",
    async ({ load, machine, extra }) => {
      const directory = mkdtempSync(join(tmpdir(), "twinrun-boot-"));
      cleanUps.push(() => {
        rmSync(directory, { recursive: true });
      });
      const net = load === undefined ? [] : ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="];
      const options = { build, machine, directory: join(directory, "guest"), extra: [...extra, ...net] };
      const primary = await GuestQemu.start({ ...options, ...(load === undefined ? {} : { load }) });
      cleanUps.push(() => primary.kill());
      const waiting = await primary.startStandby();
      cleanUps.push(() => waiting.kill());
      const standby = await Standby.prepare(waiting.qmp, join(directory, "incoming.sock"));
      await primary.waitForTick(3);
      await copyBootBlocks(primary, waiting);
      const path = join(directory, "boot.state");
      await standby.boot({ own: path, inQemu: path });
      await waiting.waitForTick(3);
      const { running } = await waiting.qmp.execute("query-status", {});
      expect(running).toBe(true);
      await primary.kill();
      if (load === undefined) {
        // A guest that restarts later finds its firmware again.
        const before = waiting.serialText().length;
        await waiting.qmp.execute("system_reset", {});
        await waiting.waitForTick(waiting.lastTick() + 3);
        expect(waiting.serialText().slice(before)).toMatch(/\./);
      }
    },
    180_000,
  );
});
