/** What a guest of the lab does to itself when it is told to, by its service for that (images/busybox/serve-acts.sh). */
import { randomInt } from "node:crypto";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { guestPorts } from "./guests.ts";
import { type Lab } from "./hosts.ts";
import { type PlacedGuest } from "./placement.ts";

/** Longer than the agent is away when a connection is closed. */
const SYNC_EVERY_MS = 2_000;

/** Its answer; for what it answers. Asked again while it does not listen, as the one after another is not accepted at once. */
export async function askGuest(lab: Lab, guest: PlacedGuest, line: string, timeoutMs: number): Promise<string> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    const answer = await talk(lab, guest, `echo '${line}' >&3; timeout ${Math.ceil(timeoutMs / 1000)} cat <&3`);
    if (answer !== "" || Date.now() > deadlineMs) {
      return answer.trim();
    }
    await sleep(200);
  }
}

/** For what it does not come back from. */
export async function tellGuest(lab: Lab, guest: PlacedGuest, line: string): Promise<void> {
  await talk(lab, guest, `echo '${line}' >&3; timeout 1 cat <&3`);
}

async function talk(lab: Lab, { address }: PlacedGuest, script: string): Promise<string> {
  const dial = `exec 3<>/dev/tcp/${address}/${guestPorts.acts} || exit 0; ${script}; exit 0`;
  return lab.execute("c", ["timeout", "120", "bash", "-c", `{ ${dial}; } 2>/dev/null`]);
}

/**
 * Says one command to the agent in the guest, as libvirt does, and returns what it answers. An answer of before may still come, as
 * after a takeover, of which the agent in the guest does not know; so a number is said first, and what comes before it is not ours.
 * The number is said again while it is not answered: what comes while the agent closes the device, because the connection of before
 * was closed, is lost in the guest.
 */
export async function askAgent(channel: string, command: string, timeoutMs: number): Promise<unknown> {
  const socket = connect(channel);
  const lines = createInterface({ input: socket });
  const id = randomInt(1_000_000_000);
  // Lines do not end by themselves with a connection that is destroyed or that fails.
  const end = (): void => {
    lines.close();
  };
  socket.on("error", end);
  const greet = (): void => {
    socket.write(`{"execute":"guest-sync","arguments":{"id":${id}}}\n`);
  };
  const timeout = setTimeout(end, timeoutMs);
  const greeting = setInterval(greet, SYNC_EVERY_MS);
  const number = `{"return": ${id}}`;
  try {
    greet();
    let isOurs = false;
    for await (const line of lines) {
      if (isOurs && line !== number) {
        return JSON.parse(line);
      }
      if (!isOurs && line === number) {
        isOurs = true;
        clearInterval(greeting);
        socket.write(`{"execute":"${command}"}\n`);
      }
    }
    throw new Error(`the agent in the guest does not answer ${command}`);
  } finally {
    clearTimeout(timeout);
    clearInterval(greeting);
    socket.destroy();
  }
}
