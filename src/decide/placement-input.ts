/** What a placement is decided from, for a new guest and for a side that has to go elsewhere. */
import { type Fault } from "../api/fault.ts";
import { listAvoided } from "./apart.ts";
import { findIsolation } from "./component-faults.ts";
import { type Subject } from "./pair-spec.ts";
import { type PlacementInput } from "./placement.ts";
import { type PlacementRule, resolvePlacement } from "./placement-rule.ts";
import { type Observed } from "./protected-vm-plan.ts";

type Own = { readonly faults: readonly Fault[] } & Pick<
  PlacementInput,
  "current" | "unreachable" | "group" | "fullLinks"
>;

export function encodePlacementInput({ observed, source }: Subject, { faults, ...own }: Own): PlacementInput {
  const { nodes, agents, load, isolatedNodes: isolatedForOthers } = observed;
  const names = nodes.map(({ metadata }) => metadata.name);
  const isolated = new Set(names.filter((name) => findIsolation(faults, name) !== undefined));
  const rule = ruleOf(observed);
  const avoided = listAvoided(observed);
  return { rule, instanceSpec: source.spec, nodes, agents, load, isolated, isolatedForOthers, avoided, ...own };
}

export const ruleOf = ({ protectedVm, splitSitePair }: Observed): PlacementRule =>
  resolvePlacement(protectedVm.spec.placement, splitSitePair);
