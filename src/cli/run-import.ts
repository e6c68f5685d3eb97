/**
 * `import`: disk images become the volumes of a ProtectedVM.
 *
 * An image is looked at and made raw on the machine of whoever imports it, under limits; what goes into the cluster are the bytes of
 * a disk, which nobody there has to understand. Each step finds what an earlier attempt left: the raw file, the volume (by its
 * annotation), the pod that holds it, and in the volume whatever had arrived (by hashes).
 *
 * Why CDI only makes the volumes, where it is installed: its upload keeps nothing of one that broke off, and opens the image in the
 * cluster.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { IMAGE_FORMATS } from "../image/image-header.ts";
import { writeBytes } from "../image/image-limits.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { isJson, type Json, readPath } from "../lib/json-merge.ts";
import { copyBlocks, type CopyProgress } from "./block-copy.ts";
import { CliFailure, usageWrong } from "./cli-failure.ts";
import { waitForVm } from "./follow.ts";
import { type ImageSource, readImageSource, type SourceDisk } from "./image-source.ts";
import {
  IMPORT_ANNOTATION,
  type ImportPlan,
  parseImportWish,
  parseSize,
  planImport,
  type PlannedVolume,
} from "./import-plan.ts";
import { type KubeObject } from "./kube-objects.ts";
import { LocalVolume } from "./local-volume.ts";
import { encodeOutput } from "./output.ts";
import { roundPercent } from "./qemu-img.ts";
import { FIELD_MANAGER } from "./run-changes.ts";
import { decideReady } from "./run-protect.ts";
import { findObject, kinds, readNamespace, type Session } from "./session.ts";
import { readTransferImage, removeTransferPod, type TransferPod } from "./transfer-pod.ts";
import { transfer } from "./volume-transfer.ts";
import { openWorkDirectory, provideRawDisk, removeRawDisk } from "./work-directory.ts";

const READY_MS_MAX = 30 * 60_000;
const VOLUME_MS_MAX = 10 * 60_000;
const LOOK_EVERY_MS = 500;

export async function runImport(session: Session): Promise<number> {
  const { invocation, terminal, cluster, call } = session;
  const namespace = await readNamespace(session);
  const source = await readSource(session);
  const template = await readTemplate(invocation.texts.get("template"));
  const wish = parseImportWish(invocation, { namespace, machine: source.machine, template });
  const disks = source.disks.map(({ header, identity }) => ({ virtualBytes: header.virtualBytes, identity }));
  const plan = planImport(wish, disks, await cluster.hasResource(kinds.dataVolume));
  for (const note of plan.notes) {
    terminal.say(note);
  }
  if (invocation.switches.has("dry-run")) {
    const objects = [...plan.volumes.map(({ object }) => object), plan.vm];
    terminal.print([objects.map((object) => encodeOutput(object, "yaml")).join("\n---\n")]);
    terminal.say("dry run: nothing was made");
    return 0;
  }
  await assertNew(session, plan.vm);
  await fillVolumes(session, { plan, source, node: wish.nodes[0] ?? "" });
  await cluster.create(plan.vm, { ...call, fieldManager: FIELD_MANAGER });
  terminal.print([`protectedvm.twinrun.dev/${wish.name} created`]);
  if (invocation.switches.has("wait")) {
    const timeoutMs = invocation.numbers.get("timeout") ?? READY_MS_MAX;
    const stays = "it goes on without you; look with: kubectl twinrun status";
    terminal.print([await waitForVm(session, { namespace, name: wish.name, timeoutMs, stays, decide: decideReady })]);
  } else {
    terminal.say(`follow it with: kubectl twinrun status -n ${namespace} ${wish.name} --watch`);
  }
  return 0;
}

async function readSource({ invocation, terminal, signal }: Session): Promise<ImageSource> {
  const { texts, names } = invocation;
  const format = texts.get("format");
  const wanted = IMAGE_FORMATS.find((each) => each === format);
  if (format !== undefined && wanted === undefined) {
    throw usageWrong(`--format must be ${IMAGE_FORMATS.join(" or ")}, not ${format}`);
  }
  const source = await readImageSource(names, {
    ...{ wanted, virtualBytesMax: parseSize("max-size", texts.get("max-size")), signal },
    say: (line) => {
      terminal.say(line);
    },
  });
  for (const { name, header, contentBytes } of source.disks) {
    terminal.say(
      `${name}: ${header.format}, a disk of ${writeBytes(header.virtualBytes)} with ${writeBytes(contentBytes)} in it`,
    );
  }
  return source;
}

async function readTemplate(path: string | undefined): Promise<Json> {
  if (path === undefined) {
    return {};
  }
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new CliFailure("Failed", `${path} cannot be read`, { cause });
  });
  const { parse } = await import("yaml");
  const object: unknown = parse(text);
  if (
    !isJson(object) ||
    object["kind"] !== "ProtectedVM" ||
    readPath(object, "spec", "virtualMachineTemplate") === undefined
  ) {
    throw usageWrong(`--template must be a ProtectedVM with virtualMachineTemplate; ${path} is none`);
  }
  return object;
}

async function assertNew(session: Session, { metadata: { namespace, name } }: KubeObject): Promise<void> {
  const found = await findObject(session, { kind: kinds.protectedVm, namespace, name });
  if (found !== undefined) {
    throw new CliFailure(
      "Refused",
      `there is a ProtectedVM ${name} in namespace ${namespace ?? ""} already; give another --name`,
    );
  }
}

type Filling = { readonly plan: ImportPlan; readonly source: ImageSource; readonly node: string };

async function fillVolumes(session: Session, { plan, source, node }: Filling): Promise<void> {
  const image = await readTransferImage(session);
  try {
    for (const [index, volume] of plan.volumes.entries()) {
      const disk = source.disks[index];
      if (disk !== undefined) {
        await fillVolume(session, { volume, disk, image, node });
      }
    }
  } catch (error) {
    session.terminal.say("what has arrived stays: start the same command again to go on");
    throw error;
  }
}

type OneFilling = {
  readonly volume: PlannedVolume;
  readonly disk: SourceDisk;
  readonly image: string;
  readonly node: string;
};

async function fillVolume(session: Session, { volume, disk, image, node }: OneFilling): Promise<void> {
  const { invocation, terminal, signal } = session;
  const raw = await provideRawDisk({
    ...{ disk, directory: await openWorkDirectory(invocation.texts.get("work-dir")), signal },
    onPercent: (percent) => {
      terminal.showProgress(`making ${disk.name} raw: ${roundPercent(percent)}%`);
    },
  });
  await provideVolume(session, volume);
  const claim = await awaitClaim(session, volume);
  const ref = {
    namespace: claim.metadata.namespace ?? "",
    claim: volume.claim,
    isBlock: readPath(claim, "spec", "volumeMode") === "Block",
  };
  const pod: TransferPod = { volume: ref, access: "write", image, node };
  let sent: CopyProgress;
  try {
    sent = await sendDisk(session, pod, { path: raw.path, bytes: volume.bytes });
  } finally {
    await removeTransferPod(session, ref);
  }
  terminal.say(
    `${volume.claim}: ${writeBytes(sent.allBytes)} are there, ${writeBytes(sent.sentBytes)} of them sent now`,
  );
  await removeTransferPod(session, ref);
  await removeRawDisk(raw);
}

async function provideVolume({ cluster, call, ...session }: Session, { claim, object }: PlannedVolume): Promise<void> {
  const kind = object.kind === "DataVolume" ? kinds.dataVolume : kinds.claim;
  const ref = { kind, namespace: object.metadata.namespace, name: claim };
  const found = await findObject({ cluster, call, ...session }, ref);
  if (found === undefined) {
    await cluster.create(object, { ...call, fieldManager: FIELD_MANAGER });
    return;
  }
  const ofImport = found.metadata.annotations?.[IMPORT_ANNOTATION];
  if (ofImport !== object.metadata.annotations?.[IMPORT_ANNOTATION]) {
    const says =
      ofImport === undefined ? "was not made by an import" : "was made for another image, or this one has changed";
    throw new CliFailure(
      "Refused",
      `there is a volume ${claim} already, and it ${says}: give another --name, or delete it (${kind.plural}) if nobody needs it`,
    );
  }
}

/** CDI makes the claim of a DataVolume. */
async function awaitClaim(session: Session, { claim, object }: PlannedVolume): Promise<KubeObject> {
  const untilMs = performance.now() + VOLUME_MS_MAX;
  for (;;) {
    const found = await findObject(session, { kind: kinds.claim, namespace: object.metadata.namespace, name: claim });
    if (found !== undefined) {
      return found;
    }
    if (performance.now() > untilMs) {
      throw new CliFailure(
        "TimedOut",
        `CDI makes no claim for DataVolume ${claim}: kubectl describe datavolume ${claim} may say why`,
      );
    }
    session.terminal.showProgress(`waiting for the claim of DataVolume ${claim}`);
    await sleep(LOOK_EVERY_MS, undefined, { signal: session.signal });
  }
}

