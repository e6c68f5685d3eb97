/**
 * `export`: a guest's disks become files.
 *
 * Read is the volume of the side that runs the guest, or ran it last: its disk holds every write, the other's what was acknowledged.
 * Of a guest that runs the disk is copied until little is left, then the guest is paused, compared from end to end, and let go.
 */
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { writeBytes } from "../image/image-limits.ts";
import { type KubeObject, type ObjectRef } from "../kube/kube-object.ts";
import { type Json, readObject, readPath } from "../lib/json-merge.ts";
import { copyBlocks, type CopyProgress } from "./block-copy.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { confirm } from "./confirm.ts";
import {
  chooseDisks,
  type CurrentSide,
  decideCurrentSide,
  type ExportFormat,
  type GuestDisk,
  listGuestDisks,
  parseExportFormat,
} from "./export-plan.ts";
import { valueOr } from "./kube-objects.ts";
import { LocalVolume } from "./local-volume.ts";
import { writeOva } from "./ova-file.ts";
import { type ShownVm } from "./protected-vms.ts";
import { encodeNode, parseProgress, READ_MEMORY_BYTES, readSecondsMax, roundPercent, runQemuImg } from "./qemu-img.ts";
import { askPair, findObject, kinds, readNamespace, readVm, type Session } from "./session.ts";
import { readTransferImage, removeTransferPod, type TransferPod } from "./transfer-pod.ts";
import { transfer } from "./volume-transfer.ts";

type Exported = { readonly disk: string; readonly rawPath: string };

export async function runExport(session: Session): Promise<number> {
  const { invocation, terminal } = session;
  const { texts, switches, names } = invocation;
  const given = texts.get("file");
  if (given === undefined || given === "-") {
    throw usageWrong("export needs --file FILE, as in -f web.qcow2");
  }
  const format = parseExportFormat(given, texts.get("format"));
  const vm = await readVm(session, await readNamespace(session), names[0] ?? "");
  const pair = await askPair(session, vm);
  const side = decideCurrentSide(vm, pair, switches.has("live"));
  const machine = await readMachine(session, vm);
  const all = listGuestDisks({ vm, pair: valueOr(pair, undefined), side, machine });
  const disks = chooseDisks(all, texts.get("disk"), format === "ova");
  await confirmPause(session, vm, side);
  const path = resolve(given);
  const copies = await copyDisks(session, { vm, side, disks, path });
  await writeFiles(session, { vm, machine, format, path, copies });
  for (const { rawPath } of copies) {
    await rm(rawPath, { force: true });
  }
  terminal.print([`${given} written (${format}, ${copies.map(({ disk }) => disk).join(", ")})`]);
  return 0;
}

async function readMachine(session: Session, { metadata, spec }: ShownVm): Promise<Json> {
  const name = spec?.virtualMachineRef?.name;
  if (name === undefined) {
    return readObject(spec, "virtualMachineTemplate", "spec");
  }
  const { namespace } = metadata;
  const found = await findObject<KubeObject & { readonly spec?: Json }>(session, {
    kind: kinds.virtualMachine,
    namespace,
    name,
  });
  return found?.spec ?? {};
}

async function confirmPause(
  session: Session,
  { metadata: { name } }: ShownVm,
  { isRunning, vmi }: CurrentSide,
): Promise<void> {
  if (isRunning) {
    await confirm(session, {
      explains: [
        `${name} runs. It is paused while its disk is compared from end to end for the last time, then it goes on.`,
        "What is written is what a loss of power at that moment would leave: the guest's file systems were not asked to be ready.",
        `Should this program be killed meanwhile: virtctl unpause vmi ${vmi.name} -n ${vmi.namespace}`,
      ],
      asks: `Pause ${name} for that long?`,
    });
  }
}

type Copying = {
  readonly vm: ShownVm;
  readonly side: CurrentSide;
  readonly disks: readonly GuestDisk[];
  readonly path: string;
};

async function copyDisks(session: Session, copying: Copying): Promise<readonly Exported[]> {
  const { side, disks } = copying;
  const targets: OneCopy[] = [];
  try {
    for (const disk of disks) {
      const target = await prepareCopy(session, copying, disk);
      targets.push(target);
      await copyOnce(session, target);
    }
    if (side.isRunning) {
      await copyPaused(session, copying, targets);
    }
  } catch (error) {
    session.terminal.say("what has arrived stays: start the same command again to go on");
    throw error;
  } finally {
    for (const { pod } of targets) {
      await removeTransferPod(session, pod.volume);
    }
  }
  return targets;
}

type OneCopy = Exported & { readonly pod: TransferPod };

async function prepareCopy(
  session: Session,
  { side, path }: Copying,
  { disk, namespace, claim }: GuestDisk,
): Promise<OneCopy> {
  const found = await findObject(session, { kind: kinds.claim, namespace, name: claim });
  if (found === undefined) {
    throw new CliFailure(
      "Failed",
      `there is no claim ${namespace}/${claim}, on which ${disk} should be; see: kubectl twinrun doctor`,
    );
  }
  const volume = { namespace, claim, isBlock: readPath(found, "spec", "volumeMode") === "Block" };
  const image = await readTransferImage(session);
  // Beside a guest that runs, a volume of one node can be had on that node only.
  const pod: TransferPod = { volume, access: "read", image, node: side.isRunning ? side.node : undefined };
  return { disk, pod, rawPath: `${path}.${disk}.part` };
}

