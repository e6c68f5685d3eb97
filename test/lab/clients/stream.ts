/**
 * One raw TCP stream between two hosts: how fast anything could be copied there. The yardstick of the first copy.
 *
 * The receiving process prints a line when it listens and one with what it measured, from the first byte to the last.
 */
import { connect, createServer } from "node:net";
import { assert } from "../../../src/lib/assert.ts";
import { addressOf, type Lab, type NetworkName } from "../hosts.ts";
import { type PairHost } from "../placement.ts";

export type StreamResult = { readonly bytes: number; readonly ms: number; readonly mebibytesPerSecond: number };

const streamPort = 4990;

/** Sends `bytes` from one host to the other over `network`. */
export async function measureStream(
  lab: Lab,
  [from, to]: readonly [PairHost, PairHost],
  network: NetworkName,
  bytes: number,
): Promise<StreamResult> {
  const address = addressOf(to, network);
  const program = new URL(import.meta.url).pathname;
  const receiver = lab.spawn(to, [process.execPath, program, "receive", address]);
  const lines: string[] = [];
  const listening = new Promise<void>((resolve, reject) => {
    receiver.on("exit", () => {
      reject(new Error("the receiver of the stream ended before it listened"));
    });
    receiver.stdout?.setEncoding("utf8").on("data", (text: string) => {
      lines.push(...text.split("\n").filter(Boolean));
      resolve();
    });
  });
  await listening;
  const received = new Promise((resolve) => receiver.on("close", resolve));
  await lab.execute(from, [process.execPath, program, "send", address, String(bytes)]);
  await received;
  const { bytes: gotBytes, ms } = JSON.parse(lines[1] ?? "{}") as { bytes: number; ms: number };
  assert(gotBytes === bytes, `the stream lost bytes: ${gotBytes} of ${bytes}`);
  return { bytes, ms, mebibytesPerSecond: bytes / 1024 / 1024 / (ms / 1000) };
}

function receive(host: string): void {
  const server = createServer((socket) => {
    let bytes = 0;
    let startedAtMs = 0;
    socket.on("data", (data) => {
      startedAtMs ||= performance.now();
      bytes += data.length;
    });
    socket.on("end", () => {
      process.stdout.write(`${JSON.stringify({ bytes, ms: performance.now() - startedAtMs })}\n`);
      server.close();
    });
  });
  server.listen(streamPort, host, () => {
    process.stdout.write("listening\n");
  });
}

/** Not zeros: nothing on the way may have it easier than with a guest's memory. */
function send(host: string, bytes: number): void {
  const block = Buffer.alloc(1024 * 1024, "twinrun raw stream ");
  const socket = connect(streamPort, host);
  let left = bytes;
  const push = (): void => {
    while (left > 0) {
      const part = left >= block.length ? block : block.subarray(0, left);
      left -= part.length;
      if (!socket.write(part)) {
        socket.once("drain", push);
        return;
      }
    }
    socket.end();
  };
  socket.on("connect", push);
}

if (import.meta.main) {
  const [, , role, host = "", bytes = "0"] = process.argv;
  if (role === "receive") {
    receive(host);
  } else {
    send(host, Number(bytes));
  }
}
