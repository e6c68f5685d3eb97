/**
 * Every write of the guest to one disk goes to an NBD server of ours as well, before the guest is told that it is done.
 *
 * QEMU side: a node `twinrun-target-N` (NBD client), a job `twinrun-mirror-N` (blockdev-mirror sync=none
 * copy-mode=write-blocking) and its filter `twinrun-filter-N` above the disk. N is the disk's place in the list of disks,
 * because node names have room for 31 characters only.
 *
 * Contract:
 * - When start has resolved, every write the guest makes from then on, and each it made since start was called, is at the
 *   target when the guest is told that it is done; so when QEMU has stopped, none is under way.
 * - What the disk held before is not copied: that is the engine's, which can compare and skip.
 * - A target that fails (an error, a closed connection) never fails a guest's write. The job is paused then, each further
 *   write reaches the disk only, and `ended` tells; stop must be called all the same. After a closed connection QEMU looks for the
 *   target for `reconnectSeconds` before; writes wait meanwhile.
 * - A target that answers nothing blocks the guest's writes and, with them, QEMU's next stop and its main loop. Whoever
 *   serves the target closes the connection before it calls stop; a process that hangs has to be killed. `cut` breaks the
 *   connection from QEMU's end, out of band; that does not help when the socket's buffer is full, because QEMU then waits
 *   to write and does not see the hang-up of a unix socket (7.2 and 10.0).
 *
 * - A mirror whose process died stays in QEMU and connects again to whoever listens at its socket. The next process calls
 *   removeLeftoverMirrors before it listens there.
 *
 * Why the guest is stopped for a moment to end a mirror, and why a failed target pauses the job (on-target-error=stop) and
 * does not end it: QEMU 7.2 to 10.0 free the job's memory without waiting for guest writes that are still being mirrored,
 * which corrupts the heap ("corrupted double-linked list", in 1 of 3 cancels with writes under way). Once all are drained,
 * as they are when the guest is stopped, the job may go.
 *
 * Why copy-mode alone is not trusted before READY: until then QEMU copies what was written while the job was set up in
 * the background, in any order with the guest's.
 */
import { Failure } from "../lib/failure.ts";
import { countOwnStop } from "./own-stops.ts";
import { type QmpClient } from "./qmp-client.ts";
import { type QmpRequest } from "./qmp-commands.ts";
import { QmpFailure } from "./qmp-failure.ts";

export type MirrorOptions = {
  /** The disk's node name, or the device name of a -drive. */
  readonly device: string;
  /** Its place in the list of disks. */
  readonly index: number;
  /** The unix socket of the NBD server. */
  readonly socketPath: string;
  readonly exportName?: string;
  /** How long the guest's writes wait for a target that closed the connection, before they reach the disk alone; 0 unless told. */
  readonly reconnectSeconds?: number;
};
export type MirrorEnd = { readonly tag: "stopped" } | { readonly tag: "failed"; readonly reason: string };
export type MirrorFailureDetail =
  | { readonly code: "MirrorNotStarted"; readonly device: string; readonly reason: string }
  | { readonly code: "MirrorNotStopped"; readonly device: string; readonly reason: string };
export class MirrorFailure extends Failure<MirrorFailureDetail> {}

const JOB_PREFIX = "twinrun-mirror-";
const TARGET_PREFIX = "twinrun-target-";
const FILTER_PREFIX = "twinrun-filter-";
const START_TIMEOUT_MS = 5_000;
/** After that time a cancelled job that still waits for its target is cut off from it. */
const CANCEL_PATIENCE_MS = 300;
const STOP_TIMEOUT_MS = 5_000;

export class DiskMirror {
  readonly index: number;
  readonly device: string;
  /** When the mirror stopped mirroring, and why; never rejects. */
  readonly ended: Promise<MirrorEnd>;
  readonly #qmp: QmpClient;
  #isStopping = false;

