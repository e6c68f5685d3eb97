/** Follows objects of the API server until something is true of one, or for as long as somebody watches. */
import { type ListScope } from "../kube/cluster.ts";
import { hasKubeCode } from "../kube/kube-failure.ts";
import { type KubeObject, type ResourceKind } from "../kube/kube-object.ts";
import { type Change, Reflector } from "../kube/reflector.ts";
import { sleep as rest } from "../telemetry/sleep.ts";
import { CliFailure } from "./cli-failure.ts";
import { kinds, type Session } from "./session.ts";
import { type ShownVm } from "./protected-vms.ts";
import { writeAge } from "./duration.ts";

export type Followed<T extends KubeObject> = {
  readonly kind: ResourceKind;
  readonly scope: ListScope;
  /** Once, with all there are. */
  readonly onFirst: (objects: readonly T[]) => void;
  readonly onChange: (change: Change<T>) => void;
};

/** Ends only with ^C. An API server that is away for a while is waited for. */
export async function followObjects<T extends KubeObject>(session: Session, followed: Followed<T>): Promise<void> {
  const { cluster, signal, call } = session;
  const { kind, scope } = followed;
  // A mistake is told at once, instead of being tried again for ever.
  await cluster.list(kind, scope, call);
  const reflector = new Reflector<T>({ cluster, kind, scope });
  reflector.start();
  try {
    await Promise.race([reflector.synced(), untilAborted(signal)]);
    followed.onFirst(reflector.list());
    reflector.onChange(followed.onChange);
    await untilAborted(signal);
  } finally {
    await reflector.stop();
  }
}

export function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener("abort", () => {
      resolve();
    });
  });
}

/** How far something is. `says` is shown as it changes. */
export type Step = { readonly tag: "waiting" | "done" | "refused"; readonly says: string };

export type Wait = {
  readonly namespace: string;
  readonly name: string;
  readonly timeoutMs: number;
  /** What happens if nobody waits any more, and how to take it back. */
  readonly stays: string;
  readonly decide: (vm: ShownVm | undefined) => Promise<Step> | Step;
};

/** `decide` is asked at every change and once in this time, for what it reads besides. */
const LOOK_EVERY_MS = 1_000;

/** Says what happens until it is done; returns the last words. Throws Refused or TimedOut. */
export async function waitForVm(session: Session, wait: Wait): Promise<string> {
  const { cluster, terminal, signal } = session;
  const { namespace, name, timeoutMs } = wait;
  const scope = { namespace, fieldSelector: `metadata.name=${name}` };
  const reflector = new Reflector<ShownVm>({ cluster, kind: kinds.protectedVm, scope });
  reflector.start();
  const untilMs = performance.now() + timeoutMs;
  try {
    await Promise.race([reflector.synced(), untilAborted(signal), sleep(timeoutMs)]);
    for (;;) {
      signal.throwIfAborted();
      const step: Step = reflector.isSynced
        ? await wait.decide(reflector.get(`${namespace}/${name}`))
        : { tag: "waiting", says: "the API server does not answer" };
      if (isDone(step, { ...wait, untilMs })) {
        return step.says;
      }
      terminal.showProgress(step.says);
      await untilChange(reflector, Math.min(LOOK_EVERY_MS, untilMs - performance.now()), signal);
    }
  } finally {
    await reflector.stop();
  }
}

export type Look = Pick<Wait, "timeoutMs" | "stays"> & { readonly look: () => Promise<Step> };

/** The same for what is spread over many objects: `look` is asked once a second. An API server that is away is waited for. */
export async function waitUntil({ terminal, signal }: Session, { timeoutMs, stays, look }: Look): Promise<string> {
  const untilMs = performance.now() + timeoutMs;
  for (;;) {
    signal.throwIfAborted();
    const step = await look().catch((error: unknown): Step => {
      if (hasKubeCode(error, "Unreachable", "TimedOut")) {
        return { tag: "waiting", says: "the API server does not answer" };
      }
      throw error;
    });
    if (isDone(step, { timeoutMs, stays, untilMs })) {
      return step.says;
    }
    terminal.showProgress(step.says);
    await rest(Math.min(LOOK_EVERY_MS, untilMs - performance.now()), signal);
  }
}

type Limit = Pick<Wait, "timeoutMs" | "stays"> & { readonly untilMs: number };

/** Throws Refused, or TimedOut when the time for what is not done is up. */
function isDone(step: Step, { timeoutMs, stays, untilMs }: Limit): boolean {
  if (step.tag === "refused") {
    throw new CliFailure("Refused", step.says);
  }
  if (step.tag === "waiting" && performance.now() >= untilMs) {
    throw new CliFailure("TimedOut", `not done after ${writeAge(timeoutMs)} (${step.says}); ${stays}`);
  }
  return step.tag === "done";
}

function untilChange(reflector: Reflector<ShownVm>, timeoutMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const forget = reflector.onChange(() => {
      end();
    });
    const timer = setTimeout(() => {
      end();
    }, timeoutMs);
    const end = (): void => {
      clearTimeout(timer);
      forget();
      signal.removeEventListener("abort", end);
      resolve();
    };
    signal.addEventListener("abort", end);
  });
}

function sleep(durationMs: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, durationMs).unref();
  });
}
