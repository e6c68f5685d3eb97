/**
 * The guest images, built once and kept outside the checkout ($TWINRUN_CACHE, else ~/.cache/twinrun).
 *
 * An image is named by the hash of everything in its recipe's folder, so a changed recipe is a new image and an old one is
 * never taken for it. It is built in a folder of its own and renamed when complete: a build that was killed leaves nothing
 * that could be mistaken for an image, and the next build of it removes the rest. Two runs that want the same image build it
 * once (a lock by link(2), broken when its holder is dead).
 *
 * Run directly (`node test/lab/images.ts`) it provides both and prints where they are.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, readdir, rename, rm, stat, writeFile, link } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../../src/lib/failure.ts";
import { type GuestImage, type GuestKind } from "./guests.ts";

export class ImageFailure extends Failure<{ readonly code: "ImageBuildFailed"; readonly image: GuestKind }> {}

const recipesPath = new URL("images/", import.meta.url).pathname;

export function cachePath(): string {
  const chosen = process.env["TWINRUN_CACHE"];
  return chosen !== undefined && chosen !== "" ? chosen : join(homedir(), ".cache", "twinrun");
}

/** The image, built now if this recipe never was. `say` gets lines of progress for a person. */
export async function provideImage(kind: GuestKind, say: (line: string) => void): Promise<GuestImage> {
  const folder = join(cachePath(), "images");
  await mkdir(folder, { recursive: true });
  const final = join(folder, `${kind}-${await hashRecipe(kind)}`);
  if (!existsSync(final)) {
    const unlock = await lockFile(`${final}.lock`, say);
    try {
      if (!existsSync(final)) {
        await buildImage(kind, final, say);
      }
    } finally {
      await unlock();
    }
  }
  const rootDisk = join(final, "root.raw");
  const kernel = { kernel: join(final, "vmlinuz"), initrd: join(final, "initrd.img") };
  return existsSync(rootDisk) ? { ...kernel, rootDisk } : kernel;
}

async function hashRecipe(kind: GuestKind): Promise<string> {
  const hash = createHash("sha256");
  const recipe = join(recipesPath, kind);
  for (const name of (await readdir(recipe)).sort()) {
    const mode = (await stat(join(recipe, name))).mode & 0o111;
    hash.update(`${name}\0${mode}\0`).update(await readFile(join(recipe, name)));
  }
  return hash.digest("hex").slice(0, 16);
}

async function buildImage(kind: GuestKind, final: string, say: (line: string) => void): Promise<void> {
  const building = `${final}.building`;
  const startedAtMs = Date.now();
  say(`building the ${kind} guest image (once; kept in ${final})`);
  await rm(building, { recursive: true, force: true });
  await mkdir(building);
  const status = await runRecipe(join(recipesPath, kind, "recipe.sh"), building, say);
  if (status !== 0) {
    throw new ImageFailure(
      { code: "ImageBuildFailed", image: kind },
      `the ${kind} guest image could not be built (status ${status}, see above and the logs in ${building}). ` +
        `It needs debootstrap, cpio and e2fsprogs and a Debian mirror (TWINRUN_DEBIAN_MIRROR names another one).`,
    );
  }
  await rename(building, final);
  say(`built the ${kind} guest image in ${Math.round((Date.now() - startedAtMs) / 1000)} s`);
}

function runRecipe(recipe: string, target: string, say: (line: string) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn("bash", [recipe, target], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        text.split("\n").filter(Boolean).forEach(say);
      });
    }
    child.on("error", reject).on("close", (status) => {
      resolve(status ?? -1);
    });
  });
}

/** A lock file that names its holder. Made complete and then linked, so it is never seen empty. */
export async function lockFile(path: string, say: (line: string) => void): Promise<() => Promise<void>> {
  const own = `${path}.${process.pid}`;
  await writeFile(own, String(process.pid));
  try {
    for (let attempt = 0; !(await tryLink(own, path)); attempt += 1) {
      const holder = Number(await readFile(path, "utf8").catch(() => ""));
      if (holder > 0 && !existsSync(`/proc/${holder}`)) {
        await rm(path, { force: true });
        continue;
      }
      if (attempt === 0) {
        say(`waiting for process ${holder}, which builds the same image`);
      }
      await sleep(1000);
    }
  } finally {
    await rm(own, { force: true });
  }
  return () => rm(path, { force: true });
}

async function tryLink(own: string, path: string): Promise<boolean> {
  try {
    await link(own, path);
    return true;
  } catch (cause) {
    // Within Jest, Node's own errors are of another Error than ours.
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") {
      return false;
    }
    throw cause;
  }
}

if (import.meta.main) {
  const say = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  for (const kind of ["busybox", "debian"] as const) {
    const image = await provideImage(kind, say);
    say(`${kind}: ${image.rootDisk ?? image.initrd}`);
  }
}
