/**
 * Runs in a pod, given whole on node's command line: knocks at every `NAME=HOST:PORT` of its arguments, with each way in which
 * somebody without rights could: plain HTTP, TLS without a certificate, TLS with one he made himself; and, where CERT and KEY are in
 * the environment, with that one. Prints a line `NAME WAY: N bytes` for each, of what came back over an open connection.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { connect as connectPlain, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

type Pair = { readonly cert: string; readonly key: string };
const question = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
const patienceMs = 4_000;

function makePair(): Pair {
  const [key, cert] = ["/tmp/own.key", "/tmp/own.crt"];
  const names = ["-subj", "/CN=node-a", "-addext", "subjectAltName=URI:twinrun://node/node-a"];
  const made = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", key, "-out", cert, ...names];
  execFileSync("openssl", made, { stdio: "ignore" });
  return { cert: readFileSync(cert, "utf8"), key: readFileSync(key, "utf8") };
}

/** A port that refuses the connection itself would be no proof of anything. */
function listen(socket: Socket, openEvent: string): Promise<string> {
  let bytesCount = 0;
  let isOpen = false;
  socket.on("connect", () => (isOpen = true));
  socket.on(openEvent, () => socket.write(question));
  socket.on("data", (part: Buffer) => (bytesCount += part.length));
  socket.on("error", () => undefined);
  return new Promise((resolve) => {
    const timer = setTimeout(() => socket.destroy(), patienceMs);
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(isOpen ? `${bytesCount} bytes` : "not reached");
    });
  });
}

const withTls = (host: string, port: number, pair: Partial<Pair>): Promise<string> =>
  listen(connectTls({ host, port, rejectUnauthorized: false, ...pair }), "secureConnect");

const own = makePair();
const { CERT: cert, KEY: key } = process.env;
for (const target of process.argv.slice(1)) {
  const [name = "", host = "", port = ""] = target.split(/[=:]/);
  const ways: Record<string, () => Promise<string>> = {
    plain: () => listen(connectPlain({ host, port: Number(port) }), "connect"),
    "no certificate": () => withTls(host, Number(port), {}),
    "own certificate": () => withTls(host, Number(port), own),
    ...(cert === undefined || key === undefined
      ? {}
      : { "certificate of another node": () => withTls(host, Number(port), { cert, key }) }),
  };
  for (const [way, knock] of Object.entries(ways)) {
    process.stdout.write(`${name} ${way}: ${await knock()}\n`);
  }
}
