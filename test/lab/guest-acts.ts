/** What a guest of the lab does to itself when it is told to, by its service for that (images/busybox/serve-acts.sh). */
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { guestPorts } from "./guests.ts";
import { type Lab } from "./hosts.ts";
import { type PlacedGuest } from "./placement.ts";

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

/** Says one command to the agent in the guest, as libvirt does, and returns what it answers. */
export async function askAgent(channel: string, command: string, timeoutMs: number): Promise<unknown> {
  const socket = connect(channel);
  try {
    return JSON.parse(await readLine(socket, `{"execute":"${command}"}\n`, timeoutMs));
  } finally {
    socket.destroy();
  }
}

function readLine(socket: Socket, question: string, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error(`the agent in the guest does not answer ${question.trim()}`));
    }, timeoutMs);
    let said = "";
    socket.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("\n")) {
        clearTimeout(timer);
        resolve(said.slice(0, said.indexOf("\n")));
      }
    });
    socket.on("error", reject);
    socket.write(question);
  });
}
