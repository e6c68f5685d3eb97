/**
 * What can happen to a pair, one thing at a time, and which of it a pair must survive in the state it is in.
 *
 * In sync, any single fault is survived. While the standby is only being copied to, the guest lives on one host alone: then
 * nothing may happen to its QEMU or that host, but everything may to the standby, and to the engine and agent beside the guest.
 */
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../src/lib/assert.ts";
import { type Cluster, type GuestView, listWords } from "../lab/cluster.ts";
import { type DiskErrno } from "../lab/faulty-disk.ts";
import { guestPorts } from "../lab/guests.ts";
import { otherHost, pairHosts, type PairHost } from "../lab/placement.ts";
import { type Fault, label, NobodyThere, type Situation, type Struck } from "./fault.ts";
import { type PlacedDisk } from "./faulty-disks.ts";

export type PlainFaultName =
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
  | "stopQuorum"
  | "powerOffQuorum"
  | "fillQuorumVolume"
  | "cutQuorumFromPrimary"
  | "cutQuorumFromStandby"
  | "switchOver"
  | "failPrimaryWrites"
  | "failPrimaryReads"
  | "fillPrimaryVolume"
  | "slowPrimaryDisk"
  | "hangPrimaryDisk"
  | "failStandbyWrites"
  | "failStandbyReads"
  | "fillStandbyVolume"
  | "slowStandbyDisk"
  | "hangStandbyDisk"
  | "pullPrimaryUplink"
  | "pullStandbyUplink"
  | "askFullResync"
  | "lowerLevel";

const NOTICE_MS = 30_000;
const MODE_MS = 60_000;
const READ_MS = 90_000;

type Cut = readonly [network: "replication1" | "replication2" | "management", host?: PairHost];

function cutLinks({ cluster }: Situation, cuts: readonly Cut[]): Promise<Struck> {
  const atMs = Date.now();
  for (const [network, host] of cuts) {
    cluster.lab.cutLink(network, host);
  }
  const heal = (): void => {
    for (const [network, host] of cuts) {
      cluster.lab.restoreLink(network, host);
    }
  };
  return Promise.resolve({ atMs, heal });
}

const isolate = (situation: Situation, host: PairHost): Promise<Struck> =>
  cutLinks(situation, [
    ["replication1", host],
    ["replication2", host],
    ["management", host],
  ]);

async function powerOff({ cluster, disks }: Situation, host: PairHost): Promise<Struck> {
  const atMs = await cluster.powerOff(host);
  return { atMs, heal: () => disks.powerOn(cluster, host) };
}

