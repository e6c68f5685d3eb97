/** The files of a VMI's disks that virt-launcher makes itself before it starts QEMU. */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type ImageFormats } from "../domain-xml.ts";
import { cloudInitPathOf, containerDiskPathOf, diskPathOf, emptyDiskPathOf, overlayPathOf } from "../vmi.ts";
import { isBlockVolume, parseQuantity, podPaths } from "../vmi.ts";
import { type CloudInit, type Vmi, type VmiVolume } from "../vmi.ts";

type VolumeStatus = {
  readonly name: string;
  readonly persistentVolumeClaimInfo?: { readonly requests?: { readonly storage?: string } };
};

const mib = 1024 * 1024;

/** Returns the formats of the images underneath containerDisks. */
export function writeVolumeFiles(vmi: Vmi): ImageFormats {
  const formats = new Map<string, string>();
  for (const volume of vmi.spec.volumes ?? []) {
    writeVolumeFile(vmi, volume);
    if (volume.containerDisk !== undefined) {
      formats.set(volume.name, writeOverlay(vmi, volume.name));
    }
  }
  return formats;
}

function writeOverlay({ spec }: Vmi, volume: string): string {
  const [overlay, image] = [overlayPathOf(volume), containerDiskPathOf(spec, volume)];
  const info = execFileSync("qemu-img", ["info", "--output=json", image], { encoding: "utf8" });
  const { format } = JSON.parse(info) as { readonly format: string };
  mkdirSync(dirname(overlay), { recursive: true });
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-b", image, "-F", format, overlay], { stdio: "inherit" });
  chmodSync(overlay, 0o640);
  return format;
}

function writeEmptyDisk(volume: string, bytes: number): void {
  const path = emptyDiskPathOf(volume);
  mkdirSync(dirname(path), { recursive: true });
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", path, String(bytes - (bytes % mib))], { stdio: "inherit" });
}

function writeVolumeFile(vmi: Vmi, volume: VmiVolume): void {
  if (volume.persistentVolumeClaim !== undefined || volume.dataVolume !== undefined) {
    if (!isBlockVolume(vmi, volume.name)) {
      writeSparseFile(diskPathOf(volume.name), () => readClaimBytes(vmi, volume.name));
    }
  } else if (volume.emptyDisk !== undefined) {
    writeEmptyDisk(volume.name, parseQuantity(volume.emptyDisk.capacity));
  } else if (volume.cloudInitNoCloud !== undefined) {
    writeCloudInit(vmi, volume.name, volume.cloudInitNoCloud);
  }
}

/** What virt-controller copied from the claim into the status. */
function readClaimBytes(vmi: Vmi, name: string): number {
  const statuses = (vmi.status?.["volumeStatus"] ?? []) as readonly VolumeStatus[];
  const info = statuses.find((status) => status.name === name)?.persistentVolumeClaimInfo;
  return parseQuantity(info?.requests?.storage ?? "");
}

/** A disk that is there already stays as it is. */
function writeSparseFile(path: string, readBytes: () => number): void {
  if (existsSync(path)) {
    return;
  }
  const bytes = readBytes();
  mkdirSync(dirname(path), { recursive: true });
  const file = openSync(path, "wx", 0o660);
  ftruncateSync(file, bytes - (bytes % mib));
  closeSync(file);
}

function writeCloudInit(vmi: Vmi, name: string, source: CloudInit): void {
  const path = cloudInitPathOf(vmi);
  const directory = join(dirname(path), "data");
  mkdirSync(directory, { recursive: true });
  const { metadata, spec } = vmi;
  const hostname = spec.hostname ?? metadata.name;
  const identity = { "instance-id": spec.domain.firmware?.uuid ?? randomUUID(), "local-hostname": hostname };
  writeFileSync(join(directory, "meta-data"), JSON.stringify(identity));
  writeFileSync(join(directory, "user-data"), source.userData ?? readSecret(name, "userdata") ?? "");
  const networkData = source.networkData ?? readSecret(name, "networkdata");
  if (networkData !== undefined) {
    writeFileSync(join(directory, "network-config"), networkData);
  }
  const form = ["-volid", "cidata", "-joliet", "-rock", "-partition_cyl_align", "on"];
  execFileSync("xorriso", ["-as", "mkisofs", "-quiet", "-output", path, ...form, directory], { stdio: "inherit" });
}

function readSecret(volume: string, key: string): string | undefined {
  const path = `${podPaths.private}/secret/${volume}/${key}`;
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}
