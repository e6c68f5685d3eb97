/**
 * The files that are imported, looked at without trust: headers by our own eyes, archives by their index and checksums, then
 * everything again by qemu-img under limits. Nothing is written and nothing leaves this machine.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { ImageFailure } from "../image/image-failure.ts";
import { type ImageFormat, type ImageHeader, parseImageHeader } from "../image/image-header.ts";
import { DISKS_MAX, HEAD_BYTES, MANIFEST_BYTES_MAX, OVA_FILES_MAX, OVF_BYTES_MAX } from "../image/image-limits.ts";
import { assertReport, parseContentBytes } from "../image/image-report.ts";
import { type Digest, parseManifest } from "../image/ova-manifest.ts";
import { type OvfMachine, parseOvf } from "../image/ovf.ts";
import { parsePaxSize, parseTarHeader, TAR_BLOCK_BYTES, tarStride } from "../image/tar-index.ts";
import { CliFailure } from "./cli-failure.ts";
import { askQemuImg, encodeNode, type ImagePlace, LOOK_LIMITS, readSecondsMax, READ_MEMORY_BYTES } from "./qemu-img.ts";

export type SourceDisk = {
  /** As the person who imports knows it. */
  readonly name: string;
  readonly place: ImagePlace;
  readonly header: ImageHeader;
  readonly fileBytes: number;
  /** What is in it, as far as qemu-img can tell without reading it. */
  readonly contentBytes: number;
  /** The same for the same file, as long as it does not change. */
  readonly identity: string;
};

export type ImageSource = { readonly disks: readonly SourceDisk[]; readonly machine: OvfMachine | undefined };

export type Looking = {
  readonly wanted: ImageFormat | undefined;
  readonly virtualBytesMax: number | undefined;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
};

/** Throws a CliFailure that names the file. */
export async function readImageSource(paths: readonly string[], looking: Looking): Promise<ImageSource> {
  if (paths.length > DISKS_MAX) {
    throw new CliFailure("UsageWrong", `a guest has at most ${DISKS_MAX} disks, and ${paths.length} files are given`);
  }
  const parts = await Promise.all(paths.map((path) => readOne(path, looking)));
  const machines = parts.flatMap(({ machine }) => (machine === undefined ? [] : [machine]));
  if (machines.length > 0 && parts.length > 1) {
    throw new CliFailure("UsageWrong", "an OVA is a whole machine: import it by itself");
  }
  return { disks: parts.flatMap(({ disks }) => disks), machine: machines[0] };
}

async function readOne(path: string, looking: Looking): Promise<ImageSource> {
  try {
    const found = await stat(path);
    if (!found.isFile()) {
      throw new ImageFailure("FormatRefused", "it is no file");
    }
    const file = await open(path, "r");
    try {
      const head = await readAt(file, 0, Math.min(HEAD_BYTES, found.size));
      const isArchive = head.subarray(257, 262).toString("latin1") === "ustar";
      const whole = { path: resolve(path), fileBytes: found.size };
      return isArchive
        ? await readArchive(file, whole, looking)
        : {
            disks: [await lookAt(file, { name: path, place: { path: whole.path }, fileBytes: found.size }, looking)],
            machine: undefined,
          };
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw explain(path, cause);
  }
}

function explain(path: string, cause: unknown): unknown {
  if (cause instanceof ImageFailure) {
    return new CliFailure("Refused", `${path}: ${cause.message}`, { cause });
  }
  const code = (cause as NodeJS.ErrnoException).code;
  return code === "ENOENT" || code === "EACCES"
    ? new CliFailure("Failed", `${path} cannot be read (${code})`, { cause })
    : cause;
}

async function readAt(file: FileHandle, offset: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, offset);
  return buffer.subarray(0, bytesRead);
}

type Found = Pick<SourceDisk, "name" | "place" | "fileBytes">;

/** The header first: qemu-img never sees what was refused by it. */
async function lookAt(file: FileHandle, found: Found, looking: Looking): Promise<SourceDisk> {
  const { place, fileBytes } = found;
  const offset = place.part?.offset ?? 0;
  const head = await readAt(file, offset, Math.min(HEAD_BYTES, fileBytes));
  const { wanted, virtualBytesMax, signal } = looking;
  const header = parseImageHeader({ head, fileBytes, wanted, virtualBytesMax });
  const tail = await readAt(file, Math.max(offset, offset + fileBytes - HEAD_BYTES), Math.min(HEAD_BYTES, fileBytes));
  const { mtimeMs } = await file.stat();
  const identity = createHash("sha256")
    .update([found.name, offset, fileBytes, mtimeMs, header.format].join("\n"))
    .update(head)
    .update(tail)
    .digest("hex")
    .slice(0, 16);
  const contentBytes = header.format === "raw" ? fileBytes : await askContent(found, header, signal);
  return { ...found, header, identity, contentBytes };
}

async function askContent({ place, fileBytes }: Found, header: ImageHeader, signal: AbortSignal): Promise<number> {
  const node = encodeNode(place, header.format);
  const look = { ...LOOK_LIMITS, signal };
  assertReport(await askQemuImg({ ...look, args: ["info", "--output=json", node] }), header);
  const measured = await askQemuImg({ ...look, args: ["measure", "--output=json", "-O", "qcow2", node] });
  const contentBytes = parseContentBytes(measured, fileBytes);
  await assertWhole(node, contentBytes, signal);
  return contentBytes;
}

