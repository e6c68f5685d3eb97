/** What the state of a side means to those who only look at it. */
import { type EngineReport } from "../protocol/assignment.ts";
import { type Side } from "../protocol/side-state.ts";

export function stateName(side: Side): string {
  return side.state.tag;
}

export function roleOf({ state }: Side): EngineReport["role"] {
  if ("role" in state) {
    return state.role;
  }
  return state.tag === "ended" ? "fenced" : "starting";
}

/** Whether the quorum knows of a standby that could take over. */
export function mayGoOnElsewhere(side: Side): boolean {
  const name = stateName(side);
  return name === "protected" || name === "handingOver";
}

/** Whether it is about to run the guest, or nearly so. */
export function isTakingOver({ state }: Side): boolean {
  return state.tag === "asking" || state.tag === "activating" || (state.tag === "holding" && state.expectsGuest);
}

/** Whether nothing but its disk keeps this side's guest from running. */
export function mayRunAlone(side: Side): boolean {
  return ["alone", "syncing", "declaring"].includes(stateName(side));
}