  private constructor(qmp: QmpClient, options: MirrorOptions, ended: Promise<MirrorEnd>) {
    this.#qmp = qmp;
    this.index = options.index;
    this.device = options.device;
    this.ended = ended.then((end) => (this.#isStopping ? { tag: "stopped" } : end));
  }

  /** Starts mirroring; remains of an earlier mirror of the same disk are removed first. */
  static async start(qmp: QmpClient, options: MirrorOptions): Promise<DiskMirror> {
    const names = namesOf(options.index);
    await removeMirror(qmp, options.index);
    const events = watchJob(qmp, names.job);
    try {
      await qmp.execute("blockdev-add", {
        "node-name": names.target,
        driver: "nbd",
        server: { type: "unix", path: options.socketPath },
        ...(options.exportName === undefined ? {} : { export: options.exportName }),
        "reconnect-delay": options.reconnectSeconds ?? 0,
      });
      await qmp.execute("blockdev-mirror", {
        "job-id": names.job,
        device: options.device,
        target: names.target,
        sync: "none",
        "copy-mode": "write-blocking",
        "filter-node-name": names.filter,
        "on-target-error": "stop",
        "on-source-error": "stop",
      });
      await withinMs(events.ready, START_TIMEOUT_MS, "blockdev-mirror");
      return new DiskMirror(qmp, options, events.ended);
    } catch (error) {
      events.cancel();
      await removeMirror(qmp, options.index).catch(() => undefined);
      const reason = error instanceof Error ? error.message : String(error);
      throw new MirrorFailure(
        { code: "MirrorNotStarted", device: options.device, reason },
        `disk ${options.device} is not mirrored to ${options.socketPath}: ${reason}`,
        { cause: error },
      );
    }
  }

  /** Ends the mirror and removes its nodes. `cut` breaks the connection first and waits for nothing of the target. */
  async stop(options: { readonly cut?: boolean } = {}): Promise<void> {
    this.#isStopping = true;
    if (options.cut === true) {
      await cutTarget(this.#qmp, this.index);
    }
    await removeMirror(this.#qmp, this.index);
  }
}

/** Removes whatever mirrors an earlier process of ours left in this QEMU; returns how many there were. */
export async function removeLeftoverMirrors(qmp: QmpClient): Promise<number> {
  const indexes = new Set<number>();
  for (const job of await qmp.execute("query-block-jobs", {})) {
    addIndex(indexes, job.device, JOB_PREFIX);
  }
  for (const node of await qmp.execute("query-named-block-nodes", { flat: true })) {
    addIndex(indexes, node["node-name"] ?? "", TARGET_PREFIX);
  }
  for (const index of indexes) {
    await removeMirror(qmp, index);
  }
  return indexes.size;
}

/** The disk's place in the list, of a node that is a mirror's filter. */
export function parseFilterIndex(node: string): number | undefined {
  return node.startsWith(FILTER_PREFIX) ? Number(node.slice(FILTER_PREFIX.length)) : undefined;
}

function addIndex(indexes: Set<number>, name: string, prefix: string): void {
  if (name.startsWith(prefix)) {
    indexes.add(Number(name.slice(prefix.length)));
  }
}

function namesOf(index: number): { readonly job: string; readonly target: string; readonly filter: string } {
  return { job: `${JOB_PREFIX}${index}`, target: `${TARGET_PREFIX}${index}`, filter: `${FILTER_PREFIX}${index}` };
}

/** Job first, then its node. A job that waits for a target which does not answer is cut off from it after a while. */
async function removeMirror(qmp: QmpClient, index: number): Promise<void> {
  const names = namesOf(index);
  const events = watchJob(qmp, names.job);
  try {
    if (await hasJob(qmp, names.job)) {
      const gone = Promise.all([cancelWhileStopped(qmp, names.job), events.gone]);
      gone.catch(() => undefined);
      await withinMs(gone, CANCEL_PATIENCE_MS, "block-job-cancel").catch(async () => {
        await cutTarget(qmp, index);
        await withinMs(gone, STOP_TIMEOUT_MS, "block-job-cancel");
      });
    }
    if (await hasNode(qmp, names.target)) {
      await qmp.execute("blockdev-del", { "node-name": names.target });
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new MirrorFailure(
      { code: "MirrorNotStopped", device: names.job, reason },
      `the mirror ${names.job} does not end: ${reason}; the guest's writes may hang until QEMU is restarted`,
      { cause: error },
    );
  } finally {
    events.cancel();
  }
}

/** Stop, cancel, go on, in one write, so that this process can hardly die in between. See the head of this file. */
async function cancelWhileStopped(qmp: QmpClient, job: string): Promise<void> {
  const { running } = await qmp.execute("query-status", {});
  const cancel: QmpRequest = { command: "block-job-cancel", args: { device: job, force: true } };
  const stop: QmpRequest = { command: "stop", args: {} };
  const go: QmpRequest = { command: "cont", args: {} };
  const outcomes = qmp.batch(running ? [stop, cancel, go] : [cancel], { timeoutMs: 0 });
  countOwnStop(qmp, outcomes);
  const last = (await outcomes).at(-1);
  // That the job has gone by itself is no failure; that the guest was not started again is one.
  if (running && last?.tag === "failed") {
    throw last.failure;
  }
}

async function cutTarget(qmp: QmpClient, index: number): Promise<void> {
  await qmp
    .yank([{ type: "block-node", "node-name": namesOf(index).target }], { timeoutMs: STOP_TIMEOUT_MS })
    .catch(ignoreMissing);
}

async function hasJob(qmp: QmpClient, job: string): Promise<boolean> {
  return (await qmp.execute("query-block-jobs", {})).some(({ device }) => device === job);
}

async function hasNode(qmp: QmpClient, node: string): Promise<boolean> {
  const nodes = await qmp.execute("query-named-block-nodes", { flat: true });
  return nodes.some((each) => each["node-name"] === node);
}

/** Between looking and acting the job or node may have gone by itself: then there is nothing left to do. */
function ignoreMissing(error: unknown): void {
  if (!(error instanceof QmpFailure) || error.detail.code !== "QmpRejected") {
    throw error;
  }
}

type JobWatch = {
  /** Rejects when the job ends before it was ready. */
  readonly ready: Promise<void>;
  /** The first error at the target, or the job's end. */
  readonly ended: Promise<MirrorEnd>;
  /** QEMU has forgotten the job. */
  readonly gone: Promise<void>;
  readonly cancel: () => void;
};

function watchJob(qmp: QmpClient, job: string): JobWatch {
  let unsubscribe = (): void => undefined;
  let reportReady = (): void => undefined;
  let refuseReady: (reason: Error) => void = () => undefined;
  let reportEnd: (end: MirrorEnd) => void = () => undefined;
  let reportGone = (): void => undefined;
  const ready = new Promise<void>((resolve, reject) => {
    reportReady = resolve;
    refuseReady = reject;
  });
  ready.catch(() => undefined); // Only start waits for it.
  const ended = new Promise<MirrorEnd>((resolve) => {
    reportEnd = resolve;
  });
  const gone = new Promise<void>((resolve) => {
    reportGone = resolve;
  });
  const settle = (reason: string): void => {
    unsubscribe();
    refuseReady(new Error(reason));
    reportEnd({ tag: "failed", reason });
    reportGone();
  };
  unsubscribe = qmp.onEvent(({ event, data }) => {
    if (event === "BLOCK_JOB_ERROR" && data["device"] === job) {
      reportEnd({ tag: "failed", reason: `a ${String(data["operation"])} of the mirror failed` });
    } else if (event === "BLOCK_JOB_READY" && data["device"] === job) {
      reportReady();
    } else if (event === "JOB_STATUS_CHANGE" && data["id"] === job && data["status"] === "null") {
      settle("the job ended");
    }
  });
  void qmp.closed.then((reason) => {
    settle(`the monitor closed: ${reason}`);
  });
  return { ready, ended, gone, cancel: unsubscribe };
}

async function withinMs<T>(promise: Promise<T>, timeoutMs: number, command: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(QmpFailure.timedOut(command, timeoutMs));
    }, timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
