/** Images as qemu-img makes them, and as nobody should: looked at by the command line with the real qemu-img. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ImageSource, readImageSource } from "../../src/cli/image-source.ts";
import { writeOva } from "../../src/cli/ova-file.ts";
import { encodeTar, type TarFile } from "../../src/cli/tar.ts";
import { openWorkDirectory, provideRawDisk } from "../../src/cli/work-directory.ts";
import { encodeOvf } from "../../src/image/ovf-writer.ts";

const MIB = 2 ** 20;
const diskBytes = 64 * MIB;
const { signal } = new AbortController();

let directory: string;
const file = (name: string): string => join(directory, name);
const qemuImg = (...args: readonly string[]): string => execFileSync("qemu-img", args, { encoding: "utf8" });

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-images-"));
  writeFileSync(file("base.raw"), randomBytes(3 * MIB));
  truncateSync(file("base.raw"), diskBytes);
  const make = (name: string, format: string, ...options: readonly string[]): void => {
    qemuImg("convert", "-f", "raw", "-O", format, ...options, file("base.raw"), file(name));
  };
  make("plain.qcow2", "qcow2");
  make("old.qcow2", "qcow2", "-o", "compat=0.10");
  make("packed.qcow2", "qcow2", "-c");
  make("extended.qcow2", "qcow2", "-o", "extended_l2=on,cluster_size=128k");
  make("sparse.vmdk", "vmdk");
  make("stream.vmdk", "vmdk", "-o", "subformat=streamOptimized");
  make("flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat");
  make("other.vdi", "vdi");
  make("other.vhdx", "vhdx");
});

afterAll(() => {
  rmSync(directory, { recursive: true });
});

const look = (name: string, said: string[] = []): Promise<ImageSource> =>
  readImageSource([file(name)], {
    wanted: undefined,
    virtualBytesMax: undefined,
    signal,
    say: (line) => said.push(line),
  });

async function refusalOf(name: string): Promise<string> {
  const error: unknown = await look(name).then(
    () => new Error("taken"),
    (cause: unknown) => cause,
  );
  return error instanceof Error ? error.message.replaceAll(directory, "") : String(error);
}

describe("every form that is taken becomes the same raw disk", () => {
  test.each(["plain.qcow2", "old.qcow2", "packed.qcow2", "extended.qcow2", "sparse.vmdk", "stream.vmdk"])(
    "%s",
    async (name) => {
      const { disks } = await look(name);
      const [disk] = disks;
      expect(disk).toMatchObject({ header: { virtualBytes: diskBytes } });
      if (disk !== undefined) {
        const work = await openWorkDirectory(file("work"));
        const percents: number[] = [];
        const raw = await provideRawDisk({
          disk,
          directory: work,
          signal,
          onPercent: (percent) => percents.push(percent),
        });
        expect(readFileSync(raw.path).equals(readFileSync(file("base.raw")))).toBe(true);
        expect(statSync(raw.path).blocks * 512).toBeLessThan(8 * MIB);
        expect(percents.at(-1)).toBe(100);
        // The next attempt finds it.
        const before = statSync(raw.path).mtimeMs;
        await provideRawDisk({ disk, directory: work, signal, onPercent: () => undefined });
        expect(statSync(raw.path).mtimeMs).toBe(before);
        rmSync(raw.path);
      }
    },
  );

  test("a raw one is used as it is", async () => {
    const { disks } = await look("base.raw");
    expect(disks[0]).toMatchObject({
      place: { path: file("base.raw") },
      header: { format: "raw", virtualBytes: diskBytes },
    });
  });
});

describe("images that are not what they should be", () => {
  const makes: Readonly<Record<string, () => void>> = {
    "backing.qcow2": () => {
      qemuImg("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", file("backing.qcow2"));
    },
    "chain.qcow2": () => {
      qemuImg("create", "-q", "-f", "qcow2", "-b", file("plain.qcow2"), "-F", "qcow2", file("chain.qcow2"));
    },
    "data.qcow2": () => {
      const options = `data_file=${file("data.raw")},data_file_raw=on`;
      qemuImg("create", "-q", "-f", "qcow2", "-o", options, file("data.qcow2"), "1M");
    },
    "huge.qcow2": () => {
      qemuImg("create", "-q", "-f", "qcow2", file("huge.qcow2"), "60T");
    },
    // LUKS would do as well, but qemu-img measures the processor for it, and gives up where others have it.
    "encrypted.qcow2": () => {
      const secret = ["--object", "secret,id=s,data=geheim", "-o", "encrypt.format=aes,encrypt.key-secret=s"];
      qemuImg("create", "-q", "-f", "qcow2", ...secret, file("encrypted.qcow2"), "1M");
    },
    "cut.qcow2": () => {
      writeFileSync(file("cut.qcow2"), readFileSync(file("plain.qcow2")).subarray(0, 2 * MIB));
    },
    "cut.vmdk": () => {
      writeFileSync(file("cut.vmdk"), readFileSync(file("stream.vmdk")).subarray(0, 2 * MIB));
    },
    "cut-sparse.vmdk": () => {
      writeFileSync(file("cut-sparse.vmdk"), readFileSync(file("sparse.vmdk")).subarray(0, 2 * MIB));
    },
    "bomb.qcow2": () => {
      writeBomb(file("bomb.qcow2"));
    },
    "text.txt": () => {
      writeFileSync(file("text.txt"), "not a disk\n");
    },
    "folder.qcow2": () => {
      mkdirSync(file("folder.qcow2"));
    },
  };

  test.each<{ name: string; says: RegExp }>([
    { name: "backing.qcow2", says: /backing file.*qemu-img convert/ },
    { name: "chain.qcow2", says: /backing file/ },
    { name: "data.qcow2", says: /external data file/ },
    { name: "huge.qcow2", says: /60 TiB, and the limit is 2 TiB/ },
    { name: "encrypted.qcow2", says: /encrypted/ },
    { name: "cut.qcow2", says: /cut off or damaged/ },
    { name: "cut.vmdk", says: /cut off or damaged|does not take it/ },
    { name: "cut-sparse.vmdk", says: /cut off or damaged/ },
    { name: "bomb.qcow2", says: /would come out of a file of/ },
    { name: "text.txt", says: /no image known here/ },
    { name: "folder.qcow2", says: /it is no file/ },
    { name: "flat.vmdk", says: /VMDK in several files/ },
    { name: "other.vdi", says: /VDI image.*qemu-img convert/ },
    { name: "other.vhdx", says: /VHDX image.*qemu-img convert/ },
    { name: "missing.qcow2", says: /cannot be read \(ENOENT\)/ },
  ])("$name", async ({ name, says }) => {
    makes[name]?.();
    expect(await refusalOf(name)).toMatch(says);
  });
});

/**
 * One compressed cluster, a table that names it 8192 times, and a table that names that table 2048 times: a terabyte in a third of a
 * megabyte.
 */
