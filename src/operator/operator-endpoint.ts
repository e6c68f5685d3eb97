/**
 * What may be asked of the operator over HTTP:
 *
 *   GET /healthz, /readyz   `ok`, or 503: plain, for kubelet's probes, and nothing else is said there
 *   GET /metrics            Prometheus text: only by mutual TLS, with a certificate of Twinrun's CA that may read figures
 */
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createSecureServer, type Server as SecureServer } from "node:https";
import { type AddressInfo } from "node:net";
import { type TLSSocket } from "node:tls";
import { type Log } from "../telemetry/log.ts";
import { METRICS_CONTENT_TYPE } from "../telemetry/metrics.ts";

export type Address = { readonly host: string; readonly port: number };

/** PEM; the newest is asked for at every connection, so that it can be renewed. */
export type ServerCertificate = {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  readonly ca: string | Buffer;
};

export type Readers = {
  /** Whether who shows this certificate may read. */
  readonly isReader: (socket: TLSSocket) => boolean;
  /** Is called with a function that takes the next certificate. */
  readonly renewed: (use: (next: ServerCertificate) => void) => void;
};

export interface OperatorFacts {
  readonly isReady: boolean;
  writeMetrics(): string;
}

const TIMEOUT_MS = 15_000;
const CONNECTIONS_MAX = 64;

export class OperatorEndpoint {
  readonly #facts: OperatorFacts;
  readonly #log: Log;
  readonly #servers: (Server | SecureServer)[] = [];

  constructor(facts: OperatorFacts, log: Log) {
    this.#facts = facts;
    this.#log = log;
  }

  /** Resolves with the port. */
  listenForProbes(address: Address): Promise<number> {
    return this.#open(createServer(this.#listener(["/healthz", "/readyz"])), address);
  }

  listenForMetrics(address: Address, certificate: ServerCertificate, { isReader, renewed }: Readers): Promise<number> {
    const settings = { requestCert: true, rejectUnauthorized: true, minVersion: "TLSv1.3" as const };
    const server = createSecureServer({ ...certificate, ...settings }, this.#listener(["/metrics"]));
    server.on("secureConnection", (socket) => {
      if (!isReader(socket)) {
        socket.destroy();
      }
    });
    renewed((next) => {
      server.setSecureContext({ ...next, minVersion: settings.minVersion });
    });
    return this.#open(server, address);
  }

  async close(): Promise<void> {
    const closing = this.#servers.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const server of this.#servers) {
      server.closeAllConnections();
    }
    await Promise.all(closing);
  }

  #listener(paths: readonly string[]): RequestListener {
    return ({ method, url = "" }, response) => {
      const path = url.split("?")[0] ?? "";
      const isKnown = method === "GET" && paths.includes(path);
      const { code, type, body } = isKnown
        ? this.#answer(path)
        : { code: 404, type: "text/plain", body: "not found\n" };
      response.writeHead(code, { "content-type": type }).end(body);
    };
  }

  #answer(path: string): { readonly code: number; readonly type: string; readonly body: string } {
    if (path === "/metrics") {
      return { code: 200, type: METRICS_CONTENT_TYPE, body: this.#facts.writeMetrics() };
    }
    const isWell = path === "/healthz" || this.#facts.isReady;
    return { code: isWell ? 200 : 503, type: "text/plain", body: isWell ? "ok\n" : "not yet\n" };
  }

  async #open(server: Server | SecureServer, { host, port }: Address): Promise<number> {
    server.requestTimeout = TIMEOUT_MS;
    server.headersTimeout = TIMEOUT_MS;
    server.maxConnections = CONNECTIONS_MAX;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host, port }, resolve);
    });
    server.on("error", (error: Error) => {
      this.#log.error({ error }, "the HTTP endpoint failed");
    });
    this.#servers.push(server);
    return (server.address() as AddressInfo).port;
  }
}
