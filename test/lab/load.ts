/**
 * The clients that watch a pair of guests through everything that happens to them, and their verdict in the end.
 *
 * All of them prove something with every reply (see test/lab/clients); they think between requests, so that they are witnesses
 * and not the load that is measured.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { startClient, type Client } from "./clients/client-process.ts";
import { type ConversationResult, type FaultKind } from "./clients/conversation.ts";
import { type Lab } from "./hosts.ts";
import { type PlacedGuest } from "./placement.ts";

export type Witness = { readonly name: string; readonly guest: string; readonly client: Client };

export type WitnessResult = { readonly name: string; readonly guest: string; readonly result: ConversationResult };

export type WitnessOptions = {
  readonly connectionsCount: number;
  readonly thinkMs: number;
  /** Longer without a reply than any fault that is survived may take. */
  readonly stallMs: number;
  /** Waits from here on are listed one by one. */
  readonly gapMs?: number;
};

/** Connections that are never opened again, on every service the guest has. */
export function startWitnesses(lab: Lab, guest: PlacedGuest, options: WitnessOptions): Witness[] {
  const base = { host: guest.address, ...options };
  const session = `witness-${Date.now()}`;
  const witness = (name: string, client: Client): Witness => ({ name, guest: guest.name, client });
  const synced = witness(
    "synced requests",
    startClient(lab, "counted", { ...base, disksCount: guest.specs.a.disks.length }),
  );
  return guest.kind === "busybox"
    ? [synced]
    : [
        synced,
        witness("redis increments", startClient(lab, "redis", { ...base, mode: "increment", session })),
        witness("postgres ledger", startClient(lab, "ledger", { ...base, firstConnection: 1000 })),
      ];
}

export async function stopWitnesses(witnesses: readonly Witness[]): Promise<WitnessResult[]> {
  return Promise.all(witnesses.map(async ({ name, guest, client }) => ({ name, guest, result: await client.stop() })));
}

export const countReplies = (witnesses: readonly Witness[]): number =>
  witnesses.reduce((sum, { client }) => sum + client.progress.repliesCount, 0);

/** Waits for so many more replies. */
export async function waitForReplies(witnesses: readonly Witness[], count: number, timeoutMs: number): Promise<void> {
  const wanted = countReplies(witnesses) + count;
  const deadlineMs = Date.now() + timeoutMs;
  while (countReplies(witnesses) < wanted) {
    if (Date.now() > deadlineMs) {
      throw new Error(`${countReplies(witnesses)} replies after ${timeoutMs} ms, ${wanted} wanted`);
    }
    await sleep(50);
  }
}

export const countFaults = (witnesses: readonly Witness[]): number =>
  witnesses.reduce((sum, { client }) => sum + client.progress.faultsCount, 0);

export type Verdicts = Readonly<Record<FaultKind, number>> & {
  readonly connections: number;
  readonly survived: number;
  readonly replies: number;
};

export function sumVerdicts(results: readonly WitnessResult[]): Verdicts {
  const sum = (pick: (result: ConversationResult) => number): number =>
    results.reduce((total, { result }) => total + pick(result), 0);
  return {
    connections: sum(({ connectionsCount }) => connectionsCount),
    survived: sum(({ connectionsSurvived }) => connectionsSurvived),
    replies: sum(({ repliesCount }) => repliesCount),
    lost: sum(({ faultsCount }) => faultsCount.lost),
    duplicated: sum(({ faultsCount }) => faultsCount.duplicated),
    reordered: sum(({ faultsCount }) => faultsCount.reordered),
    broken: sum(({ faultsCount }) => faultsCount.broken),
    wrong: sum(({ faultsCount }) => faultsCount.wrong),
  };
}

export const isFlawless = ({ connections, survived }: Verdicts): boolean => connections === survived;

/** The longest a client waited for one reply between two moments. */
export function findLongestWait(
  results: readonly WitnessResult[],
  guest: string,
  fromMs: number,
  toMs: number,
): number {
  const waits = results
    .filter((each) => each.guest === guest)
    .flatMap(({ result }) => result.gaps)
    .filter(({ startedAtMs, ms }) => startedAtMs + ms >= fromMs && startedAtMs <= toMs)
    .map(({ ms }) => ms);
  return Math.max(0, ...waits);
}
