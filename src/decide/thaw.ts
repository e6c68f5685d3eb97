/**
 * File systems that were frozen when the guest was taken over.
 *
 * Backup tools freeze a guest through the instance that runs it and have it thawed there, and KubeVirt thaws it there when they
 * forget. Where that instance is gone the guest goes on frozen on its other side, and nobody would ever thaw it. What is frozen soon
 * after a takeover was so before; what somebody freezes there later is his to thaw.
 */
import { type PairView } from "./pair-view.ts";
import { type Action, type PlannedEvent } from "./protected-vm-plan.ts";

/** KubeVirt asks the agent in the guest every few seconds, and a takeover may be reported late. */
const THAW_WITHIN_MS = 120_000;

export type Thaw = { readonly actions: readonly Action[]; readonly events: readonly PlannedEvent[] };

export function planThaw({ primary }: PairView, nowMs: number): Thaw {
  const takeover = primary?.report?.lastTakeover;
  if (primary?.vmi?.status?.fsFreezeStatus !== "frozen" || takeover === undefined) {
    return { actions: [], events: [] };
  }
  if (nowMs - Date.parse(takeover.at) > THAW_WITHIN_MS) {
    return { actions: [], events: [] };
  }
  const message = `its file systems were frozen when it was taken over by ${primary.node}, and nobody would thaw them there`;
  return {
    actions: [{ tag: "thawInstance", name: primary.vmiName }],
    events: [{ type: "Normal", reason: "Thawed", message }],
  };
}
