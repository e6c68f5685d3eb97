/** Whether a guest is up, from its serial line. */
import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pairHosts, type PairHost, type PlacedGuest } from "./placement.ts";

const readyLine = "twinrun: guest ready";

/** Whether the guest that began to boot on `host` has come to its services there. */
export function isReadyOn(guest: PlacedGuest, host: PairHost): boolean {
  const { serialLog } = guest.specs[host];
  return existsSync(serialLog) && readFileSync(serialLog, "latin1").includes(readyLine);
}

/** Waits until the guest's services listen, wherever it runs. */
export async function waitForGuest(guest: PlacedGuest, timeoutMs: number): Promise<void> {
  const logs = pairHosts.map((host) => guest.specs[host].serialLog);
  const deadlineMs = Date.now() + timeoutMs;
  while (!pairHosts.some((host) => isReadyOn(guest, host))) {
    if (Date.now() > deadlineMs) {
      const said = logs.map((path) => (existsSync(path) ? readFileSync(path, "latin1").slice(-2000) : "")).join("\n");
      throw new Error(`guest ${guest.name} is not ready after ${timeoutMs} ms; its serial line says:\n${said}`);
    }
    await sleep(50);
  }
}