function writeBomb(path: string): void {
  const cluster = 65_536;
  qemuImg("create", "-q", "-f", "qcow2", path, "1T");
  const image = Buffer.concat([readFileSync(path), Buffer.alloc(4 * cluster)]);
  const end = image.length - 4 * cluster;
  const l1 = Number(image.readBigUInt64BE(40));
  const [l2, data] = [Math.ceil(end / cluster) * cluster, (Math.ceil(end / cluster) + 1) * cluster];
  const offset = BigInt(data);
  for (let at = 0; at < cluster; at += 8) {
    image.writeBigUInt64BE((1n << 62n) | offset, l2 + at);
  }
  for (let at = 0; at < 2_048 * 8; at += 8) {
    image.writeBigUInt64BE((1n << 63n) | BigInt(l2), l1 + at);
  }
  writeFileSync(path, image);
}

describe("OVAs", () => {
  const wish = (href = "web-disk1.vmdk"): string =>
    encodeOvf({
      ...{ name: "web", cores: 2, memoryBytes: 2 ** 30, isEfi: false, networks: ["lan"] },
      disks: [{ file: href, fileBytes: 1, virtualBytes: diskBytes }],
    });
  const sum = (content: string | Buffer): string => createHash("sha256").update(content).digest("hex");
  const writeArchive = (name: string, files: readonly TarFile[]): void => {
    writeFileSync(file(name), encodeTar(files, 0));
  };
  const disk = (): Buffer => readFileSync(file("stream.vmdk"));

  test("what is exported is imported, checked against its sums", async () => {
    const convert = async (
      from: { readonly rawPath: string },
      to: string,
      options: readonly string[],
    ): Promise<void> => {
      qemuImg("convert", "-f", "raw", ...options, from.rawPath, to);
    };
    const machine = { template: { spec: { domain: { cpu: { cores: 2, sockets: 2 }, memory: { guest: "3Gi" } } } } };
    const copies = [
      { disk: "disk", rawPath: file("base.raw") },
      { disk: "data", rawPath: file("base.raw") },
    ];
    await writeOva({ name: "web", machine, path: file("good.ova"), directory, copies, convert });
    expect(
      execFileSync("tar", ["--list", "--file", file("good.ova")], { encoding: "utf8" })
        .split("\n")
        .slice(0, 4),
    ).toEqual([...["web.ovf", "web.mf", "web-disk1.vmdk", "web-disk2.vmdk"]]);
    const said: string[] = [];
    const { disks, machine: read } = await look("good.ova", said);
    expect(said).toEqual(["checking web.ovf", "checking web-disk1.vmdk", "checking web-disk2.vmdk"]);
    expect(read).toMatchObject({ name: "web", cores: 4, memoryBytes: 3 * 2 ** 30 });
    expect(disks).toHaveLength(2);
    const [, second] = disks;
    if (second !== undefined) {
      const work = await openWorkDirectory(file("work"));
      const raw = await provideRawDisk({ disk: second, directory: work, signal, onPercent: () => undefined });
      expect(readFileSync(raw.path).equals(readFileSync(file("base.raw")))).toBe(true);
    }
  });

  test("one without sums is taken, and that is said", async () => {
    writeArchive("bare.ova", [
      { path: "web.ovf", content: wish() },
      { path: "web-disk1.vmdk", content: disk() },
    ]);
    const said: string[] = [];
    expect((await look("bare.ova", said)).disks).toHaveLength(1);
    expect(said.join()).toContain("not checked against checksums");
  });

  test.each<{ what: string; make: () => readonly TarFile[]; says: RegExp }>([
    {
      what: "a name that leads out",
      make: () => [
        { path: "web.ovf", content: wish("../web-disk1.vmdk") },
        { path: "../web-disk1.vmdk", content: disk() },
      ],
      says: /"..\/web-disk1.vmdk", which is no plain file name/,
    },
    {
      what: "an OVF that names a file of the machine it is read on",
      make: () => [{ path: "web.ovf", content: wish("/etc/passwd") }],
      says: /names "\/etc\/passwd", which is not in the archive/,
    },
    {
      what: "a changed disk",
      make: () => {
        const changed = disk();
        changed[changed.length - 5_000] = 1;
        const manifest = `SHA256(web.ovf)= ${sum(wish())}\nSHA256(web-disk1.vmdk)= ${sum(disk())}\n`;
        return [
          { path: "web.ovf", content: wish() },
          { path: "web.mf", content: manifest },
          { path: "web-disk1.vmdk", content: changed },
        ];
      },
      says: /web-disk1.vmdk is not what the manifest says/,
    },
    {
      what: "a manifest without the disk",
      make: () => [
        { path: "web.ovf", content: wish() },
        { path: "web.mf", content: `SHA256(web.ovf)= ${sum(wish())}\n` },
        { path: "web-disk1.vmdk", content: disk() },
      ],
      says: /web-disk1.vmdk is not in the archive's manifest/,
    },
    {
      what: "a disk that is a layer over another file",
      make: () => [
        { path: "web.ovf", content: wish("web-disk1.qcow2") },
        { path: "web-disk1.qcow2", content: readFileSync(file("backing.qcow2")) },
      ],
      says: /backing file/,
    },
    {
      what: "a file twice",
      make: () => [
        { path: "web.ovf", content: wish() },
        { path: "web.ovf", content: wish("b") },
      ],
      says: /holds web.ovf twice/,
    },
    { what: "no descriptor", make: () => [{ path: "web-disk1.vmdk", content: disk() }], says: /0 OVF descriptors/ },
    {
      what: "a thousand files",
      make: () => Array.from({ length: 1_000 }, (_, index) => ({ path: `${index}.ovf`, content: "" })),
      says: /more than 64 files/,
    },
  ])("refused: $what", async ({ make, says }) => {
    writeArchive("bad.ova", make());
    expect(await refusalOf("bad.ova")).toMatch(says);
  });

  test("refused: one that is cut off", async () => {
    writeArchive("cut.ova", [
      { path: "web.ovf", content: wish() },
      { path: "web-disk1.vmdk", content: disk() },
    ]);
    truncateSync(file("cut.ova"), 2 * MIB);
    expect(await refusalOf("cut.ova")).toMatch(/the archive is cut off/);
  });
});

test("a work directory that others may write to is refused", async () => {
  mkdirSync(file("open"), { mode: 0o777 });
  execFileSync("chmod", ["777", file("open")]);
  await expect(openWorkDirectory(file("open"))).rejects.toThrow(/others may write to/);
});
