/** What is read of a machine, against live QEMUs: the parts that a copy of their output cannot prove. */
import { afterEach, expect, describe, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listObstacles, readMachine } from "../../src/qemu/machine.ts";
import { GuestQemu, provideQemuBuilds } from "../build/guest-qemu.ts";

const builds = await provideQemuBuilds();
const cleanUps: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) {
    await cleanUp();
  }
});

describe.each(builds)("$name", (build) => {
  const start = async (
    extra: (directory: string) => readonly string[],
    machine: "pc" | "q35" = "q35",
  ): Promise<GuestQemu> => {
    const directory = mkdtempSync(join(tmpdir(), "twinrun-machine-"));
    cleanUps.push(() => {
      rmSync(directory, { recursive: true });
    });
    mkdirSync(join(directory, "guest"));
    const guest = await GuestQemu.start({
      build,
      machine,
      directory: join(directory, "guest"),
      extra: extra(directory),
    });
    cleanUps.push(() => guest.kill());
    return guest;
  };

  test("an ordinary machine: its shape is read, nothing is in the way", async () => {
    const guest = await start(() => [
      ..."-smp 2 -device VGA -netdev user,id=n0 -device virtio-net-pci,netdev=n0".split(" "),
    ]);
    const machine = await readMachine(guest.qmp);
    expect(machine).toMatchObject({ runState: "running", vcpus: 2, nics: [{ netdev: "n0", type: "user", queues: 1 }] });
    expect(machine.type).toMatch(/^pc-q35-\d+\.\d+$/);
    expect(machine.disks).toMatchObject([
      { device: "disk0", node: "disk0", driver: "raw", path: guest.diskPath, isReadOnly: false, isFirmware: false },
    ]);
    const names = machine.ramBlocks.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(["ram", "pc.bios", expect.stringMatching(/[/]vga[.]vram$/)]));
    expect(listObstacles(machine, { hasShim: false })).toEqual([]);
    const maps = readFileSync(`/proc/${guest.pid}/maps`, "utf8");
    for (const { name, address } of machine.ramBlocks) {
      if (machine.qemuVersion.startsWith("10.")) {
        expect(`${name} ${maps.includes(`${String(address?.toString(16))}-`)}`).toBe(`${name} true`);
      }
    }
  });

  test("a standby reads the same shape as its primary", async () => {
    const guest = await start(() => ["-device", "VGA"]);
    const standby = await guest.startStandby();
    cleanUps.push(() => standby.kill());
    const [ours, theirs] = [await readMachine(guest.qmp), await readMachine(standby.qmp)];
    expect(theirs.runState).toBe("inmigrate");
    expect(theirs.obstacles).toEqual([]);
    const withoutAddress = (machine: typeof ours): unknown =>
      machine.ramBlocks.map(({ name, bytes, offset, isConstant }) => ({ name, bytes, offset, isConstant }));
    expect(withoutAddress(theirs)).toEqual(withoutAddress(ours));
  });

  test("every obstacle is named at once", async () => {
    const guest = await start((directory) => {
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", join(directory, "more.qcow2"), "16M"]);
      return [
        ...["-blockdev", `driver=file,node-name=more-file,filename=${join(directory, "more.qcow2")}`],
        ...["-blockdev", "driver=qcow2,node-name=more,file=more-file", "-device", "virtio-blk-pci,drive=more"],
        ...["-object", "memory-backend-memfd,id=shared,size=1M,share=on", "-device", "ivshmem-plain,memdev=shared"],
        ...["-device", "nvme,serial=1"],
      ];
    });
    const { obstacles } = await readMachine(guest.qmp);
    expect(obstacles.map(({ code }) => code).sort()).toEqual([
      "DeviceWritesMemoryFromOutside",
      "DiskNotRaw",
      "MigrationBlocked", // qcow2, and
      "MigrationBlocked", // nvme.
    ]);
    expect(obstacles.find(({ code }) => code === "DiskNotRaw")?.message).toContain("more.qcow2");
  });
});
