/**
 * The loads that everything is measured with, the same for a protected and an unprotected guest.
 *
 * Each runs for a time against a guest that is up, and fails rather than measure when the client saw a fault.
 */
import { assert } from "../../src/lib/assert.ts";
import { runClient } from "./clients/client-process.ts";
import { type ConversationOptions, type ConversationResult } from "./clients/conversation.ts";
import { type LatencyFigures } from "./clients/figures.ts";
import { runPgbench } from "./clients/pgbench.ts";
import { type Lab } from "./hosts.ts";

export type Measured = { readonly perSecond: number; readonly latency: LatencyFigures };

type Base = Partial<ConversationOptions> & {
  /** The first of the guest's numbered services that this load takes. */
  readonly firstConnection?: number;
  /** Of the guest: with two, the odd connections of the synced service are on the second. */
  readonly disksCount?: number;
};

/** Request-reply with a synced write. */
export async function measureSynced(lab: Lab, host: string, durationMs: number, base: Base = {}): Promise<Measured> {
  return assertFlawless(await runClient(lab, "counted", { host, ...base }, durationMs));
}

/** Request-reply from memory. */
export async function measureEcho(lab: Lab, host: string, durationMs: number, base: Base = {}): Promise<Measured> {
  return assertFlawless(await runClient(lab, "counted", { host, memoryOnly: true, ...base }, durationMs));
}

/** Redis SET with `connectionsCount` clients, one request under way on each. */
export async function measureRedis(lab: Lab, host: string, durationMs: number, base: Base = {}): Promise<Measured> {
  const session = `measure-${Date.now()}`;
  return assertFlawless(await runClient(lab, "redis", { host, mode: "set", session, ...base }, durationMs));
}

export async function measurePgbench(
  lab: Lab,
  host: string,
  durationMs: number,
  clientsCount: number,
): Promise<Measured & { readonly samplesMs: readonly number[] }> {
  const durationSeconds = Math.max(1, Math.round(durationMs / 1000));
  const result = await runPgbench(lab, { host, clientsCount, durationSeconds });
  assert(result.lostCount === 0 && result.sumsAgree && result.failedCount === 0, `pgbench: ${JSON.stringify(result)}`);
  return { perSecond: result.tps, latency: result.latency, samplesMs: result.samplesMs };
}

/** Loops a second of work that needs only the processor. */
export async function measureBurn(lab: Lab, host: string, durationMs: number, turns = 50_000): Promise<Measured> {
  const result = assertFlawless(await runClient(lab, "burn", { host, turns }, durationMs));
  return { perSecond: (1000 * turns) / result.latency.meanMs, latency: result.latency };
}

function assertFlawless(result: ConversationResult): Measured {
  assert(result.faults.length === 0 && result.repliesCount > 0, `a measurement with faults: ${JSON.stringify(result)}`);
  return { perSecond: result.perSecond, latency: result.latency };
}
