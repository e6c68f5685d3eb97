/**
 * Makes raw what the engine is to copy and is not: the qcow2 images in which KubeVirt keeps disks that live in the pod.
 *
 * The raw image is a file beside the one that is there, sparse, of the same owner: PATH.twinrun. A primary's gets the content
 * of its disk before the guest is let run (it could not be done safely later), a standby's gets it from the primary. A disk
 * that is raw already, because an earlier engine of this QEMU made it so, is left alone; what an engine left that died over it
 * is made anew.
 */
import { constants } from "node:fs";
import { open, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { type DiskAssignment } from "../protocol/assignment.ts";
import { type Machine, type MachineDisk } from "../qemu/machine.ts";
import { type QmpClient } from "../qemu/qmp-client.ts";
import { addRawNode, copyToRawNode, removeRawNode, swapRawNode } from "../qemu/raw-node.ts";
import { findDisk, parseFilename } from "./placed-disks.ts";

/** How far the copy of a disk is. */
export type RawProgress = (id: string, percent: number) => void;

export type RawDisks = {
  /** Whether a disk is another file now than QEMU said before. */
  readonly isChanged: boolean;
  /** Why some stay as they were, for people. */
  readonly failed: readonly string[];
};

type Context = {
  readonly qmp: QmpClient;
  readonly machine: Machine;
  readonly files: { own(path: string): string };
  readonly onProgress: RawProgress;
};

type Found = { readonly id: string; readonly index: number; readonly device: string; readonly disk: MachineDisk };

const SUFFIX = ".twinrun";

/** One disk after the other. A failure is no exception: the guest runs all the same, unprotected. */
export async function makeDisksRaw(wanted: readonly DiskAssignment[], context: Context): Promise<RawDisks> {
  const found = wanted.flatMap((assigned, index) => listFound(assigned, index, context.machine));
  const failed: string[] = [];
  for (const each of found) {
    try {
      await makeRaw(each, context);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      failed.push(`disk ${each.id} lives in the pod and was not made raw: ${reason}${await readRoom(each, context)}`);
    }
  }
  return { isChanged: found.length > failed.length, failed };
}

function listFound(assigned: DiskAssignment, index: number, machine: Machine): readonly Found[] {
  if (!("device" in assigned) || assigned.isOfPod !== true) {
    return [];
  }
  const disk = findDisk(machine, assigned.device);
  return disk?.driver === "qcow2" && !disk.isReadOnly
    ? [{ id: assigned.id, device: assigned.device, index, disk }]
    : [];
}

async function makeRaw({ id, index, device, disk }: Found, context: Context): Promise<void> {
  const { qmp, machine, files, onProgress } = context;
  const path = `${pathOf(disk)}${SUFFIX}`;
  if (machine.runState === "running") {
    throw new Error("its guest runs already; stop and start the guest");
  }
  await removeRawNode(qmp, index);
  await createLike(files.own(pathOf(disk)), files.own(path), disk.bytes);
  try {
    await addRawNode(qmp, { index, path, isDirect: disk.isDirect });
    if (machine.runState === "inmigrate") {
      await swapRawNode(qmp, { index, device });
      return;
    }
    onProgress(id, 0);
    await copyToRawNode(qmp, { index, node: disk.node }, (percent) => {
      onProgress(id, percent);
    });
  } catch (error) {
    await removeRawNode(qmp, index).catch(() => undefined);
    await rm(files.own(path), { force: true });
    throw error;
  }
}

const pathOf = ({ path }: MachineDisk): string => parseFilename(path) ?? path;

/** Not through a link: the folder belongs to the pod. */
async function createLike(model: string, path: string, bytes: number): Promise<void> {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR } = constants;
  const { uid, gid } = await stat(model);
  await rm(path, { force: true });
  const file = await open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o640);
  try {
    await file.truncate(bytes);
    await file.chown(uid, gid);
  } finally {
    await file.close();
  }
}

/** What a person asks first when something did not fit. */
async function readRoom({ disk }: Found, { files }: Context): Promise<string> {
  try {
    const { bavail, bsize } = await statfs(dirname(files.own(pathOf(disk))));
    const [size, room] = [disk.bytes, bavail * bsize].map((bytes) => Math.round(bytes / 2 ** 20));
    return `; it holds up to ${size} MiB, the pod's storage has room for ${room}: free some on the node, or use a volume (PVC)`;
  } catch {
    return "";
  }
}