function copyOnce(session: Session, { pod, rawPath }: OneCopy): Promise<CopyProgress> {
  return transfer(session, {
    ...{ pod, bytes: 0 },
    copy: async (source, onProgress) => {
      await prepareFile(rawPath, source.bytes);
      const target = await LocalVolume.open(rawPath, "write", source.bytes);
      try {
        return await copyBlocks({ source, target, signal: session.signal, onProgress });
      } finally {
        await target.close();
      }
    },
  });
}

/** For its owner only, as a disk holds secrets. What an earlier attempt left may be of a larger disk. */
async function prepareFile(path: string, bytesMax: number): Promise<void> {
  const file = await open(path, "a", 0o600);
  try {
    const { size } = await file.stat();
    if (size > bytesMax) {
      await file.truncate(bytesMax);
    }
  } finally {
    await file.close();
  }
}

/** Passes while it runs, until one finds little or no less than the one before. */
const PASSES_MAX = 4;
const LITTLE_BYTES = 64 * 2 ** 20;

async function copyPaused(session: Session, copying: Copying, targets: readonly OneCopy[]): Promise<void> {
  const { side } = copying;
  const { terminal, signal } = session;
  for (let [pass, before] = [1, Infinity]; pass < PASSES_MAX; pass += 1) {
    const changed = await copyAll(session, targets);
    terminal.say(`${writeBytes(changed)} had changed meanwhile`);
    if (changed <= LITTLE_BYTES || changed > before / 2) {
      break;
    }
    before = changed;
  }
  await command(session, side, "pause").catch(async (error: unknown) => {
    await assertSameSide(session, copying);
    throw error;
  });
  const pausedAtMs = performance.now();
  try {
    signal.throwIfAborted();
    await copyAll(session, targets);
  } finally {
    await resume(session, copying);
  }
  await assertSameSide(session, copying);
  terminal.say(`the guest stood still for ${((performance.now() - pausedAtMs) / 1_000).toFixed(1)} s`);
}

async function copyAll(session: Session, targets: readonly OneCopy[]): Promise<number> {
  let bytes = 0;
  for (const target of targets) {
    bytes += (await copyOnce(session, target)).sentBytes;
  }
  return bytes;
}

/** After ^C too: a request that nobody waits for any more would leave the guest paused. */
async function resume(session: Session, copying: Copying): Promise<void> {
  const patient = { ...session, call: {} };
  const { side, vm } = copying;
  await command(patient, side, "unpause").catch(async (cause: unknown) => {
    // A takeover has let it go on.
    await assertSameSide(patient, copying);
    const { namespace, name } = side.vmi;
    const says = `${vm.metadata.name} is still paused: let it go on with: virtctl unpause vmi ${name} -n ${namespace}`;
    throw new CliFailure("Failed", says, { cause });
  });
}

/** What was read is of the side that ran it, from the first block to the last. */
async function assertSameSide(session: Session, { vm: { metadata, status }, side }: Copying): Promise<void> {
  const now = await readVm(session, metadata.namespace ?? "", metadata.name);
  const node = now.status?.primary?.node;
  if (node !== side.node || now.status?.term !== status?.term) {
    const says = `${metadata.name} has changed sides while its disk was read (it is on ${node ?? "none"} now)`;
    throw new CliFailure("Refused", `${says}: start the same command again, which reads what differs`);
  }
}

async function command(
  { cluster, call }: Pick<Session, "cluster" | "call">,
  { vmi }: CurrentSide,
  verb: "pause" | "unpause",
): Promise<void> {
  const ref: ObjectRef = { kind: { ...kinds.vmi, apiVersion: "subresources.kubevirt.io/v1" }, ...vmi };
  await cluster.putSubresource(ref, verb, {}, call);
}

type Writing = {
  readonly vm: ShownVm;
  readonly machine: Json;
  readonly format: ExportFormat;
  readonly path: string;
  readonly copies: readonly Exported[];
};

/** Under another name until it is whole. */
async function writeFiles(session: Session, { vm, machine, format, path, copies }: Writing): Promise<void> {
  const { terminal, signal } = session;
  const [first] = copies;
  if (first === undefined) {
    return;
  }
  const part = `${path}.part`;
  const convert = async (from: Exported, to: string, options: readonly string[]): Promise<void> => {
    await prepareFile(to, 0);
    await runQemuImg({
      ...{ cpuSeconds: readSecondsMax(2 ** 40), memoryBytes: READ_MEMORY_BYTES, signal },
      args: ["convert", "-p", ...options, encodeNode({ path: from.rawPath }, "raw"), to],
      onOutput: (text) => {
        const percent = parseProgress(text);
        if (percent !== undefined) {
          terminal.showProgress(`writing ${basename(to)}: ${roundPercent(percent)}%`);
        }
      },
    });
  };
  switch (format) {
    case "raw":
      await rename(first.rawPath, part);
      break;
    case "qcow2":
      await convert(first, part, ["-O", "qcow2"]);
      break;
    case "vmdk":
      await convert(first, part, ["-O", "vmdk", "-o", "subformat=streamOptimized"]);
      break;
    case "ova":
      await writeOva({ ...{ name: vm.metadata.name, machine, path: part, directory: dirname(path) }, copies, convert });
      break;
  }
  await rename(part, path);
}