/** What was cut off is read as zeros otherwise. Leaks (status 3) lose room and nothing else. */
async function assertWhole(node: string, contentBytes: number, signal: AbortSignal): Promise<void> {
  const limits = { cpuSeconds: readSecondsMax(contentBytes), memoryBytes: READ_MEMORY_BYTES };
  await askQemuImg({ ...limits, signal, args: ["check", "--output=json", node] }).catch((error: unknown) => {
    if (error instanceof ImageFailure && error.detail.code === "Damaged") {
      const remedy = "fetch it again, or repair a copy of it";
      throw new ImageFailure("Damaged", `it is cut off or damaged: ${error.message}; ${remedy}`, { cause: error });
    }
    throw error;
  });
}

type Archive = { readonly path: string; readonly fileBytes: number };
type Member = { readonly name: string; readonly offset: number; readonly bytes: number };

async function readArchive(file: FileHandle, archive: Archive, looking: Looking): Promise<ImageSource> {
  const members = await listMembers(file, archive.fileBytes);
  const descriptors = members.filter(({ name }) => /[.]ovf$/i.test(name));
  const [descriptor] = descriptors;
  if (descriptor === undefined || descriptors.length > 1) {
    throw new ImageFailure(
      "FormatRefused",
      `it is an archive with ${descriptors.length} OVF descriptors, and an OVA has one`,
    );
  }
  const machine = parseOvf(await readText(file, descriptor, OVF_BYTES_MAX));
  const used = machine.disks.map(({ file: name }) => requireMember(members, name));
  await assertSums(archive, members, [descriptor, ...used], { file, looking });
  const disks: SourceDisk[] = [];
  for (const { name, offset, bytes } of used) {
    const place = { path: archive.path, part: { offset, bytes } };
    // What a disk is stands in the OVF as the address of a specification; its own header says it better.
    disks.push(await lookAt(file, { name, place, fileBytes: bytes }, { ...looking, wanted: undefined }));
  }
  return { disks, machine };
}

async function listMembers(file: FileHandle, fileBytes: number): Promise<readonly Member[]> {
  const members: Member[] = [];
  let paxSize: number | undefined;
  for (let at = 0; at < fileBytes;) {
    const entry = parseTarHeader(await readAt(file, at, TAR_BLOCK_BYTES), paxSize);
    if (entry.tag === "end") {
      return members;
    }
    const offset = at + TAR_BLOCK_BYTES;
    if (offset + entry.bytes > fileBytes) {
      throw new ImageFailure("Damaged", "the archive is cut off; fetch it again");
    }
    paxSize =
      entry.tag === "pax" ? parsePaxSize(await readAt(file, offset, Math.min(entry.bytes, OVF_BYTES_MAX))) : undefined;
    if (entry.tag === "file") {
      addMember(members, { name: entry.name, offset, bytes: entry.bytes });
    }
    at += tarStride(entry.bytes);
  }
  return members;
}

function addMember(members: Member[], member: Member): void {
  if (members.some(({ name }) => name === member.name)) {
    throw new ImageFailure("FormatRefused", `the archive holds ${member.name} twice`);
  }
  if (members.length >= OVA_FILES_MAX) {
    throw new ImageFailure("TooLarge", `the archive holds more than ${OVA_FILES_MAX} files`);
  }
  members.push(member);
}

function requireMember(members: readonly Member[], name: string): Member {
  const found = members.find((member) => member.name === name);
  if (found === undefined) {
    throw new ImageFailure(
      "Damaged",
      `the OVF names ${JSON.stringify(name.slice(0, 80))}, which is not in the archive`,
    );
  }
  return found;
}

async function readText(file: FileHandle, { name, offset, bytes }: Member, bytesMax: number): Promise<string> {
  if (bytes > bytesMax) {
    throw new ImageFailure("TooLarge", `${name} in the archive is longer than ${bytesMax} bytes`);
  }
  return (await readAt(file, offset, bytes)).toString("utf8");
}

/** Whatever is used must be in the manifest and be what it says; without one that is said. */
async function assertSums(
  archive: Archive,
  members: readonly Member[],
  used: readonly Member[],
  { file, looking }: { readonly file: FileHandle; readonly looking: Looking },
): Promise<void> {
  const manifest = members.find(({ name }) => /[.]mf$/i.test(name));
  if (manifest === undefined) {
    looking.say(`${archive.path} has no manifest: its files are not checked against checksums`);
    return;
  }
  const digests = parseManifest(await readText(file, manifest, MANIFEST_BYTES_MAX));
  for (const member of used) {
    const digest = digests.get(member.name);
    if (digest === undefined) {
      throw new ImageFailure("Damaged", `${member.name} is not in the archive's manifest`);
    }
    looking.say(`checking ${member.name}`);
    if ((await hashMember(archive.path, member, digest, looking.signal)) !== digest.hex) {
      throw new ImageFailure(
        "Damaged",
        `${member.name} is not what the manifest says (${digest.algorithm}); fetch the OVA again`,
      );
    }
  }
}

async function hashMember(
  path: string,
  { offset, bytes }: Member,
  { algorithm }: Digest,
  signal: AbortSignal,
): Promise<string> {
  const hash = createHash(algorithm);
  if (bytes > 0) {
    for await (const part of createReadStream(path, { start: offset, end: offset + bytes - 1, signal })) {
      hash.update(part as Buffer);
    }
  }
  return hash.digest("hex");
}
