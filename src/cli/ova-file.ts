/** Writes an OVA: an OVF descriptor, a manifest and a stream-optimised VMDK a disk, in a tar. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseQuantity } from "../decide/quantity.ts";
import { encodeOvf } from "../image/ovf-writer.ts";
import { type Json, readPath, readText } from "../lib/json-merge.ts";
import { encodeTarHeader, padTar } from "./tar.ts";

export type OvaWish = {
  readonly name: string;
  /** The guest's spec, as in a VirtualMachine. */
  readonly machine: Json;
  readonly path: string;
  /** For the VMDKs, until they are in the archive. */
  readonly directory: string;
  readonly copies: readonly { readonly disk: string; readonly rawPath: string }[];
  readonly convert: (
    from: { readonly disk: string; readonly rawPath: string },
    to: string,
    options: readonly string[],
  ) => Promise<void>;
};

const VMDK = ["-O", "vmdk", "-o", "subformat=streamOptimized"];

export async function writeOva({ name, machine, path, directory, copies, convert }: OvaWish): Promise<void> {
  const disks: {
    readonly file: string;
    readonly from: string;
    readonly fileBytes: number;
    readonly virtualBytes: number;
  }[] = [];
  try {
    for (const [index, copy] of copies.entries()) {
      const from = join(directory, `.${name}-disk${index + 1}.vmdk`);
      await convert(copy, from, VMDK);
      const [{ size: fileBytes }, { size: virtualBytes }] = await Promise.all([stat(from), stat(copy.rawPath)]);
      disks.push({ file: `${name}-disk${index + 1}.vmdk`, from, fileBytes, virtualBytes });
    }
    const domain = readPath(machine, "template", "spec", "domain");
    const memory = readText(domain, "memory", "guest") ?? readText(domain, "resources", "requests", "memory") ?? "1Gi";
    const ovf = encodeOvf({
      ...{ name, disks },
      cores: countCores(readPath(domain, "cpu")),
      memoryBytes: parseQuantity(memory) ?? 2 ** 30,
      isEfi: readPath(domain, "firmware", "bootloader", "efi") !== undefined,
      networks: listNetworks(machine),
    });
    await writeArchive(path, name, ovf, disks);
  } finally {
    await Promise.all(disks.map(({ from }) => rm(from, { force: true })));
  }
}

function countCores(cpu: unknown): number {
  return ["sockets", "cores", "threads"].reduce((product, part) => {
    const count = readPath(cpu, part);
    return typeof count === "number" && count > 0 ? product * count : product;
  }, 1);
}

function listNetworks(machine: Json): readonly string[] {
  const networks = readPath(machine, "template", "spec", "networks");
  return Array.isArray(networks)
    ? networks.map((network: unknown) => readText(network, "multus", "networkName") ?? "pod")
    : [];
}

type Part = { readonly file: string; readonly from: string; readonly fileBytes: number };

/** The descriptor first and the manifest after it, as the standard wants them. */
async function writeArchive(path: string, name: string, ovf: string, disks: readonly Part[]): Promise<void> {
  const sums = [`SHA256(${name}.ovf)= ${createHash("sha256").update(ovf).digest("hex")}`];
  for (const { file, from } of disks) {
    sums.push(`SHA256(${basename(file)})= ${await hashFile(from)}`);
  }
  const nowMs = Date.now();
  const archive = await open(path, "w", 0o600);
  try {
    const texts = [
      { file: `${name}.ovf`, content: Buffer.from(ovf) },
      { file: `${name}.mf`, content: Buffer.from(`${sums.join("\n")}\n`) },
    ];
    for (const { file, content } of texts) {
      await archive.write(encodeTarHeader(file, content.length, nowMs));
      await archive.write(content);
      await archive.write(padTar(content.length));
    }
    for (const { file, from, fileBytes } of disks) {
      await archive.write(encodeTarHeader(file, fileBytes, nowMs));
      for await (const part of createReadStream(from)) {
        await archive.write(part as Buffer);
      }
      await archive.write(padTar(fileBytes));
    }
    await archive.write(Buffer.alloc(1024));
    await archive.sync();
  } finally {
    await archive.close();
  }
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(path)) {
    hash.update(part as Buffer);
  }
  return hash.digest("hex");
}
