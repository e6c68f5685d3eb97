/**
 * The container images of Twinrun for a lab, made without Docker and without a registry: docker-archives as `ctr images import` takes
 * them. What is in them is what config/image/Containerfile puts there, but for the base: instead of a Debian only what Node and
 * openssl load, and busybox.
 *
 *   docker.io/twinrun/twinrun:VERSION         node in /opt/twinrun: arguments begin with src/main/operator.ts or the like
 *   docker.io/twinrun/twinrun-hook:VERSION    the same files, starts the hook with the arguments it is given, if any
 *   docker.io/lab/etcd:1                      the etcd of this machine
 *
 * Kept in $TWINRUN_CACHE/kubernetes/twinrun-images, named by the hash of all they are made of; layers that did not change are
 * taken from there. Needs root, as the hook's compiled code is made by the user it runs as.
 *
 * Run directly (`node test/lab/kubernetes/images.ts`) it provides them and prints the archives' paths.
 */
import { execFileSync, spawn } from "node:child_process";
import { createHash, type Hash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { cachePath, lockFile } from "../images.ts";
import { writeDockerArchive, writeTar } from "./docker-archive.ts";
import { requireDebianRoot, requirePrograms } from "./programs.ts";

const checkout = join(import.meta.dirname, "../../..");
const { version } = JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as { version: string };

export const twinrunImage = `docker.io/twinrun/twinrun:${version}`;
export const hookImage = `docker.io/twinrun/twinrun-hook:${version}`;
export const etcdImage = "docker.io/lab/etcd:1";

type Say = (line: string) => void;

/** Parts of an image's config. */
type ImageConfig = {
  readonly Entrypoint: readonly string[];
  readonly Env: readonly string[];
  readonly User: string;
  readonly WorkingDir?: string;
};
type Image = { readonly name: string; readonly config: ImageConfig };
type Layer = { readonly path: string; readonly hash: string };

const home = "opt/twinrun";
const searchPath = "PATH=/usr/local/bin:/usr/bin:/bin";
const hookUser = 107;
const applets = ["sh", "cat", "cp", "find", "ls", "mkdir", "mkfifo", "mv", "ps", "rm", "sleep", "test", "touch"];

const images: readonly Image[] = [
  {
    name: twinrunImage,
    config: { Entrypoint: ["node"], Env: [searchPath], User: "65532:65532", WorkingDir: `/${home}` },
  },
  {
    name: hookImage,
    // How src/main/hook.ts fits into what a sidecar gets.
    config: {
      Entrypoint: ["node", "--max-semi-space-size=1", "--max-old-space-size=24", "src/main/hook.ts"],
      Env: [searchPath, `NODE_COMPILE_CACHE=/${home}/.cache/hook`],
      User: `${hookUser}:${hookUser}`,
      WorkingDir: `/${home}`,
    },
  },
];

/** Archives with all images; made now if what they are made of has changed. */
export async function provideTwinrunImages(say: Say): Promise<readonly string[]> {
  const folder = join(cachePath(), "kubernetes/twinrun-images");
  mkdirSync(folder, { recursive: true });
  const unlock = await lockFile(join(folder, "lock"), say);
  try {
    const base = provideLayer(folder, "base", hashOf(listBaseFiles()), fillBase);
    const modules = provideLayer(folder, "modules", hashOf([join(checkout, "package-lock.json")]), fillModules);
    const source = await provideSource(folder, [base, modules]);
    const etcd = provideLayer(folder, "etcd", hashOf(listLoaded(findEtcd())), fillEtcd);
    const etcdConfig = { Entrypoint: ["etcd"], Env: [searchPath], User: "65532:65532" };
    return [
      provideArchive(folder, { name: "twinrun", images, layers: [base, modules, source], say }),
      provideArchive(folder, { name: "etcd", images: [{ name: etcdImage, config: etcdConfig }], layers: [etcd], say }),
    ];
  } finally {
    await unlock();
  }
}

/** `fill` gets an empty directory, which becomes the layer. */
function provideLayer(folder: string, name: string, key: string, fill: (root: string) => void): Layer {
  const path = join(folder, `${name}-${key}.tar`);
  if (!existsSync(path)) {
    const root = makeRoot(folder);
    try {
      fill(root);
      writeTar(path, root, ["."]);
    } finally {
      rmSync(root, { recursive: true });
    }
  }
  return { path, hash: key };
}

/** Everybody may enter it, for it is what a container has as its root. */
function makeRoot(folder: string): string {
  const root = mkdtempSync(join(folder, "making-"));
  chmodSync(root, 0o755);
  return root;
}

/** Files of the machine that a program needs to run, itself among them. */
function listLoaded(program: string): string[] {
  const said = execFileSync("ldd", [program], { encoding: "utf8" });
  return [program, ...[...said.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? "")];
}

const findNode = (): string => realpathSync(join(checkout, "node_modules/.bin/node"));
const findEtcd = (): string => present(requirePrograms(["etcd"]).get("etcd"), "etcd");
const opensslConfig = "/etc/ssl/openssl.cnf";

function listBaseFiles(): string[] {
  const libraries = [...listLoaded("/usr/bin/openssl"), ...listLoaded(findNode()).slice(1)];
  return [...new Set([...libraries, opensslConfig])];
}

/** Under the same path, whatever the links that lead there are here. */
function copyInto(root: string, path: string): void {
  mkdirSync(join(root, dirname(path)), { recursive: true });
  copyFileSync(path, join(root, path));
}

function fillBase(root: string): void {
  for (const path of listBaseFiles()) {
    copyInto(root, path);
  }
  for (const directory of ["bin", "etc", "proc", "run", "sys", "tmp", "usr/lib/ssl", "usr/local/bin", "var/lib"]) {
    mkdirSync(join(root, directory), { recursive: true });
  }
  chmodSync(join(root, "tmp"), 0o1777);
  symlinkSync(opensslConfig, join(root, "usr/lib/ssl/openssl.cnf"));
  copyFileSync(join(requireDebianRoot(), "bin/busybox"), join(root, "bin/busybox"));
  for (const applet of applets) {
    symlinkSync("busybox", join(root, "bin", applet));
  }
  const accounts = { root: 0, qemu: hookUser, nonroot: 65_532 };
  const lines = Object.entries(accounts).map(([name, id]) => `${name}:x:${id}:${id}::/:/bin/sh\n`);
  writeFileSync(join(root, "etc/passwd"), lines.join(""));
  const groups = Object.entries(accounts).map(([name, id]) => `${name}:x:${id}:\n`);
  writeFileSync(join(root, "etc/group"), groups.join(""));
}

/** Node, and the packages that production needs, without what only an editor reads. */
function fillModules(root: string): void {
  const target = join(root, home);
  mkdirSync(target, { recursive: true });
  for (const file of ["package.json", "package-lock.json"]) {
    copyFileSync(join(checkout, file), join(target, file));
  }
  const quiet = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-update-notifier"];
  execFileSync("npm", ["ci", "--omit=dev", ...quiet, "--loglevel=error"], { cwd: target, stdio: "ignore" });
  mkdirSync(join(root, "usr/local/bin"), { recursive: true });
  copyFileSync(findNode(), join(root, "usr/local/bin/node"));
  const modules = join(target, "node_modules");
  for (const name of readdirSync(modules).filter((each) => /^(node-linux-|[.]bin$)/.test(each))) {
    rmSync(join(modules, name), { recursive: true });
  }
  for (const entry of readdirSync(modules, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && /[.](d[.][cm]?ts|map|md|ts)$/.test(entry.name)) {
      rmSync(join(entry.parentPath, entry.name));
    }
  }
}

function fillEtcd(root: string): void {
  for (const path of listLoaded(findEtcd())) {
    copyInto(root, path === findEtcd() ? "/usr/bin/etcd" : path);
  }
  copyFileSync(findEtcd(), join(root, "usr/bin/etcd"));
  mkdirSync(join(root, "var/lib/etcd"), { recursive: true });
}

const shimPath = join(checkout, "build/twinrun-shim.so");

const listSource = (): string[] =>
  readdirSync(join(checkout, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/[.]test[.]ts$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();

/** What is in the checkout, and the hook's code as Node compiled it. */
async function provideSource(folder: string, below: readonly Layer[]): Promise<Layer> {
  execFileSync("bash", ["config/tools/setup.sh", "shim"], { cwd: checkout, stdio: "ignore" });
  const key = hashOf(
    [...listSource(), shimPath, join(checkout, "package.json")],
    below.map(({ hash }) => hash),
  );
  const path = join(folder, `source-${key}.tar`);
  if (!existsSync(path)) {
    const root = makeRoot(folder);
    try {
      for (const layer of below) {
        execFileSync("tar", ["--extract", "--file", layer.path, "--directory", root]);
      }
      fillSource(root);
      await compileHook(root);
      writeTar(
        path,
        root,
        [home].flatMap((name) => ["package.json", "src", "build", ".cache"].map((part) => join(name, part))),
      );
    } finally {
      rmSync(root, { recursive: true });
    }
  }
  return { path, hash: key };
}

function fillSource(root: string): void {
  const target = join(root, home);
  for (const path of listSource()) {
    const copy = join(target, path.slice(checkout.length));
    mkdirSync(dirname(copy), { recursive: true });
    cpSync(path, copy);
  }
  copyFileSync(join(checkout, "package.json"), join(target, "package.json"));
  mkdirSync(join(target, "build"));
  copyFileSync(shimPath, join(target, "build", basename(shimPath)));
}

/** Starts the hook once, in the image and as its user, both of which are part of the compiled code's name; ends it in order. */
async function compileHook(root: string): Promise<void> {
  const { config } = present(
    images.find(({ name }) => name === hookImage),
    hookImage,
  );
  const cache = join(root, home, ".cache/hook");
  const sockets = join(root, "tmp/hook");
  for (const directory of [cache, sockets]) {
    mkdirSync(directory, { recursive: true });
    execFileSync("chown", ["-R", `${hookUser}:${hookUser}`, directory]);
  }
  const command = ["-c", `cd /${home} && exec "$@"`, "sh", ...config.Entrypoint, "--socket-directory", "/tmp/hook"];
  const hook = spawn("/usr/sbin/chroot", [`--userspec=${config.User}`, root, "/bin/sh", ...command], {
    env: Object.fromEntries(
      config.Env.map((each) => [each.slice(0, each.indexOf("=")), each.slice(each.indexOf("=") + 1)]),
    ),
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  hook.stderr.setEncoding("utf8").on("data", (part: string) => (said += part));
  const ended = new Promise((resolve) => hook.once("close", resolve));
  const startedAtMs = performance.now();
  while (!existsSync(join(sockets, "twinrun.sock"))) {
    if (hook.exitCode !== null || performance.now() - startedAtMs > 120_000) {
      hook.kill("SIGKILL");
      throw new Error(`the hook does not start in its image: ${said}`);
    }
    await sleep(100);
  }
  hook.kill("SIGTERM");
  await ended;
  if (readdirSync(cache).length === 0) {
    throw new Error(`the hook left no compiled code: ${said}`);
  }
}

type ArchiveWish = {
  readonly name: string;
  readonly images: readonly Image[];
  readonly layers: readonly Layer[];
  readonly say: Say;
};

/** One archive for images that share layers. Earlier ones are removed: what is in use is in a store of image-store.ts. */
function provideArchive(folder: string, wish: ArchiveWish): string {
  const key = hashOf([], [JSON.stringify(wish.images), ...wish.layers.map(({ hash }) => hash)]);
  const path = join(folder, `${wish.name}-${key}.image`);
  if (!existsSync(path)) {
    const layers = wish.layers.map((layer) => ({
      path: layer.path,
      sha256: digest(createHash("sha256").update(readFileSync(layer.path))),
    }));
    writeDockerArchive(path, wish.images, layers);
    const { size } = statSync(path);
    wish.say(`image ${wish.images.map(({ name }) => name).join(", ")}: ${Math.round(size / 2 ** 20)} MiB`);
    for (const name of readdirSync(folder)) {
      if (name.startsWith(`${wish.name}-`) && name.endsWith(".image") && name !== basename(path)) {
        rmSync(join(folder, name));
      }
    }
  }
  return path;
}

const recipes = [import.meta.filename, join(import.meta.dirname, "docker-archive.ts")];

/** By content and name of files, and by the recipes, which say what becomes of them. */
function hashOf(files: readonly string[], texts: readonly string[] = []): string {
  const hash = createHash("sha256");
  for (const path of [...files, ...recipes]) {
    hash.update(`${path.startsWith(checkout) ? path.slice(checkout.length) : path}\0`).update(readFileSync(path));
  }
  return digest(hash.update(texts.join("\0"))).slice(0, 16);
}

const digest = (hash: Hash): string => hash.digest("hex");

if (import.meta.main) {
  const archives = await provideTwinrunImages((line) => process.stderr.write(`${line}\n`));
  process.stdout.write(`${archives.join("\n")}\n`);
}
