/** What a side's instance is made of: the recipe of the guest, and what is this side's own. */
import { type VmiShape } from "../api/vmi-contract.ts";
import { type Subject } from "./pair-spec.ts";
import { type PairView, type SideView } from "./pair-view.ts";
import { type Action } from "./protected-vm-plan.ts";
import { type TwinRecipe, type TwinSide } from "./twin-recipe.ts";

export type SidePlan = {
  readonly actions: readonly Action[];
  /** What is awaited, for people. */
  readonly waitsFor?: string | undefined;
  /** What a person has to see to: a volume. */
  readonly trouble?: string | undefined;
};

export type Missing = { readonly side: SideView; readonly shape: VmiShape };

export function encodeRecipe({ observed, source, identity }: Subject, { notes }: PairView): TwinRecipe {
  const { hookImage, hookMode } = observed.settings;
  return { source, identity, machine: notes.machine, hook: { image: hookImage, mode: hookMode } };
}

export function encodeTwinSide({ side, shape }: Missing, volumes: TwinSide["volumes"]): TwinSide {
  const hostname = side.state.node?.metadata.labels?.["kubernetes.io/hostname"] ?? side.node;
  return { vmi: side.vmiName, mark: side.mark, hostname, shape, volumes };
}
