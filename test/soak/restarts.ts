/**
 * What ends a guest by the rules: its memory is lost, it boots again where its disks are newest, and everything that it was told
 * is written is there. Until then nobody runs it, and a person is told what to do.
 */
import { present } from "../../src/lib/assert.ts";
import { otherHost, type PairHost } from "../lab/placement.ts";
import { label, type Situation, type Struck } from "./fault.ts";
import { plainFaults, type PlainFaultName } from "./faults.ts";

export type Restart = {
  readonly weight: number;
  readonly level: "FaultTolerant" | "HighAvailability";
  /** Of which it consists, in order. */
  readonly faults: readonly PlainFaultName[];
  readonly says: (primary: PairHost) => string;
  readonly strike: (situation: Situation) => Promise<Struck>;
  /** Before it is healed. */
  readonly told?: { readonly by: (primary: PairHost) => PairHost; readonly words: RegExp };
  /** Who runs it afterwards; left out where the quorum decides, and the guest may even go on. */
  readonly returnsTo?: (primary: PairHost) => PairHost;
};

export type RestartName =
  | "powerOffBoth"
  | "powerOffBothPeerFirst"
  | "powerOffPrimaryDuringCopy"
  | "powerOffPrimaryAlone"
  | "killPrimaryQemuDuringCopy"
  | "leasedKillPrimaryQemu"
  | "leasedKillPrimaryEngine"
  | "leasedPowerOffPrimary"
  | "leasedFailPrimaryWrites"
  | "leasedIsolatePrimary"
  | "leasedCutBothLinks";

const COPY_MS = 60_000;
const self = (primary: PairHost): PairHost => primary;
/** Of the side that has a copy which is not whole. */
const ownerIsAway = /the guest belongs to host-[ab], which cannot be reached.*bring host-[ab] back/;

async function powerOffBoth({ cluster, disks }: Situation, isPeerFirst: boolean, primary: PairHost): Promise<Struck> {
  const peer = otherHost(primary);
  const atMs = Date.now();
  // One goes a moment before the other, which is not to become the owner in that moment.
  cluster.lab.cutLink("management", "q");
  await Promise.all([cluster.powerOff(primary), cluster.powerOff(peer)]);
  cluster.lab.restoreLink("management", "q");
  if (isPeerFirst) {
    await disks.powerOn(cluster, peer);
    return { atMs, heal: () => disks.powerOn(cluster, primary) };
  }
  const heal = async (): Promise<void> => {
    await Promise.all([disks.powerOn(cluster, primary), disks.powerOn(cluster, peer)]);
  };
  return { atMs, heal };
}

/** Something that takes the standby's being in sync, the moment to wait for, and then the end of the one that is left. */
async function strikeTwice(
  situation: Situation,
  state: "syncing" | "alone",
  [first, second]: readonly [PlainFaultName, PlainFaultName],
): Promise<Struck> {
  const { cluster, guest, primary } = situation;
  const before = await plainFaults[first].strike(situation);
  await cluster.waitFor(
    `${guest} is ${state} on ${primary}`,
    (views) => views.some(({ name, sides }) => name === guest && sides[primary]?.report?.state === state),
    COPY_MS,
  );
  const then = await plainFaults[second].strike(situation);
  const heal = async (): Promise<void> => {
    await before.heal?.();
    await then.heal?.();
  };
  return { atMs: then.atMs, heal };
}

function leased(fault: PlainFaultName, returnsTo?: (primary: PairHost) => PairHost): Restart {
  return {
    weight: 1,
    level: "HighAvailability",
    faults: [fault],
    says: (primary) => `at the level HighAvailability: ${plainFaults[fault].says(primary)}`,
    strike: plainFaults[fault].strike,
    ...(returnsTo === undefined ? {} : { returnsTo }),
  };
}

export const restarts: Readonly<Record<RestartName, Restart>> = {
  powerOffBoth: {
    weight: 2,
    level: "FaultTolerant",
    faults: ["powerOffPrimary", "powerOffStandby"],
    says: () => "power off of both hosts",
    strike: (situation) => powerOffBoth(situation, false, situation.primary),
    returnsTo: self,
  },
  powerOffBothPeerFirst: {
    weight: 1,
    level: "FaultTolerant",
    faults: ["powerOffPrimary", "powerOffStandby"],
    says: (primary) => `power off of both hosts, ${label(otherHost(primary))} comes back first`,
    strike: (situation) => powerOffBoth(situation, true, situation.primary),
    told: { by: otherHost, words: ownerIsAway },
    returnsTo: self,
  },
  powerOffPrimaryDuringCopy: {
    weight: 1,
    level: "FaultTolerant",
    faults: ["killStandbyEngine", "powerOffPrimary"],
    says: (primary) => `power off of ${label(primary)} while the standby is being copied to`,
    strike: (situation) => strikeTwice(situation, "syncing", ["killStandbyEngine", "powerOffPrimary"]),
    told: { by: otherHost, words: ownerIsAway },
    returnsTo: self,
  },
  powerOffPrimaryAlone: {
    weight: 1,
    level: "FaultTolerant",
    faults: ["cutBothLinks", "powerOffPrimary"],
    says: (primary) => `both replication links cut, then power off of ${label(primary)}, which had gone on alone`,
    strike: (situation) => strikeTwice(situation, "alone", ["cutBothLinks", "powerOffPrimary"]),
    told: { by: otherHost, words: ownerIsAway },
    returnsTo: self,
  },
  killPrimaryQemuDuringCopy: {
    weight: 1,
    level: "FaultTolerant",
    faults: ["killStandbyQemu", "killPrimaryQemu"],
    says: (primary) => `kill -9 of the guest's QEMU on ${label(primary)} while the standby is being copied to`,
    strike: (situation) => strikeTwice(situation, "syncing", ["killStandbyQemu", "killPrimaryQemu"]),
    returnsTo: self,
  },
  leasedKillPrimaryQemu: leased("killPrimaryQemu", otherHost),
  leasedKillPrimaryEngine: leased("killPrimaryEngine", otherHost),
  leasedPowerOffPrimary: leased("powerOffPrimary", otherHost),
  leasedFailPrimaryWrites: leased("failPrimaryWrites", otherHost),
  leasedIsolatePrimary: leased("isolatePrimary", otherHost),
  leasedCutBothLinks: leased("cutBothLinks"),
};

export function findRestart(name: string): Restart {
  return present(restarts[name as RestartName], `a restart named ${name}`);
}
