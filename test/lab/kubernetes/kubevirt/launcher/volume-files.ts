/** The files of a VMI's disks that virt-launcher makes itself before it starts QEMU. */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cloudInitPathOf, diskPathOf, emptyDiskPathOf, parseQuantity, podPaths } from "../vmi.ts";
import { type CloudInit, type Vmi, type VmiVolume } from "../vmi.ts";

type VolumeStatus = {
  readonly name: string;
  readonly persistentVolumeClaimInfo?: { readonly requests?: { readonly storage?: string } };
};

const mib = 1024 * 1024;

export function writeVolumeFiles(vmi: Vmi): void {
  for (const volume of vmi.spec.volumes ?? []) {
    writeVolumeFile(vmi, volume);
  }
}

function writeVolumeFile(vmi: Vmi, volume: VmiVolume): void {
  if (volume.persistentVolumeClaim !== undefined || volume.dataVolume !== undefined) {
    writeSparseFile(diskPathOf(volume.name), () => readClaimBytes(vmi, volume.name));
  } else if (volume.emptyDisk !== undefined) {
    const { capacity } = volume.emptyDisk;
    writeSparseFile(emptyDiskPathOf(volume.name), () => parseQuantity(capacity));
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
  const identity = { "instance-id": `${metadata.name}.${metadata.namespace}`, "local-hostname": hostname };
  writeFileSync(join(directory, "meta-data"), JSON.stringify(identity));
  writeFileSync(join(directory, "user-data"), source.userData ?? readSecret(name, "userdata") ?? "");
  const networkData = source.networkData ?? readSecret(name, "networkdata");
  if (networkData !== undefined) {
    writeFileSync(join(directory, "network-config"), networkData);
  }
  const args = ["-as", "mkisofs", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-output", path, directory];
  execFileSync("xorriso", args, { stdio: "inherit" });
}

function readSecret(volume: string, key: string): string | undefined {
  const path = `${podPaths.private}/secret/${volume}/${key}`;
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}
