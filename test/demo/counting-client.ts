/**
 * A client that is one file and needs nothing but a Node, for where the others of test/lab/clients cannot be: it opens one TCP
 * connection, once, and sends numbers, each after the answer to the one before. The guest answers "N COUNT LAST"; COUNT and LAST live
 * in its memory only, so that an answer tells of a memory that was set back and of a request that was executed twice.
 *
 * usage: counting-client.ts HOST PORT      prints what it saw, a line of JSON (CountingReport of chapters/existing.ts), five times a
 *                                         second; ends with its input
 */
import { connect } from "node:net";

const thinkMs = 50;
const [host = "", port = ""] = process.argv.slice(-2);
let repliesCount = 0;
let fault: string | null = null;
let longestWaitMs = 0;
let askedAtMs = performance.now();
let text = "";

const socket = connect({ host, port: Number(port), noDelay: true });
const ask = (): void => {
  askedAtMs = performance.now();
  socket.write(`${repliesCount + 1}\n`);
};
const judge = (reply: string): void => {
  longestWaitMs = Math.max(longestWaitMs, performance.now() - askedAtMs);
  const number = repliesCount + 1;
  const expected = `${number} ${number} ${number === 1 ? "-" : number - 1}`;
  if (reply !== expected) {
    fault = `expected "${expected}", got "${reply}"`;
    return;
  }
  repliesCount = number;
  setTimeout(ask, thinkMs);
};
socket.on("connect", ask).on("data", (part) => {
  text += part.toString();
  const end = text.indexOf("\n");
  if (end >= 0) {
    const reply = text.slice(0, end);
    text = text.slice(end + 1);
    judge(reply);
  }
});
socket.on("error", (error) => (fault ??= error.message)).on("close", () => (fault ??= "the connection is closed"));
setInterval(() => {
  const waitsMs = Math.round(performance.now() - askedAtMs);
  process.stdout.write(
    `${JSON.stringify({ repliesCount, fault, longestWaitMs: Math.round(longestWaitMs), waitsMs })}\n`,
  );
}, 200);
process.stdin.on("end", () => process.exit(0)).resume();
