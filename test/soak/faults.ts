/**
 * What can happen to a pair, and which of it a pair must survive in the state it is in.
 *
 * In sync, any single fault is survived. While the standby is only being copied to, the guest lives on one host alone: then
 * nothing may happen to its QEMU or that host, but everything may to the standby, and to the engine and agent beside the guest.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { type Random } from "../../src/lib/random.ts";
import { type Cluster } from "../lab/cluster.ts";
import { otherHost, type PairHost } from "../lab/placement.ts";

export type FaultName =
  | "killPrimaryQemu"
  | "killStandbyQemu"
  | "killPrimaryEngine"
  | "killStandbyEngine"
  | "killPrimaryAgent"
  | "killStandbyAgent"
  | "powerOffPrimary"
  | "powerOffStandby"
  | "cutOneLink"
  | "cutBothLinks"
  | "cutBothLinksShortly"
  | "isolatePrimary"
  | "isolateStandby"
  | "killQuorum"
  | "cutQuorumFromPrimary"
  | "switchOver";

export type Situation = {
  readonly cluster: Cluster;
  readonly guest: string;
  /** Who runs `guest` now. */
  readonly primary: PairHost;
  readonly random: Random;
};

export type FaultPlan = {
  readonly weight: number;
  /** Whether it is survived while the standby is not in sync yet. */
  readonly duringCopy: boolean;
  readonly says: (primary: PairHost) => string;
  /** Does it, and undoes what does not heal by itself. Returns when it struck. */
  readonly strike: (situation: Situation) => Promise<number>;
};

const label = (host: PairHost): string => host.toUpperCase();

/** A cut or a host without power lasts so long: from shorter than any detection to much longer. */
const lastSome = (random: Random): Promise<void> => sleep(random.between(50, 3000));

async function cutLinks(
  { cluster, random }: Situation,
  cuts: readonly (readonly [network: "replication1" | "replication2" | "management", host?: PairHost])[],
  lastMs?: number,
): Promise<number> {
  const atMs = Date.now();
  for (const [network, host] of cuts) {
    cluster.lab.cutLink(network, host);
  }
  await (lastMs === undefined ? lastSome(random) : sleep(lastMs));
  for (const [network, host] of cuts) {
    cluster.lab.restoreLink(network, host);
  }
  return atMs;
}

async function cyclePower({ cluster, random }: Situation, host: PairHost): Promise<number> {
  const atMs = await cluster.powerOff(host);
  await lastSome(random);
  cluster.powerOn(host);
  return atMs;
}

const isolate = (situation: Situation, host: PairHost): Promise<number> =>
  cutLinks(situation, [
    ["replication1", host],
    ["replication2", host],
    ["management", host],
  ]);

export const faults: Readonly<Record<FaultName, FaultPlan>> = {
  killPrimaryQemu: {
    weight: 6,
    duringCopy: false,
    says: (primary) => `kill -9 of the primary's QEMU on ${label(primary)}`,
    strike: ({ cluster, guest, primary }) => cluster.killQemu(primary, guest),
  },
  killStandbyQemu: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `kill -9 of the standby's QEMU on ${label(otherHost(primary))}`,
    strike: ({ cluster, guest, primary }) => cluster.killQemu(otherHost(primary), guest),
  },
  killPrimaryEngine: {
    weight: 5,
    duringCopy: true,
    says: (primary) => `kill -9 of the primary's engine on ${label(primary)}`,
    strike: ({ cluster, guest, primary }) => cluster.killEngine(primary, guest),
  },
  killStandbyEngine: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `kill -9 of the standby's engine on ${label(otherHost(primary))}`,
    strike: ({ cluster, guest, primary }) => cluster.killEngine(otherHost(primary), guest),
  },
  killPrimaryAgent: {
    weight: 4,
    duringCopy: true,
    says: (primary) => `kill -9 of the agent on ${label(primary)}, the primary's`,
    strike: ({ cluster, primary }) => Promise.resolve(cluster.killAgent(primary)),
  },
  killStandbyAgent: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `kill -9 of the agent on ${label(otherHost(primary))}, the standby's`,
    strike: ({ cluster, primary }) => Promise.resolve(cluster.killAgent(otherHost(primary))),
  },
  powerOffPrimary: {
    weight: 5,
    duringCopy: false,
    says: (primary) => `power off of ${label(primary)}, the primary's host`,
    strike: (situation) => cyclePower(situation, situation.primary),
  },
  powerOffStandby: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `power off of ${label(otherHost(primary))}, the standby's host`,
    strike: (situation) => cyclePower(situation, otherHost(situation.primary)),
  },
  cutOneLink: {
    weight: 2,
    duringCopy: true,
    says: () => "one replication link cut",
    strike: (situation) => cutLinks(situation, [[situation.random.chance(0.5) ? "replication1" : "replication2"]]),
  },
  cutBothLinks: {
    weight: 4,
    duringCopy: true,
    says: () => "both replication links cut",
    strike: (situation) => cutLinks(situation, [["replication1"], ["replication2"]]),
  },
  cutBothLinksShortly: {
    weight: 2,
    duringCopy: true,
    says: () => "both replication links cut for a moment",
    strike: (situation) => cutLinks(situation, [["replication1"], ["replication2"]], situation.random.between(20, 600)),
  },
  isolatePrimary: {
    weight: 4,
    duringCopy: true,
    says: (primary) => `${label(primary)}, the primary's host, cut off from its peer and the quorum`,
    strike: (situation) => isolate(situation, situation.primary),
  },
  isolateStandby: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `${label(otherHost(primary))}, the standby's host, cut off from its peer and the quorum`,
    strike: (situation) => isolate(situation, otherHost(situation.primary)),
  },
  killQuorum: {
    weight: 1,
    duringCopy: true,
    says: () => "kill -9 of the quorum",
    strike: ({ cluster }) => Promise.resolve(cluster.killQuorum()),
  },
  cutQuorumFromPrimary: {
    weight: 1,
    duringCopy: true,
    says: (primary) => `${label(primary)}, the primary's host, cut off from the quorum`,
    strike: (situation) => cutLinks(situation, [["management", situation.primary]]),
  },
  switchOver: {
    weight: 2,
    duringCopy: false,
    says: (primary) => `planned switchover away from ${label(primary)}`,
    strike: async ({ cluster, guest, primary }) => {
      const atMs = Date.now();
      const answer = await cluster.switchOver(primary, guest);
      if (!answer.accepted) {
        throw new Error(`switchover of ${guest} refused: ${answer.message}`);
      }
      return atMs;
    },
  },
};

export const faultNames = Object.keys(faults) as readonly FaultName[];

/** One of `names` by weight. */
export function chooseFault(random: Random, names: readonly FaultName[]): FaultName {
  let left = random.below(names.reduce((sum, name) => sum + faults[name].weight, 0));
  const chosen = names.find((name) => {
    left -= faults[name].weight;
    return left < 0;
  });
  return present(chosen, "a fault");
}
