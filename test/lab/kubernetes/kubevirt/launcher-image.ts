/**
 * The virt-launcher image and the images that guests boot their kernels from, as docker-archives without Docker.
 *
 * The launcher's file system (recipe.sh, two or three minutes) and its program are layers of their own, so that a change of
 * the program is a matter of seconds.
 *
 * Run directly (`node test/lab/kubernetes/kubevirt/launcher-image.ts`) it provides them and prints where they are; with `base` only
 * that file system, and in silence when it is there.
 */
import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, link, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Failure } from "../../../../src/lib/failure.ts";
import { defaultDiskBytes, type GuestKind } from "../../guests.ts";
import { provideImage } from "../../images.ts";
import { findDebianRoot } from "../programs.ts";
import {
  copyPackages,
  copySources,
  hashFile,
  hashFiles,
  imageFolder,
  makeLayer,
  provideArchive,
  renameFirst,
  writeArchive,
} from "./image-archive.ts";

const run = promisify(execFile);

export class LauncherImageFailure extends Failure<{ readonly code: "LauncherImageNotBuilt" | "DebianNotUnpacked" }> {}

export type LauncherImage = {
  /** The docker-archive. */
  readonly archive: string;
  /** What its QEMU has, as labels of nodes say it: versioned q35 machines and processor models that emulation has in full. */
  readonly machineTypes: readonly string[];
  readonly cpuModels: readonly string[];
};

type Say = (line: string) => void;

export const launcherImageName = "docker.io/lab/virt-launcher:1";

/** An image with a guest's kernel, for kernelBoot: {@link kernelPaths} are inside. */
export const kernelImageOf = (kind: GuestKind): string => `docker.io/lab/guest-${kind}:1`;
export const kernelPaths = { kernelPath: "/boot/vmlinuz", initrdPath: "/boot/initrd.img" } as const;

/** An image for containerDisks, as they are found in registries: one qcow2 file in /disk. */
export const containerDiskImage = "docker.io/lab/container-disk:1";

const recipe = join(import.meta.dirname, "launcher/recipe.sh");
const programPath = "usr/share/virt-launcher";

export async function provideLauncherImage(say: Say = () => undefined): Promise<LauncherImage> {
  const { path: base, hash: baseHash } = await provideBase(say);
  const files = await listProgramFiles();
  const archive = await provideArchive("virt-launcher", [baseHash, ...(await hashFiles(files))], async (directory) => {
    const program = join(directory, "program");
    await writeProgram(program, files);
    await link(join(base, "base.tar"), join(directory, "base.tar"));
    const layer = await makeLayer(directory, program, "program.tar");
    writeArchive(directory, launcherImageName, [{ name: "base.tar", hash: baseHash }, layer]);
  });
  return { archive, machineTypes: await readMachineTypes(base), cpuModels: await readCpuModels(base) };
}

/** The docker-archive of {@link kernelImageOf}. */
export async function provideKernelImage(kind: GuestKind, say: Say = () => undefined): Promise<string> {
  const debian = requireDebian();
  const { kernel, initrd } = await provideImage(kind, say);
  // The folder of a guest image is named by the hash of its recipe.
  return provideArchive(`guest-${kind}`, [kernel, kernelImageOf(kind)], async (directory) => {
    const root = join(directory, "root");
    await mkdir(join(root, "boot"), { recursive: true });
    await mkdir(join(root, "bin"));
    await cp(kernel, join(root, kernelPaths.kernelPath));
    await cp(initrd, join(root, kernelPaths.initrdPath));
    await cp(join(debian, "bin/busybox"), join(root, "bin/busybox"));
    await run("chmod", ["-R", "a+rX", root]);
    writeArchive(directory, kernelImageOf(kind), [await makeLayer(directory, root, "layer.tar")]);
  });
}

/** The docker-archive of {@link containerDiskImage}: as large as the disk of a guest of this kind, with something on it. */
export async function provideContainerDisk(kind: GuestKind): Promise<string> {
  const bytes = String(defaultDiskBytes[kind]);
  return provideArchive("container-disk", [bytes, containerDiskImage], async (directory) => {
    const root = join(directory, "root");
    const raw = join(directory, "disk.raw");
    await mkdir(join(root, "disk"), { recursive: true });
    await mkdir(join(root, "bin"));
    await writeFile(raw, Buffer.alloc(4 << 20, "container disk "));
    await run("truncate", ["--size", bytes, raw]);
    await run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, join(root, "disk/disk.img")]);
    await cp(join(requireDebian(), "bin/busybox"), join(root, "bin/busybox"));
    await run("chmod", ["-R", "a+rX", root]);
    writeArchive(directory, containerDiskImage, [await makeLayer(directory, root, "layer.tar")]);
  });
}

