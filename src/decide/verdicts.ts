/** Verdicts about an object, and the conditions they make in its status. */
import { type Condition } from "../api/conditions.ts";

export type Verdict<Reason extends string = string> = {
  readonly status: Condition["status"];
  readonly reason: Reason;
  readonly message: string;
};

export type ConditionsContext = {
  /** As last written. */
  readonly previous: readonly Condition[] | undefined;
  readonly generation: number | undefined;
  readonly nowMs: number;
};

/** In the order of `verdicts`; the time of each moves only with its status. */
export function encodeConditions(
  { previous, generation, nowMs }: ConditionsContext,
  verdicts: Readonly<Record<string, Verdict>>,
): Condition[] {
  const now = new Date(nowMs).toISOString().replace(/[.][0-9]+Z$/, "Z");
  return Object.entries(verdicts).map(([type, { status, reason, message }]) => {
    const before = previous?.find((condition) => condition.type === type);
    return {
      type,
      status,
      ...(generation === undefined ? {} : { observedGeneration: generation }),
      lastTransitionTime: before?.status === status ? before.lastTransitionTime : now,
      reason,
      message,
    };
  });
}
