/**
 * What a reflector does next: list, or watch from a version, and after which pause. Pure.
 *
 *   list --listed--> watch --ended, passing failure--> watch from the last version
 *    ^                 |
 *    +-- 410, or a failure that is not of the moment, or the third trouble in a row inside the server
 */
export type ReflectorStep = { readonly tag: "list" } | { readonly tag: "watch"; readonly resourceVersion: string };

export type Progress = {
  readonly step: ReflectorStep;
  /** Before the step. */
  readonly delayMs: number;
  /** Steps in a row that brought nothing. */
  readonly failedCount: number;
  /** Troubles of the server in a row that may have to do with the version. */
  readonly doubtCount: number;
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
  | ({ readonly tag: "watchFailed"; readonly error: unknown; readonly doubt: VersionDoubt } & WatchResult);

/** Whether the server will go on from the version: a server that is away says nothing about it, one that refuses it does. */
export type VersionDoubt = "none" | "some" | "certainty";

export type BackoffTiming = { readonly backoffMinMs: number; readonly backoffMaxMs: number };

export const initialProgress: Progress = {
  step: { tag: "list" },
  delayMs: 0,
  failedCount: 0,
  doubtCount: 0,
  listedCount: 0,
  hasExpired: false,
};

const doubtCountMax = 3;

export function nextStep(progress: Progress, event: ReflectorEvent, timing: BackoffTiming): Progress {
  switch (event.tag) {
    case "listed":
      return {
        step: { tag: "watch", resourceVersion: event.resourceVersion },
        delayMs: 0,
        failedCount: 0,
        doubtCount: 0,
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
  const sofar = event.isFruitful ? { ...progress, failedCount: 0, doubtCount: 0 } : progress;
  if (event.tag === "watchEnded") {
    const next = event.isFruitful ? { ...sofar, delayMs: 0 } : backOff(sofar, timing);
    return { ...next, step: again };
  }
  const doubtCount = sofar.doubtCount + (event.doubt === "some" ? 1 : 0);
  const mustList = event.doubt === "certainty" || doubtCount >= doubtCountMax;
  return { ...backOff(sofar, timing), doubtCount, step: mustList ? { tag: "list" } : again };
}

/** Twice as long each time. */
function backOff(progress: Progress, { backoffMinMs, backoffMaxMs }: BackoffTiming): Progress {
  const delayMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** progress.failedCount);
  return { ...progress, delayMs, failedCount: progress.failedCount + 1 };
}
