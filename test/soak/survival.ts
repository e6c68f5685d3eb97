/** What a pair did about a fault, by the changes of state that its engines logged. */
import { type Cluster } from "../lab/cluster.ts";

/**
 * - `unnoticed`: it stayed protected
 * - `went on alone`: where it was, until the standby was in sync again
 * - `handed over`, `taken over`: by the other side
 * - `held`: nobody went on until one of two faults was over
 * - `booted`: it lost its memory, by the rules
 */
export type Survival = "unnoticed" | "went on alone" | "handed over" | "taken over" | "held" | "booted";
export const survivals: readonly Survival[] = [
  ...(["unnoticed", "went on alone", "handed over", "taken over", "held", "booted"] as const),
];

export function findSurvival(cluster: Cluster, guest: string, sinceMs: number): Survival {
  const steps = cluster.listTransitions(guest, sinceMs);
  if (steps.some(({ from, to }) => from === "asking" && to === "activating")) {
    return "taken over";
  }
  if (steps.some(({ to }) => to === "activating")) {
    return "handed over";
  }
  return steps.some(({ to }) => to !== "handingOver") ? "went on alone" : "unnoticed";
}