type RawFile = { readonly path: string; readonly bytes: number };

async function sendDisk(session: Session, pod: TransferPod, { path, bytes }: RawFile): Promise<CopyProgress> {
  const source = await LocalVolume.open(path, "read");
  try {
    return await transfer(session, {
      ...{ pod, bytes, isReady: () => awaitDataVolume(session, pod) },
      copy: (target, onProgress) => copyBlocks({ source, target, signal: session.signal, onProgress }),
    });
  } finally {
    await source.close();
  }
}

/** CDI makes the disk in a volume that it has just made; only then may it be written to. */
async function awaitDataVolume(session: Session, { volume: { namespace, claim } }: TransferPod): Promise<void> {
  const ref = { kind: kinds.dataVolume, namespace, name: claim };
  const untilMs = performance.now() + VOLUME_MS_MAX;
  for (;;) {
    const found = await findObject<KubeObject & { readonly status?: { readonly phase?: string } }>(session, ref).catch(
      (error: unknown) => {
        if (hasKubeCode(error, "Forbidden")) {
          return undefined; // Who may not see DataVolumes made a plain claim.
        }
        throw error;
      },
    );
    const phase = found?.status?.phase ?? "";
    if (found === undefined || phase === "Succeeded") {
      return;
    }
    if (phase === "Failed" || performance.now() > untilMs) {
      throw new CliFailure(
        "Failed",
        `CDI does not make volume ${claim} (${phase}): kubectl describe datavolume ${claim} may say why`,
      );
    }
    session.terminal.showProgress(`waiting for CDI to make volume ${claim} (${phase})`);
    await sleep(LOOK_EVERY_MS, undefined, { signal: session.signal });
  }
}
