/**
 * Puts the preload shim where QEMU, in another container of the pod, can load it: the folder of the hooks' sockets is the only
 * one that both see.
 *
 * virt-launcher takes every file in that folder for a socket and calls it, over and over; it does not look into folders, so
 * the shim goes into one. Since KubeVirt 1.6 each sidecar has a folder of its own, which virt-launcher sees under the name of the
 * sidecar's container (CONTAINER_NAME); before, all had the same one.
 */
import { chmod, copyFile, mkdir, rename } from "node:fs/promises";
import { join } from "node:path";

const FOLDER = "lib";
const FILE = "twinrun-shim.so";
/** Where virt-launcher has the folder of the sockets. */
const LAUNCHER_DIRECTORY = "/var/run/kubevirt-hooks";

/** Copies the shim; a QEMU that has loaded an earlier copy keeps that one. */
export async function deliverShim(shim: string, socketDirectory: string): Promise<void> {
  const folder = join(socketDirectory, FOLDER);
  await mkdir(folder, { recursive: true });
  await chmod(folder, 0o755);
  const incoming = join(folder, `.${FILE}.incoming`);
  await copyFile(shim, incoming);
  await chmod(incoming, 0o555);
  await rename(incoming, join(folder, FILE));
}

/** The path for LD_PRELOAD. */
export function locateShim(containerName: string | undefined): string {
  return join(LAUNCHER_DIRECTORY, containerName ?? "", FOLDER, FILE);
}
