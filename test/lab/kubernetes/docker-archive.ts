/**
 * Images as docker-archives, made without Docker and as `ctr images import` takes them: layers, a config for each image that
 * knows the layers' hashes, and a manifest with the names. Nothing in one tells when it was made.
 */
import { execFileSync } from "node:child_process";
import { linkSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

/** `config` is what the image says of how it is started: Entrypoint, Cmd, Env, User and the like. */
export type ArchiveImage = { readonly name: string; readonly config: object };
/** A tar on the same file system as the archive, and the hash of its content. */
export type ArchiveLayer = { readonly path: string; readonly sha256: string };

/** One archive for images that share their layers; under its name only when it is whole. */
export function writeDockerArchive(
  path: string,
  images: readonly ArchiveImage[],
  layers: readonly ArchiveLayer[],
): void {
  const directory = mkdtempSync(join(dirname(path), "making-"));
  try {
    const names = layers.map((layer, index) => {
      linkSync(layer.path, join(directory, `layer-${index}.tar`));
      return `layer-${index}.tar`;
    });
    const manifest = images.map(({ name, config }, index) => {
      const file = `config-${index}.json`;
      const content = {
        architecture: process.arch === "x64" ? "amd64" : process.arch,
        os: "linux",
        config,
        rootfs: { type: "layers", diff_ids: layers.map(({ sha256 }) => `sha256:${sha256}`) },
      };
      writeFileSync(join(directory, file), JSON.stringify(content));
      return { Config: file, RepoTags: [name], Layers: names };
    });
    writeFileSync(join(directory, "manifest.json"), JSON.stringify(manifest));
    writeTar(path, directory, ["manifest.json", ...manifest.map(({ Config }) => Config), ...names]);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

export function writeTar(path: string, directory: string, parts: readonly string[]): void {
  const options = ["--numeric-owner", "--sort=name", "--mtime=@1700000000"];
  const args = ["--create", "--format=pax", "--pax-option=delete=atime,delete=ctime", ...options];
  execFileSync("tar", [...args, "--file", `${path}.new`, "--directory", directory, ...parts]);
  renameSync(`${path}.new`, path);
}
