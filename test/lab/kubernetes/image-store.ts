/**
 * What a node's containerd has when it has imported some images, made once and kept in the cache: a node gets it by hard links.
 * To import a gigabyte takes half a minute for each of three nodes, and to delete it again at the end another.
 *
 * Files that containerd and overlayfs read are never written again, so nodes can share them: what is written to goes into files
 * made anew. Only containerd's databases are copied.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { copyFile, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { Failure } from "../../../src/lib/failure.ts";
import { volatileBase } from "../hosts.ts";
import { cachePath, lockFile } from "../images.ts";
import { writeDockerArchive, writeTar } from "./docker-archive.ts";
import { debianEnvironment, requireDebianRoot } from "./programs.ts";

export class ImageFailure extends Failure<{ readonly code: "ImageNotImported" }> {}

/** The image that every node has: busybox, and nothing else. */
export const busyboxImage = "docker.io/lab/busybox:1";

/** More than this many are not kept; those used last are. */
const storesMax = 3;
const patienceMs = 60_000;

/** The root directory of a containerd that has busybox and these docker-archives; made now if this set never was. */
export async function provideImageStore(archives: readonly string[], say: (line: string) => void): Promise<string> {
  const folder = join(cachePath(), "kubernetes/stores");
  mkdirSync(folder, { recursive: true });
  const store = join(folder, hashArchives(archives));
  const unlock = await lockFile(join(folder, "lock"), say);
  try {
    if (!existsSync(store)) {
      const startedAtMs = performance.now();
      say(`importing ${archives.length} images, once`);
      await makeStore(store, archives);
      say(`images are imported, it took ${Math.round((performance.now() - startedAtMs) / 1000)} s`);
    }
    utimesSync(store, new Date(), new Date());
    removeOldStores(folder);
  } finally {
    await unlock();
  }
  return store;
}

/** A copy for one node, which may write to it. */
export async function copyImageStore(store: string, target: string): Promise<void> {
  // On another file system there are no links, only copies.
  if (!(await isDone(["cp", "--archive", "--link", store, target]))) {
    await rm(target, { recursive: true, force: true });
    if (!(await isDone(["cp", "--archive", store, target]))) {
      throw new ImageFailure({ code: "ImageNotImported" }, `${store} cannot be copied to ${target}`);
    }
  }
  for (const part of await readdir(target, { withFileTypes: true })) {
    const files = part.isDirectory() ? await readdir(join(target, part.name), { withFileTypes: true }) : [];
    for (const { name } of files.filter((file) => file.isFile())) {
      const path = join(target, part.name, name);
      await copyFile(path, `${path}.own`);
      await rename(`${path}.own`, path);
    }
  }
}

function isDone(command: readonly string[]): Promise<boolean> {
  return new Promise((resolve, reject) => {
    spawn(present(command[0], "a program"), command.slice(1), { stdio: "ignore" })
      .on("error", reject)
      .on("close", (status) => {
        resolve(status === 0);
      });
  });
}

/** By name, size and time: archives are large, and whoever makes one anew gives it another time at least. */
function hashArchives(archives: readonly string[]): string {
  const busybox = join(requireDebianRoot(), "bin/busybox");
  const hash = createHash("sha256");
  for (const path of [busybox, ...archives]) {
    const { size, mtimeMs } = statSync(path);
    hash.update(`${path}\0${size}\0${mtimeMs}\0`);
  }
  return hash.digest("hex").slice(0, 16);
}

async function makeStore(store: string, archives: readonly string[]): Promise<void> {
  const making = `${store}.making`;
  rmSync(making, { recursive: true, force: true });
  const directory = mkdtempSync(join(volatileBase, "twinrun-images-"));
  try {
    const busybox = writeBusyboxArchive(directory);
    await importImages(making, directory, [busybox, ...archives]);
    await rename(making, store);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** By a containerd of its own, whose mounts nobody else sees. */
async function importImages(root: string, directory: string, archives: readonly string[]): Promise<void> {
  const socket = join(directory, "socket");
  const config = join(directory, "config.toml");
  writeFileSync(config, encodeStoreConfig(root, directory, socket));
  const command = ["--pdeathsig", "KILL", "unshare", "--mount", "containerd", "--config", config];
  const containerd = spawn("setpriv", command, { stdio: "ignore", env: debianEnvironment() });
  const ended = new Promise((resolve) => containerd.once("exit", resolve));
  const ctr = (...args: string[]): Promise<boolean> =>
    new Promise((resolve, reject) => {
      spawn("ctr", ["--address", socket, ...args], { stdio: "ignore", env: debianEnvironment() })
        .on("error", reject)
        .on("close", (status) => {
          resolve(status === 0);
        });
    });
  try {
    const startedAtMs = performance.now();
    while (!(await ctr("version"))) {
      if (containerd.exitCode !== null || performance.now() - startedAtMs > patienceMs) {
        throw new ImageFailure({ code: "ImageNotImported" }, "containerd does not answer");
      }
      await sleep(50);
    }
    for (const archive of archives) {
      if (!(await ctr("--namespace", "k8s.io", "images", "import", archive))) {
        throw new ImageFailure({ code: "ImageNotImported" }, `${archive} cannot be imported`);
      }
    }
  } finally {
    containerd.kill("SIGTERM");
    await ended;
  }
}

const encodeStoreConfig = (root: string, directory: string, socket: string): string => `version = 2
root = "${root}"
state = "${join(directory, "state")}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${socket}"
`;

/** A node that was given one has links of its own. */
function removeOldStores(folder: string): void {
  const stores = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => ({ path: join(folder, name), usedAtMs: statSync(join(folder, name)).mtimeMs }))
    .sort((one, other) => other.usedAtMs - one.usedAtMs);
  for (const { path } of stores.slice(storesMax)) {
    rmSync(path, { recursive: true, force: true });
  }
}

/** Busybox as a docker-archive in `directory`. */
function writeBusyboxArchive(directory: string): string {
  const layer = join(directory, "layer.tar");
  writeTar(layer, requireDebianRoot(), ["bin/busybox"]);
  const sha256 = createHash("sha256").update(readFileSync(layer)).digest("hex");
  const config = { Cmd: ["/bin/busybox", "sleep", "2147483647"], Env: ["PATH=/bin"] };
  const archive = join(directory, "busybox.tar");
  writeDockerArchive(archive, [{ name: busyboxImage, config }], [{ path: layer, sha256 }]);
  return archive;
}
