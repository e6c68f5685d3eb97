/** Which volume holds a guest's disk as it is now, and whether it may be read. */
import { sideMark, sideName } from "../decide/guest-names.ts";
import { parseNotes } from "../decide/guest-notes.ts";
import { type Json, readObjects, readPath, readText } from "../lib/json-merge.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { type Known, valueOr } from "./kube-objects.ts";
import { findCondition, type ShownPair, type ShownVm } from "./protected-vms.ts";

export type CurrentSide = {
  readonly node: string;
  readonly vmi: { readonly namespace: string; readonly name: string };
  readonly isRunning: boolean;
};

export type GuestDisk = { readonly disk: string; readonly namespace: string; readonly claim: string };

/** The side that runs the guest, or the one that it ran on last. Throws Refused with what to do. */
export function decideCurrentSide(vm: ShownVm, pair: Known<ShownPair>, isLive: boolean): CurrentSide {
  const { name } = vm.metadata;
  const primary = vm.status?.primary;
  if (primary !== undefined) {
    if (!isLive) {
      const says = `${name} runs on ${primary.node}, and its disk changes while it is read`;
      throw new CliFailure(
        "Refused",
        `${says}: shut the guest down from inside, or say --live (help export says what that means)`,
      );
    }
    return { ...primary, isRunning: true };
  }
  if (pair.tag === "unknown") {
    const says = `which side ${name} ran on last stands in its GuestPair, which you may not read (${pair.why})`;
    throw new CliFailure("Refused", `${says}: let an administrator export it, or start it and export it with --live`);
  }
  const found = findEndedSide(valueOr(pair, undefined));
  if (found === undefined) {
    const ready = findCondition(vm, "Ready");
    const says = `${name} neither runs nor was shut down in order (${ready?.message ?? "nothing is known of it"})`;
    throw new CliFailure("Refused", `${says}; see: kubectl twinrun describe ${name}`);
  }
  return { ...found, isRunning: false };
}

/** Both say that it has ended, of the same term; the record's owner had it last. */
function findEndedSide(pair: ShownPair | undefined): Pick<CurrentSide, "node" | "vmi"> | undefined {
  const reports = pair?.status?.sides ?? [];
  const term = Math.max(0, ...reports.map((report) => report.term));
  const ended = reports.filter((report) => report.role === "ended" && report.term === term);
  const owner =
    ended.flatMap(({ primaryNode }) => primaryNode ?? [])[0] ?? (ended.length === 1 ? ended[0]?.node : undefined);
  return pair?.spec?.sides?.find(({ node }) => node === owner);
}

export type DiskQuestion = {
  readonly vm: ShownVm;
  readonly pair: ShownPair | undefined;
  readonly side: CurrentSide;
  /** Of the template, or of the adopted VirtualMachine. */
  readonly machine: Json;
};

/** The guest's disks on volumes, on this side. */
export function listGuestDisks({ vm, pair, side, machine }: DiskQuestion): readonly GuestDisk[] {
  const { uid = "", namespace = "" } = vm.metadata;
  const instance = readPath(machine, "template", "spec");
  const written = readObjects(instance, "domain", "devices", "disks").filter((disk) => disk["cdrom"] === undefined);
  const names = new Set(written.map((disk) => readText(disk, "name")));
  const templates = readObjects(machine, "dataVolumeTemplates").map((each) => readText(each, "metadata", "name"));
  const isOrigin = isOriginSide(side, pair, namespace);
  /** The operator made it, under a name of its own. */
  const isMade = (given: string): boolean =>
    !isOrigin || (templates.includes(given) && vm.spec?.virtualMachineRef === undefined);
  return readObjects(instance, "volumes").flatMap((volume) => {
    const [disk, given] = [readText(volume, "name") ?? "", readClaim(volume)];
    if (given === undefined || !names.has(disk)) {
      return [];
    }
    return isMade(given)
      ? [{ disk, claim: sideName(disk, sideMark(uid, side.node)), namespace: side.vmi.namespace }]
      : [{ disk, claim: given, namespace }];
  });
}

const readClaim = (volume: Json): string | undefined =>
  readText(volume, "persistentVolumeClaim", "claimName") ?? readText(volume, "dataVolume", "name");

/** Whether the guest was started from this side's volumes. Who may not read the notes goes by the namespace, as the operator does. */
function isOriginSide({ node, vmi }: CurrentSide, pair: ShownPair | undefined, namespace: string): boolean {
  const notes = pair === undefined ? undefined : parseNotes(pair);
  return notes === undefined ? vmi.namespace === namespace : notes.origin === node;
}

/** The ones that are wanted: all for an OVA, else one. */
export function chooseDisks(
  disks: readonly GuestDisk[],
  wanted: string | undefined,
  isOva: boolean,
): readonly GuestDisk[] {
  const names = disks.map(({ disk }) => disk).join(", ");
  if (disks.length === 0) {
    throw new CliFailure("Refused", "the guest has no disk on a volume; what lives in its pods cannot be exported");
  }
  if (wanted === undefined) {
    if (disks.length > 1 && !isOva) {
      throw usageWrong(`the guest has several disks (${names}): name one with --disk, or write an OVA`);
    }
    return disks;
  }
  const found = disks.find(({ disk }) => disk === wanted);
  if (found === undefined) {
    throw usageWrong(`--disk must be one of ${names}, not ${wanted}`);
  }
  return [found];
}

export const EXPORT_FORMATS = ["raw", "qcow2", "vmdk", "ova"] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

const ENDS: Readonly<Record<string, ExportFormat>> = {
  raw: "raw",
  img: "raw",
  qcow2: "qcow2",
  vmdk: "vmdk",
  ova: "ova",
};

export function parseExportFormat(path: string, given: string | undefined): ExportFormat {
  const end = /[.]([a-z0-9]+)$/i.exec(path)?.[1]?.toLowerCase() ?? "";
  const format = given === undefined ? ENDS[end] : EXPORT_FORMATS.find((each) => each === given);
  if (format === undefined) {
    throw usageWrong(`--format must be ${EXPORT_FORMATS.join(" or ")}, or the file must end in one of them`);
  }
  return format;
}
