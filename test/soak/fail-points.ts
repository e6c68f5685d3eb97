/**
 * Deaths at a named step of the protocol (src/engine/fail-point.ts). `occasion` brings the step about where it does not come by
 * itself; it is chosen such that the pair survives by its rules: with the standby's help gone, the guest's QEMU is left alone.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Cluster, type GuestView } from "../lab/cluster.ts";
import { otherHost, type PairHost } from "../lab/placement.ts";
import { type Fault, label, type Situation } from "./fault.ts";

type FailPoint = {
  readonly side: "primary" | "standby";
  readonly steps: readonly string[];
  readonly victims: readonly ("engine" | "guest" | "both")[];
  readonly occasion: Occasion;
};

type Occasion =
  "none" | "standbyLost" | "standbyStarts" | "standbyReturns" | "linksCut" | "switchOver" | "primaryEngineLost";

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
    steps: ["linkDown", "askQuorum", "quorumAnswered", "openOutput", "beginSync", "copied", "startEpochs"],
    victims: ["engine"],
    occasion: "standbyLost",
  },
  // Every checkpoint of a whole pair passes it too; to strike there, with the heir killed a moment later, is no fault to survive.
  { side: "primary", steps: ["captured"], victims: ["engine"], occasion: "standbyReturns" },
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

function planFailPoint(point: FailPoint, step: string, victim: string): Fault {
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
      return { atMs };
    },
  };
}

const occasionSays: Readonly<Record<Occasion, string>> = {
  none: "",
  standbyLost: "after its standby was killed",
  standbyStarts: "while it starts anew",
  standbyReturns: "while its standby comes back",
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
  standbyReturns: async ({ cluster, guest, primary }, arm) => {
    const atMs = await cluster.killEngine(otherHost(primary), guest);
    const isAlone = (views: readonly GuestView[]): boolean =>
      views.some(({ name, isProtected }) => name === guest && !isProtected);
    await cluster.waitFor(`${guest} without its standby`, isAlone, strikeTimeoutMs);
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

export const failPointFaults: Readonly<Record<string, Fault>> = Object.fromEntries(
  failPoints.flatMap((point) =>
    point.steps.flatMap((step) =>
      point.victims.map((victim) => [
        ["at", point.side, step, victim, ...(point.occasion === "none" ? [] : [point.occasion])].join("-"),
        planFailPoint(point, step, victim),
      ]),
    ),
  ),
);
