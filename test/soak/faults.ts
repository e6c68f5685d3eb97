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

/** A fault of the table below, or one made from a fail point. */
export type FaultName = string;

type PlainFaultName =
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
  /** The host whose power it takes: every QEMU there dies, also that of another guest. */
  readonly powersOff?: (primary: PairHost) => PairHost;
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

const plainFaults: Readonly<Record<PlainFaultName, FaultPlan>> = {
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
    powersOff: (primary) => primary,
    says: (primary) => `power off of ${label(primary)}, the primary's host`,
    strike: (situation) => cyclePower(situation, situation.primary),
  },
  powerOffStandby: {
    weight: 3,
    duringCopy: true,
    powersOff: otherHost,
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

/**
 * Deaths at a named step of the protocol (src/engine/fail-point.ts). `occasion` brings the step about where it does not come by
 * itself; it is chosen such that the pair survives by its rules: with the standby's help gone, the guest's QEMU is left alone.
 */
type FailPoint = {
  readonly side: "primary" | "standby";
  readonly steps: readonly string[];
  readonly victims: readonly ("engine" | "guest" | "both")[];
  readonly occasion: Occasion;
};

type Occasion = "none" | "standbyLost" | "standbyStarts" | "linksCut" | "switchOver" | "primaryEngineLost";

const failPoints: readonly FailPoint[] = [
  {
    side: "primary",
    steps: ["captured", "releaseOutput", "received"],
    victims: ["engine", "guest", "both"],
    occasion: "none",
  },
  {
    side: "standby",
    steps: ["epochHeld", "commitEpoch", "send"],
    victims: ["engine", "guest", "both"],
    occasion: "none",
  },
  {
    side: "primary",
    steps: ["linkDown", "askQuorum", "quorumAnswered", "openOutput", "beginSync", "copied", "startEpochs", "captured"],
    victims: ["engine"],
    occasion: "standbyLost",
  },
  {
    side: "standby",
    steps: ["startGuest", "guestReady", "linkUp", "beginReceiving", "epochHeld", "commitEpoch"],
    victims: ["engine", "both"],
    occasion: "standbyStarts",
  },
  { side: "primary", steps: ["linkDown", "askQuorum", "quorumAnswered"], victims: ["engine"], occasion: "linksCut" },
  {
    side: "primary",
    steps: ["switchoverAsked", "captureFinal", "captured", "askQuorum", "quorumAnswered"],
    victims: ["engine", "guest", "both"],
    occasion: "switchOver",
  },
  { side: "standby", steps: ["linkDown", "askQuorum"], victims: ["engine", "both"], occasion: "primaryEngineLost" },
];

const strikeTimeoutMs = 20_000;

function planFailPoint(point: FailPoint, step: string, victim: string): FaultPlan {
  return {
    weight: 1,
    duringCopy: false,
    says: (primary) => {
      const host = point.side === "primary" ? primary : otherHost(primary);
      const occasion = point.occasion === "none" ? "" : ` (${occasionSays[point.occasion]})`;
      return `${victim === "both" ? "engine and guest die" : `${victim} dies`} at ${step} of the ${point.side} on ${label(host)}${occasion}`;
    },
    strike: async (situation) => {
      const { cluster, guest, primary, random } = situation;
      const host = point.side === "primary" ? primary : otherHost(primary);
      const before = await readLife(cluster, host, guest);
      const skip = point.occasion === "none" ? random.below(5) : 0;
      const arm = (): Promise<void> => cluster.armFailPoint(host, guest, `${step} ${victim} ${skip}`);
      const atMs = await occasions[point.occasion](situation, arm);
      // An engine that was killed to let the victim start counts as well.
      const deathsCount = point.occasion === "standbyStarts" ? 2 : 1;
      const expected = { host, guest, before, victim, deathsCount };
      await waitForDeath(cluster, expected, `${step} of the ${point.side} never came`);
      for (const network of ["replication1", "replication2"] as const) {
        cluster.lab.restoreLink(network);
      }
      return atMs;
    },
  };
}

const occasionSays: Readonly<Record<Occasion, string>> = {
  none: "",
  standbyLost: "after its standby was killed",
  standbyStarts: "while it starts anew",
  linksCut: "after both links were cut",
  switchOver: "during a switchover",
  primaryEngineLost: "after the primary's engine was killed",
};

/** Arms, then provokes; where the victim is a process that only starts, the other way round. Returns when it struck. */
const occasions: Readonly<Record<Occasion, (situation: Situation, arm: () => Promise<void>) => Promise<number>>> = {
  none: async (_, arm) => {
    await arm();
    return Date.now();
  },
  standbyLost: async ({ cluster, guest, primary }, arm) => {
    await arm();
    return cluster.killEngine(otherHost(primary), guest);
  },
  standbyStarts: async ({ cluster, guest, primary }, arm) => {
    const atMs = await cluster.killEngine(otherHost(primary), guest);
    await arm();
    return atMs;
  },
  linksCut: async ({ cluster }, arm) => {
    await arm();
    const atMs = Date.now();
    cluster.lab.cutLink("replication1");
    cluster.lab.cutLink("replication2");
    return atMs;
  },
  switchOver: async ({ cluster, guest, primary }, arm) => {
    await arm();
    const atMs = Date.now();
    // Its answer may die with the engine that was to give it.
    void cluster.switchOver(primary, guest).catch(() => undefined);
    return atMs;
  },
  primaryEngineLost: async ({ cluster, guest, primary }, arm) => {
    await arm();
    return cluster.killEngine(primary, guest);
  },
};

/** What changes when somebody dies. */
type Life = { readonly engineRestarts: number; readonly qemu: number | null };

async function readLife(cluster: Cluster, host: PairHost, guest: string): Promise<Life> {
  const side = (await cluster.readGuest(guest)).sides[host];
  return { engineRestarts: side?.engineRestartsCount ?? 0, qemu: side?.qemu?.pid ?? null };
}

type ExpectedDeath = {
  readonly host: PairHost;
  readonly guest: string;
  readonly before: Life;
  readonly victim: string;
  readonly deathsCount: number;
};

/** A fail point that never strikes would look like a pair that survives it. */
async function waitForDeath(cluster: Cluster, expected: ExpectedDeath, otherwise: string): Promise<void> {
  const { host, guest, before, victim, deathsCount } = expected;
  const deadlineMs = Date.now() + strikeTimeoutMs;
  for (;;) {
    const now = await readLife(cluster, host, guest);
    const hasStruck =
      victim === "guest" ? now.qemu !== before.qemu : now.engineRestarts >= before.engineRestarts + deathsCount;
    if (hasStruck && !cluster.isFailPointArmed(host, guest)) {
      return;
    }
    if (Date.now() > deadlineMs) {
      throw new Error(`fail point not reached: ${otherwise}`);
    }
    await sleep(50);
  }
}

const failPointFaults: Readonly<Record<string, FaultPlan>> = Object.fromEntries(
  failPoints.flatMap((point) =>
    point.steps.flatMap((step) =>
      point.victims.map((victim) => [
        ["at", point.side, step, victim, ...(point.occasion === "none" ? [] : [point.occasion])].join("-"),
        planFailPoint(point, step, victim),
      ]),
    ),
  ),
);

export const plainFaultNames: readonly FaultName[] = Object.keys(plainFaults);
export const failPointNames: readonly FaultName[] = Object.keys(failPointFaults);
export const faultNames: readonly FaultName[] = [...plainFaultNames, ...failPointNames];

export function findFault(name: FaultName): FaultPlan {
  return present({ ...plainFaults, ...failPointFaults }[name], `a fault named ${name}`);
}

/** One of `names` by weight. */
export function chooseFault(random: Random, names: readonly FaultName[]): FaultName {
  let left = random.below(names.reduce((sum, name) => sum + findFault(name).weight, 0));
  const chosen = names.find((name) => {
    left -= findFault(name).weight;
    return left < 0;
  });
  return present(chosen, "a fault");
}

/** Every fail point once, in an order of its own, before any comes again. */
export class FailPointDeck {
  readonly #random: Random;
  readonly #names: readonly FaultName[];
  #left: FaultName[] = [];

  constructor(random: Random, names: readonly FaultName[]) {
    this.#random = random;
    this.#names = names;
  }

  draw(): FaultName {
    if (this.#left.length === 0) {
      this.#left = [...this.#names];
    }
    return present(this.#left.splice(this.#random.below(this.#left.length), 1)[0], "a fail point");
  }
}