function requireDebian(): string {
  const debian = findDebianRoot();
  if (debian === undefined) {
    throw new LauncherImageFailure(
      { code: "DebianNotUnpacked" },
      "there is no busybox: make lab-binaries PROGRAMS=debian",
    );
  }
  return debian;
}

/** The folder with base.tar and what recipe.sh found out, built now if it never was. */
export async function provideBase(say: Say): Promise<{ readonly path: string; readonly hash: string }> {
  const hash = createHash("sha256")
    .update(await readFile(recipe))
    .digest("hex")
    .slice(0, 16);
  const final = join(imageFolder(), `virt-launcher-base-${hash}`);
  if (!existsSync(final)) {
    const building = `${final}.${process.pid}`;
    say(`building the file system of virt-launcher (once; kept in ${final})`);
    await rm(building, { recursive: true, force: true });
    await mkdir(building, { recursive: true });
    await runRecipe(building, say);
    await writeFile(join(building, "base.sha256"), await hashFile(join(building, "base.tar")));
    await renameFirst(building, final);
  }
  return { path: final, hash: await readFile(join(final, "base.sha256"), "utf8") };
}

function runRecipe(target: string, say: Say): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn("bash", [recipe, target], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        text.split("\n").filter(Boolean).forEach(say);
      });
    }
    child.on("error", reject).on("close", (status) => {
      if (status === 0) {
        resolve();
      } else {
        const message = `the launcher image could not be built (status ${String(status)}, see above and ${target})`;
        reject(new LauncherImageFailure({ code: "LauncherImageNotBuilt" }, message));
      }
    });
  });
}

/** Paths from the top of the checkout: our own sources, and the packages of gRPC. */
async function listProgramFiles(): Promise<string[]> {
  const own = [
    "test/build/hook-client.ts",
    ...["vmi.ts", "interfaces.ts", "domain-xml.ts", "domain-report.ts"].map(
      (name) => `test/lab/kubernetes/kubevirt/${name}`,
    ),
    ...(await readdir(join(import.meta.dirname, "launcher")))
      .filter((name) => name !== "recipe.sh" && !name.endsWith(".test.ts"))
      .map((name) => `test/lab/kubernetes/kubevirt/launcher/${name}`),
  ];
  return [...own, "node_modules/.package-lock.json"];
}

async function writeProgram(target: string, files: readonly string[]): Promise<void> {
  const home = join(target, programPath);
  await copySources(
    home,
    files.filter((path) => !path.startsWith("node_modules/")),
  );
  await copyPackages(home, ["@grpc/grpc-js", "@grpc/proto-loader"]);
  await writeFile(join(home, "package.json"), JSON.stringify({ type: "module" }));
  await mkdir(join(home, "bin"));
  await cp(process.execPath, join(home, "bin/node"), { dereference: true });
  await mkdir(join(target, "usr/bin"), { recursive: true });
  const monitor = join("/", programPath, "test/lab/kubernetes/kubevirt/launcher/virt-launcher-monitor.sh");
  await symlink(monitor, join(target, "usr/bin/virt-launcher-monitor"));
}

async function readMachineTypes(base: string): Promise<string[]> {
  const names = (await readFile(join(base, "machines.txt"), "utf8"))
    .split("\n")
    .map((line) => line.split(" ")[0] ?? "");
  return names.filter((name) => name === "q35" || /^pc-q35-[0-9.]+$/.test(name));
}

/** Those that want nothing that emulation lacks. */
async function readCpuModels(base: string): Promise<string[]> {
  type Model = { name: string; "unavailable-features"?: string[]; deprecated?: boolean };
  const answer = JSON.parse(await readFile(join(base, "cpu-models.json"), "utf8")) as { return: Model[] };
  return answer.return
    .filter((model) => model["unavailable-features"]?.length === 0 && model.deprecated !== true)
    .map(({ name }) => name)
    .filter(
      (name) =>
        !["max", "host", "base", "qemu32", "qemu64", "kvm32", "kvm64"].includes(name) && !/-v[0-9]+$/.test(name),
    )
    .sort();
}

async function main(wish: string | undefined): Promise<void> {
  const say = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  if (wish === "base") {
    await provideBase(say);
    return;
  }
  const image = await provideLauncherImage(say);
  say(`${launcherImageName}: ${image.archive}`);
  say(`${image.machineTypes.at(-1) ?? ""}, ${image.cpuModels.join(" ")}`);
  for (const kind of ["busybox", "debian"] as const) {
    say(`${kernelImageOf(kind)}: ${await provideKernelImage(kind, say)}`);
  }
}

if (import.meta.main) {
  await main(process.argv[2]);
}
