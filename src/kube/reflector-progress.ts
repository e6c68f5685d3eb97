/**
 * What a reflector does next: list, or watch from a version, and after which pause. Pure.
 *
 *   list --listed--> watch --ended, passing failure--> watch from the last version
 *    ^                 |
 *    +-- 410, or a failure that is not of the moment, or the third watch in a row that could not be opened
 */
export type ReflectorStep = { readonly tag: "list" } | { readonly tag: "watch"; readonly resourceVersion: string };

export type Progress = {
  readonly step: ReflectorStep;
  /** Before the step. */
  readonly delayMs: number;
  /** Steps in a row that brought nothing. */
  readonly failedCount: number;
  readonly listedCount: number;
  /** The last list took so long that its later pages were gone. */
  readonly hasExpired: boolean;
};

type WatchResult = {
  /** Of the last event. */
  readonly resourceVersion: string;
  /** Something was heard, or it lasted. */
  readonly isFruitful: boolean;
};

export type ReflectorEvent =
  | { readonly tag: "listed"; readonly resourceVersion: string }
  /** Of a list. */
  | { readonly tag: "failed"; readonly error: unknown; readonly isExpired: boolean }
  | ({ readonly tag: "watchEnded" } & WatchResult)
  /** `mustList`: the server will not go on from that version. */
  | ({ readonly tag: "watchFailed"; readonly error: unknown; readonly mustList: boolean } & WatchResult);

export type BackoffTiming = { readonly backoffMinMs: number; readonly backoffMaxMs: number };

export const initialProgress: Progress = {
  step: { tag: "list" },
  delayMs: 0,
  failedCount: 0,
  listedCount: 0,
  hasExpired: false,
};

/** After so many watches that could not be opened, the version itself is under suspicion. */
const watchTriesMax = 3;

export function nextStep(progress: Progress, event: ReflectorEvent, timing: BackoffTiming): Progress {
  switch (event.tag) {
    case "listed":
      return {
        step: { tag: "watch", resourceVersion: event.resourceVersion },
        delayMs: 0,
        failedCount: 0,
        listedCount: progress.listedCount + 1,
        hasExpired: false,
      };
    case "failed":
      return { ...backOff(progress, timing), step: { tag: "list" }, hasExpired: event.isExpired };
    case "watchEnded":
    case "watchFailed":
      return afterWatch(progress, event, timing);
  }
}

function afterWatch(
  progress: Progress,
  event: Extract<ReflectorEvent, { resourceVersion: string; isFruitful: boolean }>,
  timing: BackoffTiming,
): Progress {
  const again = { tag: "watch", resourceVersion: event.resourceVersion } as const;
  const sofar = event.isFruitful ? { ...progress, failedCount: 0 } : progress;
  if (event.tag === "watchEnded" && event.isFruitful) {
    return { ...sofar, step: again, delayMs: 0 };
  }
  const next = backOff(sofar, timing);
  const mustList = (event.tag === "watchFailed" && event.mustList) || next.failedCount % watchTriesMax === 0;
  return { ...next, step: mustList ? { tag: "list" } : again };
}

/** Twice as long each time. */
function backOff(progress: Progress, { backoffMinMs, backoffMaxMs }: BackoffTiming): Progress {
  const delayMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** progress.failedCount);
  return { ...progress, delayMs, failedCount: progress.failedCount + 1 };
}
