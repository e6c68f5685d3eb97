/**
 * Puts a raw image under a device of QEMU whose image is of another format, so that the disk's bytes are the bytes of one file.
 *
 * QEMU side: a node `twinrun-raw-N` over a file that whoever calls has made, empty and of the disk's size; a job of the same
 * name while the content is copied. N is the disk's place in the list of disks: node names have room for 31 characters only.
 * The image that was there before stays open in QEMU and belongs to whoever gave it to QEMU (libvirt), unused.
 *
 * Contract:
 * - copyToRawNode resolves when the device reads and writes the raw image, with everything that the old one held. When it
 *   throws the device is where it was. The guest must stand still: QEMU 7.2 dies when the volume of the raw image fills up
 *   while a guest writes through a thread of its own.
 * - swapRawNode gives the device the raw image as it is. Only for a QEMU that waits for a state: its nodes are inactive, and
 *   what they hold comes from elsewhere. QEMU asks for the image's size anew when it is started.
 * - removeRawNode removes what a caller that died has left of N, as long as no device uses it.
 *
 * Tried with QEMU 7.2 and 10.0, with virtio, SCSI and SATA disks, virtio in a thread of its own as well.
 */
import { Failure } from "../lib/failure.ts";
import { type QmpClient } from "./qmp-client.ts";
import { QmpFailure } from "./qmp-failure.ts";

export type RawNode = {
  /** The disk's place in the list of disks. */
  readonly index: number;
  /** The empty file, as QEMU names it. */
  readonly path: string;
  /** Whether QEMU goes past the page cache, as it does with the image that is there. */
  readonly isDirect: boolean;
};

export class RawNodeFailure extends Failure<{ readonly code: "NotMadeRaw"; readonly reason: string }> {}

const PREFIX = "twinrun-raw-";
const PROGRESS_MS = 1_000;

const nameOf = (index: number): string => `${PREFIX}${index}`;

export async function addRawNode(qmp: QmpClient, { index, path, isDirect }: RawNode): Promise<void> {
  const shared = { discard: "unmap", cache: { direct: isDirect } };
  await qmp.execute("blockdev-add", {
    ...{ "node-name": nameOf(index), driver: "raw", ...shared },
    file: { driver: "file", filename: path, ...shared },
  });
}

/** Copies what `node` holds to the raw node and puts that in its place. */
export async function copyToRawNode(
  qmp: QmpClient,
  { index, node }: { readonly index: number; readonly node: string },
  onProgress: (percent: number) => void,
): Promise<void> {
  const job = nameOf(index);
  const end = watchEnd(qmp, job);
  const asking = setInterval(() => void readProgress(qmp, job).then(onProgress, () => undefined), PROGRESS_MS);
  try {
    await qmp.execute("blockdev-mirror", {
      ...{ "job-id": job, device: node, target: job, sync: "full" },
      ...{ "on-source-error": "report", "on-target-error": "report" },
    });
    await end.done;
  } finally {
    clearInterval(asking);
    end.cancel();
  }
}

/** `device` is the id that the device was given. */
export async function swapRawNode(
  qmp: QmpClient,
  { index, device }: { readonly index: number; readonly device: string },
): Promise<void> {
  await qmp.execute("qom-set", { path: `/machine/peripheral/${device}`, property: "drive", value: nameOf(index) });
}

export async function removeRawNode(qmp: QmpClient, index: number): Promise<void> {
  const name = nameOf(index);
  const end = watchEnd(qmp, name);
  try {
    if ((await qmp.execute("query-block-jobs", {})).some(({ device }) => device === name)) {
      await qmp.execute("block-job-cancel", { device: name, force: true });
      await end.done.catch(() => undefined);
    }
    const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
    if (nodes.some((each) => each["node-name"] === name)) {
      await qmp.execute("blockdev-del", { "node-name": name });
    }
  } finally {
    end.cancel();
  }
}

async function readProgress(qmp: QmpClient, job: string): Promise<number> {
  const found = (await qmp.execute("query-block-jobs", {})).find(({ device }) => device === job);
  return found === undefined || found.len === 0 ? 0 : Math.floor((found.offset / found.len) * 100);
}

type End = { readonly done: Promise<void>; readonly cancel: () => void };

/** Sees the job through: completes it when it has caught up, and settles when QEMU has forgotten it. */
function watchEnd(qmp: QmpClient, job: string): End {
  let cancel = (): void => undefined;
  const done = new Promise<void>((resolve, reject) => {
    let reason: string | undefined = "the copy was cancelled";
    cancel = qmp.onEvent(({ event, data }) => {
      if (event === "BLOCK_JOB_READY" && data["device"] === job) {
        qmp.execute("job-complete", { id: job }).catch(reject);
      } else if (event === "BLOCK_JOB_COMPLETED" && data["device"] === job) {
        reason = typeof data["error"] === "string" ? data["error"] : undefined;
      } else if (event === "JOB_STATUS_CHANGE" && data["id"] === job && data["status"] === "null") {
        if (reason === undefined) {
          resolve();
        } else {
          reject(new RawNodeFailure({ code: "NotMadeRaw", reason }, `the copy to a raw image failed: ${reason}`));
        }
      }
    });
    void qmp.closed.then((why) => {
      reject(QmpFailure.closed("blockdev-mirror", why));
    });
  });
  done.catch(() => undefined); // Where the command itself is refused nobody waits for it.
  return { done, cancel };
}
