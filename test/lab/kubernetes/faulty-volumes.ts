/**
 * Volumes of a lab that fail, hang, are slow, or have no room left: each is a file system on a loop device on a disk that does so
 * when it is told to (faulty-disk.ts). A pod sees what it sees of any volume.
 *
 *   pod --> mount PATH (ext4) --> loop device --> PATH.device, served by FaultyDisk --> PATH.device.store on the node's disk
 *           in the node              of this machine, as the disk below it is
 *
 * The disk is served outside the node: a daemon in it would be the last who holds the node's mounts, and would wait at its end
 * for a file system that only itself can answer for.
 *
 * Without a journal: a disk that fails for a while makes single requests fail, and not the whole file system read-only, which no
 * program in a pod could mend.
 */
import { truncateSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../../src/lib/assert.ts";
import { FaultyDisk } from "../faulty-disk.ts";
import { runCommand } from "../hosts.ts";
import { type LabNode } from "./node.ts";

type FaultyVolume = { readonly node: string; readonly path: string; readonly disk: FaultyDisk };

/** Of what is claimed: there is room for the file system, and for others who take it. */
const ROOM = 2;
const RELEASE_MS = 30_000;

/** What can be the matter with one. */
export const volumeTroubles = ["write", "read", "slow", "hang", "full"] as const;
export type VolumeTrouble = (typeof volumeTroubles)[number];

export class FaultyVolumes {
  readonly #nodeOf: (name: string) => LabNode;
  readonly #volumes: FaultyVolume[] = [];

  constructor(nodeOf: (name: string) => LabNode) {
    this.#nodeOf = nodeOf;
  }

  /** Puts one where the node has a directory, before anybody uses that; nothing where there is one already. */
  async make(node: string, path: string, claimedBytes: number): Promise<void> {
    if (this.#volumes.some((volume) => volume.path === path)) {
      return;
    }
    const file = this.#nodeOf(node).diskPath(`${path}.device`);
    writeFileSync(file, "");
    truncateSync(file, ROOM * claimedBytes);
    runCommand(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0", file]);
    const volume = { node, path, disk: await FaultyDisk.insertHere(file) };
    this.#volumes.push(volume);
    await this.#mount(volume);
    await this.#nodeOf(node).execute(["sh", "-c", `rmdir ${path}/lost+found && chmod 777 ${path}`]);
  }

  /** The node has its power back. */
  async mountAgain(node: string): Promise<void> {
    for (const volume of this.#volumes.filter((each) => each.node === node)) {
      const deadlineMs = Date.now() + RELEASE_MS;
      while (runCommand(["losetup", "--associated", volume.disk.path]) !== "") {
        assert(Date.now() < deadlineMs, `${volume.disk.path} is still in use`);
        await sleep(20);
      }
      await this.#mount(volume);
    }
  }

  /** Begins, for the newest volume of the node, and goes on until {@link mend} there. */
  async begin(node: string, trouble: VolumeTrouble): Promise<void> {
    const volume = present(
      this.#volumes.findLast((each) => each.node === node),
      `a volume on ${node} that can fail`,
    );
    switch (trouble) {
      case "write":
      case "read":
        await volume.disk.fail(trouble, "EIO");
        // What this machine remembers of it would not be read from it.
        runCommand(["dd", `of=${volume.disk.path}`, "oflag=nocache", "conv=notrunc", "count=0", "status=none"]);
        break;
      case "slow":
        await volume.disk.slowDown(4);
        break;
      case "hang":
        volume.disk.freeze();
        break;
      case "full":
        await this.#fill(volume);
        break;
    }
  }

  /** All volumes of a node are as good as new; what was written is there. */
  async mend(node: string): Promise<void> {
    for (const { disk, path } of this.#volumes.filter((volume) => volume.node === node)) {
      await mendDisk(disk);
      if (this.#nodeOf(node).initPid !== undefined) {
        await this.#nodeOf(node).execute(["sh", "-c", `rm -f ${path}/ballast-*`]);
      }
    }
  }

  /** Before the nodes go: nothing is held up by them any more. */
  async mendDisks(): Promise<void> {
    await Promise.all(this.#volumes.map(({ disk }) => mendDisk(disk)));
  }

  /** The nodes are gone. */
  async close(): Promise<void> {
    await Promise.all(this.#volumes.map(({ disk }) => disk.eject()));
  }

  async #mount({ node, path, disk }: FaultyVolume): Promise<void> {
    // Through this machine's memory: past it, kernels (6.18) write blocks of a file system to the wrong places through FUSE.
    const loop = runCommand(["losetup", "--find", "--show", "--direct-io=off", disk.path]).trim();
    try {
      await this.#nodeOf(node).execute(["mount", "-t", "ext4", loop, path]);
    } finally {
      // It goes when nobody has it mounted any more.
      runCommand(["losetup", "--detach", loop]);
    }
  }

  /** Somebody else takes all the room there is. */
  async #fill({ node, path }: FaultyVolume): Promise<void> {
    // By single blocks of the file system in the end; what does not end well here has done what it should.
    const writes = ["64k", "4k"].map((size) => `dd if=/dev/zero of=${path}/ballast-${size} bs=${size} conv=fsync`);
    await this.#nodeOf(node).execute(["sh", "-c", `${writes.join("; ")}; true`]);
  }
}

async function mendDisk(disk: FaultyDisk): Promise<void> {
  disk.resume();
  await disk.repair();
  await disk.slowDown(0);
}
