/**
 * Images of the launcher and of guests' kernels, as docker-archives.
 *
 * They are kept outside the checkout beside the guest images ($TWINRUN_CACHE, else ~/.cache/twinrun), named by the hash of what
 * they are made of.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { cp, mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { cachePath } from "../../images.ts";
import { writeDockerArchive } from "../docker-archive.ts";

const run = promisify(execFile);

export type Layer = { readonly name: string; readonly hash: string };

const checkout = join(import.meta.dirname, "../../../..");

export const imageFolder = (): string => join(cachePath(), "kubernetes/images");

/** `make` gets an empty folder and leaves image.tar in it. */
export async function provideArchive(
  name: string,
  parts: readonly string[],
  make: (directory: string) => Promise<void>,
): Promise<string> {
  const hash = createHash("sha256").update(parts.join("\0")).digest("hex").slice(0, 16);
  const final = join(imageFolder(), `${name}-${hash}.tar`);
  if (!existsSync(final)) {
    const building = `${final}.${process.pid}`;
    await rm(building, { recursive: true, force: true });
    await mkdir(building, { recursive: true });
    await make(building);
    await renameFirst(join(building, "image.tar"), final);
    await rm(building, { recursive: true });
    await removeEarlier(name, final);
  }
  return final;
}

/** Of two runs that built the same the first one's is kept. */
export async function renameFirst(building: string, final: string): Promise<void> {
  await rename(building, final).catch(async (cause: unknown) => {
    if (!existsSync(final)) {
      throw cause;
    }
    await rm(building, { recursive: true, force: true });
  });
}

const keptMs = 24 * 3_600_000;

/** Archives of earlier programs; other checkouts may still use what is of today. */
async function removeEarlier(name: string, final: string): Promise<void> {
  const pattern = new RegExp(`^${name}-[0-9a-f]{16}[.]tar$`);
  for (const other of (await readdir(imageFolder())).filter((each) => pattern.test(each))) {
    const path = join(imageFolder(), other);
    if (path !== final && (await stat(path)).mtimeMs < Date.now() - keptMs) {
      await rm(path, { force: true });
    }
  }
}

export async function hashFiles(files: readonly string[]): Promise<string[]> {
  return Promise.all(files.map(async (path) => `${path} ${await hashFile(join(checkout, path))}`));
}

/** Files and folders of the checkout, with the paths they have in it. */
export async function copySources(target: string, paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    await mkdir(dirname(join(target, path)), { recursive: true });
    await cp(join(checkout, path), join(target, path), { recursive: true });
  }
}

/** Packages with all that they need at run time. */
export async function copyPackages(target: string, names: readonly string[]): Promise<void> {
  const packages = new Set<string>();
  for (const name of names) {
    await collectPackages(name, packages);
  }
  await copySources(
    target,
    [...packages].map((name) => `node_modules/${name}`),
  );
}

async function collectPackages(name: string, found: Set<string>): Promise<void> {
  if (!found.has(name)) {
    found.add(name);
    const text = await readFile(join(checkout, "node_modules", name, "package.json"), "utf8");
    const { dependencies = {} } = JSON.parse(text) as { dependencies?: Record<string, string> };
    for (const needed of Object.keys(dependencies)) {
      await collectPackages(needed, found);
    }
  }
}

export async function makeLayer(directory: string, root: string, name: string): Promise<Layer> {
  const path = join(directory, name);
  await run("tar", [
    ...["--create", "--file", path, "--format=pax", "--numeric-owner", "--owner=0", "--group=0", "--sort=name"],
    ...["--directory", root, "."],
  ]);
  await rm(root, { recursive: true });
  return { name, hash: await hashFile(path) };
}

/** `image.tar` in the directory that has the layers. */
export function writeArchive(directory: string, name: string, layers: readonly Layer[]): void {
  const config = { Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] };
  const parts = layers.map((layer) => ({ path: join(directory, layer.name), sha256: layer.hash }));
  writeDockerArchive(join(directory, "image.tar"), [{ name, config }], parts);
}

export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(path)) {
    hash.update(part as Buffer);
  }
  return hash.digest("hex");
}
