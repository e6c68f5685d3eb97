/** A hook sidecar's image for the tests of this folder: the hook of this checkout on the launcher's file system. */
import { cp, link, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { copyPackages, copySources, hashFiles, makeLayer, provideArchive, writeArchive } from "./image-archive.ts";
import { provideBase } from "./launcher-image.ts";

export const hookImageName = "docker.io/lab/hook-of-this-checkout:1";
const entrypoint = ["/twinrun/bin/node", "/twinrun/src/main/hook.ts"];

const checkout = join(import.meta.dirname, "../../../..");

/** The docker-archive; `make build` must have compiled the shim. */
export async function provideHookImage(): Promise<string> {
  const base = await provideBase(() => undefined);
  const files = [
    "build/twinrun-shim.so",
    "src/main/hook.ts",
    ...(await listSources(["api", "hook", "lib", "telemetry"])),
  ];
  return provideArchive("hook", [base.hash, ...entrypoint, ...(await hashFiles(files))], async (directory) => {
    const home = join(directory, "program/twinrun");
    await copySources(home, files);
    await copyPackages(home, ["pino", "zod"]);
    await writeFile(join(home, "package.json"), JSON.stringify({ type: "module" }));
    await mkdir(join(home, "bin"));
    await cp(process.execPath, join(home, "bin/node"), { dereference: true });
    await link(join(base.path, "base.tar"), join(directory, "base.tar"));
    const layer = await makeLayer(directory, join(directory, "program"), "program.tar");
    await writeArchive(directory, hookImageName, [{ name: "base.tar", hash: base.hash }, layer], entrypoint);
  });
}

async function listSources(folders: readonly string[]): Promise<string[]> {
  const lists = await Promise.all(
    folders.map(async (folder) => {
      const names = await readdir(join(checkout, "src", folder));
      return names.filter((name) => !name.endsWith(".test.ts")).map((name) => `src/${folder}/${name}`);
    }),
  );
  return lists.flat();
}
