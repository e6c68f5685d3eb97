/** Copies to or from a volume in the cluster, again and again until it is whole: what broke off is taken up where it was. */
import { setTimeout as sleep } from "node:timers/promises";
import { writeBytes } from "../image/image-limits.ts";
import { type BlockStore, type CopyProgress } from "./block-copy.ts";
import { RemoteVolume } from "./remote-volume.ts";
import { type Session } from "./session.ts";
import { isPassing, openVolumeStream, startTransferPod, type TransferPod } from "./transfer-pod.ts";

export type Transfer = {
  readonly pod: TransferPod;
  /** How long the disk in the volume is made at least; 0 leaves it as it is. */
  readonly bytes: number;
  /** Comes back when the volume may be used; the pod runs then. */
  readonly isReady?: () => Promise<void>;
  readonly copy: (volume: BlockStore, onProgress: (progress: CopyProgress) => void) => Promise<CopyProgress>;
};

/** Attempts that got nowhere, before it is left to a person. */
const ATTEMPTS_MAX = 8;
const PAUSE_MS_MAX = 30_000;

/** What was sent in all attempts together. */
export async function transfer(session: Session, { pod, bytes, isReady, copy }: Transfer): Promise<CopyProgress> {
  const { terminal, signal } = session;
  let [sentBytes, failures] = [0, 0];
  for (;;) {
    try {
      await startTransferPod(session, pod);
      await isReady?.();
      const volume = await RemoteVolume.open(await openVolumeStream(session, pod), bytes);
      try {
        const track = trackProgress((line) => {
          terminal.showProgress(`${pod.volume.claim}: ${line}`);
        });
        let sentNow = 0;
        const done = await copy(volume, (progress) => {
          failures = progress.sentBytes > sentNow ? 0 : failures;
          sentBytes += progress.sentBytes - sentNow;
          sentNow = progress.sentBytes;
          track(progress);
        });
        await volume.close();
        return { ...done, sentBytes };
      } finally {
        volume.abandon();
      }
    } catch (error) {
      failures += 1;
      if (!isPassing(error) || failures >= ATTEMPTS_MAX || signal.aborted) {
        throw error;
      }
      terminal.say(`${(error as Error).message}; trying again`);
      await sleep(Math.min(PAUSE_MS_MAX, 500 * 2 ** failures), undefined, { signal });
    }
  }
}

const MIB = 2 ** 20;

/** A line of how far it is, and how fast that has been since it began. */
export function trackProgress(show: (line: string) => void): (progress: CopyProgress) => void {
  const startedAtMs = performance.now();
  return ({ doneBytes, allBytes, sentBytes }) => {
    const seconds = Math.max(0.001, (performance.now() - startedAtMs) / 1_000);
    const perSecond = doneBytes / seconds;
    const leftSeconds = Math.ceil((allBytes - doneBytes) / Math.max(1, perSecond));
    const percent = allBytes === 0 ? 100 : Math.floor((100 * doneBytes) / allBytes);
    show(
      `${percent}% of ${writeBytes(allBytes)}, ${writeBytes(sentBytes)} sent, ` +
        `${Math.round(perSecond / MIB)} MiB/s, ${leftSeconds} s left`,
    );
  };
}