/** Of a process that may be away because of another fault at the same time. */
async function kill(strike: () => Promise<number>): Promise<Struck> {
  try {
    return { atMs: await strike() };
  } catch (cause) {
    throw new NobodyThere(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** Until the guest's sides have done something about a fault, or say that they know of it. */
async function waitForNotice(cluster: Cluster, guest: string, sinceMs: number): Promise<void> {
  const saysSo = ({ name, sides }: GuestView): boolean =>
    name === guest &&
    pairHosts.some((host) => listWords(sides[host]).some((words) => /disk disk\d+: .*failed/.test(words)));
  await cluster.waitFor(
    `somebody notices that a disk of ${guest} does not work`,
    (views) => views.some(saysSo) || cluster.listTransitions(guest, sinceMs).length > 0,
    NOTICE_MS,
  );
}

type Failing = { readonly operation: "read" | "write"; readonly errno: DiskErrno; readonly on: PairHost };

/** The guest's clients write all the time. */
async function failWrites(situation: Situation, on: PairHost, errno: DiskErrno): Promise<Struck> {
  const { cluster, disks, guest, random } = situation;
  const struck = await failDisk(disks.choose(guest, random), { operation: "write", errno, on });
  await waitForNotice(cluster, guest, struck.atMs);
  return struck;
}

async function failDisk({ faulty }: PlacedDisk, { operation, errno, on }: Failing): Promise<Struck> {
  const atMs = Date.now();
  await faulty[on].fail(operation, errno);
  return { atMs, heal: () => faulty[on].repair() };
}

/** What the guest reads past its page cache meanwhile comes in the end, and is right: it has seen nothing of the error. */
async function failPrimaryReads(situation: Situation): Promise<Struck> {
  const { cluster, disks, guest, primary, random } = situation;
  const disk = disks.choose(guest, random);
  const { atMs, heal } = await failDisk(disk, { operation: "read", errno: "EIO", on: primary });
  const reading = readSectors(situation, disk.device);
  await waitForNotice(cluster, guest, atMs);
  const healAndRead = async (): Promise<void> => {
    await heal?.();
    const bytes = await Promise.race([reading, sleep(READ_MS, "nothing", { ref: false })]);
    if (bytes !== "4096") {
      throw new Error(`a read of 4096 bytes that met an error brought ${bytes}`);
    }
  };
  return { atMs, heal: healAndRead };
}

async function readSectors({ cluster, guest }: Situation, device: string): Promise<string> {
  const { address } = present(
    cluster.guests.find(({ name }) => name === guest),
    guest,
  );
  const script = `exec 3<>/dev/tcp/${address}/${guestPorts.sectors}; echo '${device} 0 8' >&3; wc -c <&3`;
  return (await cluster.lab.execute("c", ["bash", "-c", script])).trim();
}

/** Slow, but far from an error: so many requests a second. */
const SLOW = 5;

async function slowDown({ disks, guest, random }: Situation, on: PairHost): Promise<Struck> {
  const { faulty } = disks.choose(guest, random);
  const atMs = Date.now();
  await faulty[on].slowDown(SLOW);
  return { atMs, heal: () => faulty[on].slowDown(0) };
}

function hang({ disks, guest, random }: Situation, on: PairHost): Promise<Struck> {
  const { faulty } = disks.choose(guest, random);
  const atMs = Date.now();
  faulty[on].freeze();
  const heal = (): void => {
    faulty[on].resume();
  };
  return Promise.resolve({ atMs, heal });
}

function pullUplink({ cluster }: Situation, host: PairHost): Promise<Struck> {
  const atMs = Date.now();
  cluster.lab.pullCable("guest", host);
  const heal = (): void => {
    cluster.lab.plugCable("guest", host);
  };
  return Promise.resolve({ atMs, heal });
}

async function stopQuorum({ cluster }: Situation): Promise<Struck> {
  const atMs = Date.now();
  await cluster.quorum.stop("SIGKILL");
  const heal = (): void => {
    cluster.startQuorum();
  };
  return { atMs, heal };
}

async function powerOffQuorum({ cluster }: Situation): Promise<Struck> {
  cluster.quorum.abandon();
  const atMs = Date.now();
  await cluster.lab.powerOff("q");
  const heal = (): void => {
    cluster.lab.powerOn("q");
    cluster.startQuorum();
  };
  return { atMs, heal };
}

export const quorumVolumeBytes = 256 * 1024;
export const quorumVolumeOf = (cluster: Pick<Cluster, "lab">): string => join(cluster.lab.diskDirectory("q"), "quorum");

/** Records can be read then, and not be changed. */
function fillQuorumVolume({ cluster }: Situation): Promise<Struck> {
  const volume = quorumVolumeOf(cluster);
  const isFiller = (name: string): boolean => name.startsWith("filler-");
  const atMs = Date.now();
  for (let bytes = quorumVolumeBytes; bytes >= 4096;) {
    try {
      writeFileSync(join(volume, `filler-${readdirSync(volume).length}`), Buffer.alloc(bytes, 1));
    } catch {
      bytes /= 2;
    }
  }
  const heal = (): void => {
    for (const name of readdirSync(volume).filter(isFiller)) {
      rmSync(join(volume, name));
    }
  };
  return Promise.resolve({ atMs, heal });
}

async function switchOver({ cluster, guest, primary }: Situation): Promise<Struck> {
  const atMs = Date.now();
  const answer = await cluster.switchOver(primary, guest);
  if (!answer.accepted) {
    throw new NobodyThere(`switchover of ${guest} refused: ${answer.message}`);
  }
  return { atMs };
}

let fullResyncsCount = 0;

/** It strikes when something is being copied. */
async function askFullResync({ cluster, guest }: Situation): Promise<Struck> {
  fullResyncsCount += 1;
  const atMs = Date.now();
  cluster.reassign(guest, { checkpoint: {}, fullResync: `soak-${fullResyncsCount}` });
  await cluster.waitFor(
    `everything of ${guest} is being copied`,
    () => cluster.listTransitions(guest, atMs).some(({ to }) => to === "syncing"),
    NOTICE_MS,
  );
  return { atMs };
}

/** As long as it lasts. */
async function lowerLevel({ cluster, guest }: Situation): Promise<Struck> {
  const setMode = async (mode: "FaultTolerant" | "HighAvailability", outputMode: string): Promise<void> => {
    cluster.setMode(mode, guest);
    await cluster.waitFor(
      `every guest is protected, ${guest} at the level ${mode}`,
      (views) =>
        views.every(
          ({ name, isProtected, report }) => isProtected && (name !== guest || report?.outputMode === outputMode),
        ),
      MODE_MS,
    );
  };
  const atMs = Date.now();
  await setMode("HighAvailability", "leased");
  return { atMs, heal: () => setMode("FaultTolerant", "held"), isHealedLast: true };
}

export const plainFaults: Readonly<Record<PlainFaultName, Fault>> = {
  killPrimaryQemu: {
    weight: 6,
    duringCopy: false,
    says: (primary) => `kill -9 of the primary's QEMU on ${label(primary)}`,
    strike: ({ cluster, guest, primary }) => kill(() => cluster.killQemu(primary, guest)),
  },
  killStandbyQemu: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `kill -9 of the standby's QEMU on ${label(otherHost(primary))}`,
    strike: ({ cluster, guest, primary }) => kill(() => cluster.killQemu(otherHost(primary), guest)),
  },
  killPrimaryEngine: {
    weight: 5,
    duringCopy: true,
    says: (primary) => `kill -9 of the primary's engine on ${label(primary)}`,
    strike: ({ cluster, guest, primary }) => kill(() => cluster.killEngine(primary, guest)),
  },
  killStandbyEngine: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `kill -9 of the standby's engine on ${label(otherHost(primary))}`,
    strike: ({ cluster, guest, primary }) => kill(() => cluster.killEngine(otherHost(primary), guest)),
  },
  killPrimaryAgent: {
    weight: 4,
    duringCopy: true,
    says: (primary) => `kill -9 of the agent on ${label(primary)}, the primary's`,
    strike: ({ cluster, primary }) => Promise.resolve({ atMs: cluster.killAgent(primary) }),
  },
  killStandbyAgent: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `kill -9 of the agent on ${label(otherHost(primary))}, the standby's`,
    strike: ({ cluster, primary }) => Promise.resolve({ atMs: cluster.killAgent(otherHost(primary)) }),
  },
  powerOffPrimary: {
    weight: 5,
    duringCopy: false,
    powersOff: (primary) => primary,
    says: (primary) => `power off of ${label(primary)}, the primary's host`,
    strike: (situation) => powerOff(situation, situation.primary),
  },
  powerOffStandby: {
    weight: 3,
    duringCopy: true,
    powersOff: otherHost,
    says: (primary) => `power off of ${label(otherHost(primary))}, the standby's host`,
    strike: (situation) => powerOff(situation, otherHost(situation.primary)),
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
    lastsMs: [20, 600],
    says: () => "both replication links cut for a moment",
    strike: (situation) => cutLinks(situation, [["replication1"], ["replication2"]]),
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
    strike: ({ cluster }) => Promise.resolve({ atMs: cluster.killQuorum() }),
  },
  stopQuorum: {
    weight: 1,
    duringCopy: true,
    says: () => "the quorum is away for a while",
    strike: stopQuorum,
  },
  powerOffQuorum: {
    weight: 1,
    duringCopy: true,
    says: () => "power off of the quorum's host",
    strike: powerOffQuorum,
  },
  fillQuorumVolume: {
    weight: 1,
    duringCopy: true,
    says: () => "the quorum's volume is full",
    strike: fillQuorumVolume,
  },
  cutQuorumFromPrimary: {
    weight: 1,
    duringCopy: true,
    says: (primary) => `${label(primary)}, the primary's host, cut off from the quorum`,
    strike: (situation) => cutLinks(situation, [["management", situation.primary]]),
  },
  cutQuorumFromStandby: {
    weight: 1,
    duringCopy: true,
    says: (primary) => `${label(otherHost(primary))}, the standby's host, cut off from the quorum`,
    strike: (situation) => cutLinks(situation, [["management", otherHost(situation.primary)]]),
  },
  switchOver: {
    weight: 3,
    duringCopy: false,
    says: (primary) => `planned switchover away from ${label(primary)}`,
    strike: switchOver,
  },
  failPrimaryWrites: {
    weight: 3,
    duringCopy: false,
    says: (primary) => `a disk of the primary on ${label(primary)} fails writes`,
    strike: (situation) => failWrites(situation, situation.primary, "EIO"),
  },
  failPrimaryReads: {
    weight: 2,
    duringCopy: false,
    says: (primary) => `a disk of the primary on ${label(primary)} fails reads`,
    strike: failPrimaryReads,
  },
  fillPrimaryVolume: {
    weight: 1,
    duringCopy: false,
    says: (primary) => `a volume of the primary on ${label(primary)} is full`,
    strike: (situation) => failWrites(situation, situation.primary, "ENOSPC"),
  },
  slowPrimaryDisk: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `a disk of the primary on ${label(primary)} is slow`,
    strike: (situation) => slowDown(situation, situation.primary),
  },
  hangPrimaryDisk: {
    weight: 1,
    duringCopy: true,
    lastsMs: [1000, 10_000],
    says: (primary) => `a disk of the primary on ${label(primary)} answers nothing`,
    strike: (situation) => hang(situation, situation.primary),
  },
  failStandbyWrites: {
    weight: 3,
    duringCopy: true,
    says: (primary) => `a disk of the standby on ${label(otherHost(primary))} fails writes`,
    strike: (situation) => failWrites(situation, otherHost(situation.primary), "EIO"),
  },
  failStandbyReads: {
    weight: 1,
    duringCopy: true,
    // Seen only while hashes are compared.
    says: (primary) => `a disk of the standby on ${label(otherHost(primary))} fails reads`,
    strike: ({ disks, guest, primary, random }) =>
      failDisk(disks.choose(guest, random), { operation: "read", errno: "EIO", on: otherHost(primary) }),
  },
  fillStandbyVolume: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `a volume of the standby on ${label(otherHost(primary))} is full`,
    strike: (situation) => failWrites(situation, otherHost(situation.primary), "ENOSPC"),
  },
  slowStandbyDisk: {
    weight: 2,
    duringCopy: true,
    says: (primary) => `a disk of the standby on ${label(otherHost(primary))} is slow`,
    strike: (situation) => slowDown(situation, otherHost(situation.primary)),
  },
  hangStandbyDisk: {
    weight: 1,
    duringCopy: true,
    lastsMs: [1000, 10_000],
    says: (primary) => `a disk of the standby on ${label(otherHost(primary))} answers nothing`,
    strike: (situation) => hang(situation, otherHost(situation.primary)),
  },
  pullPrimaryUplink: {
    weight: 2,
    duringCopy: true,
    lastsMs: [500, 8000],
    says: (primary) => `the cable to the clients pulled out of ${label(primary)}, the primary's host`,
    strike: (situation) => pullUplink(situation, situation.primary),
  },
  pullStandbyUplink: {
    weight: 1,
    duringCopy: true,
    says: (primary) => `the cable to the clients pulled out of ${label(otherHost(primary))}, the standby's host`,
    strike: (situation) => pullUplink(situation, otherHost(situation.primary)),
  },
  askFullResync: {
    weight: 2,
    duringCopy: false,
    says: () => "a full copy asked for",
    strike: askFullResync,
  },
  lowerLevel: {
    weight: 2,
    duringCopy: false,
    says: () => "the level lowered to HighAvailability and raised again",
    strike: lowerLevel,
  },
};
