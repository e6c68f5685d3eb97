/** ProtectedVMs and GuestPairs as views read them: never refused for a field that a newer or older version wrote otherwise. */
import { type GuestPairSpec, type GuestPairStatus } from "../api/guest-pair.ts";
import { type ProtectedVmConditionType } from "../api/conditions.ts";
import { type ProtectedVmSpec, type ProtectedVmStatus } from "../api/protected-vm.ts";
import { type KubeCondition, type KubeObject } from "./kube-objects.ts";

export type ShownVm = KubeObject & {
  readonly spec?: Partial<ProtectedVmSpec>;
  readonly status?: Partial<ProtectedVmStatus>;
};
export type ShownPair = KubeObject & {
  readonly spec?: Partial<GuestPairSpec>;
  readonly status?: Partial<GuestPairStatus>;
};
export type ShownSide = NonNullable<GuestPairStatus["sides"]>[number];

export function findCondition(vm: ShownVm, type: ProtectedVmConditionType): KubeCondition | undefined {
  return vm.status?.conditions?.find((each) => each.type === type);
}

/** How much of the guest the standby has: as the copy under way tells, else the disk that is furthest behind. */
export function findSyncPercent(vm: ShownVm): number | undefined {
  const { disks = [], resync } = vm.status ?? {};
  if (resync !== undefined) {
    return resync.percent;
  }
  return disks.length === 0 ? undefined : Math.min(...disks.map(({ syncPercent }) => syncPercent));
}

/** The nodes of its sides as they are, else as they are asked for. */
export function listNodes({ spec, status }: ShownVm): readonly string[] {
  const actual = [status?.primary?.node, status?.standby?.node].filter((node) => node !== undefined);
  return actual.length === 2 ? actual : (spec?.placement?.nodes ?? actual);
}

/** A guest that existed before its protection and goes on after it. */
export const isAdopted = ({ spec }: ShownVm): boolean => spec?.virtualMachineRef !== undefined;
