/**
 * One question to a QEMU that no engine holds yet: how far is it? Asking takes the monitor for a moment; whoever connects next
 * waits in its backlog. QEMU opens its monitor early and answers once its machine is built.
 */
import { connect } from "node:net";

const QUESTION = '{"execute":"qmp_capabilities"}\n{"execute":"query-status","id":"state"}\n';
const HEARD_MAX = 65_536;

/** QEMU's run state, such as `prelaunch`; undefined while it does not answer. */
export function readRunState(qmpPath: string, timeoutMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect(qmpPath);
    let heard = "";
    const timer = setTimeout(() => socket.destroy(), timeoutMs);
    socket.once("connect", () => {
      socket.write(QUESTION);
    });
    socket.on("data", (chunk) => {
      heard += chunk.toString("latin1");
      const state = findState(heard);
      if (state !== undefined || heard.length > HEARD_MAX) {
        resolve(state);
        socket.destroy();
      }
    });
    socket.once("error", () => undefined);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}

function findState(heard: string): string | undefined {
  for (const line of heard.split("\n").slice(0, -1)) {
    const answer = parseLine(line);
    if (answer?.id === "state") {
      const { status } = answer.return ?? {};
      return typeof status === "string" ? status : undefined;
    }
  }
  return undefined;
}

type Answer = {
  readonly id?: unknown;
  readonly return?: { readonly status?: unknown };
};

function parseLine(line: string): Answer | undefined {
  try {
    return JSON.parse(line) as Answer;
  } catch {
    return undefined;
  }
}
