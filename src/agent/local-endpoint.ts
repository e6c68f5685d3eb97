/**
 * The agent's HTTP endpoint, for tools on the host and for Prometheus.
 *
 *   GET  /healthz                    200 while the agent runs
 *   GET  /metrics                    Prometheus text
 *   GET  /status                     JSON: the node, its guests with their last reports, its links
 *   POST /guests/NAME/switchover     planned hand-over; 202 accepted, 409 refused with the reason, 404 no such guest
 *   POST /guests/NAME/start          starts a guest that shut itself down; 202, 409 when it has not
 *
 * Nothing listens without authentication. The unix socket RUN/agent.sock belongs to the agent's user and has mode 0600:
 * whoever may open it may already do everything. Over TCP there is only mutual TLS, TLS 1.3, certificates of Twinrun's
 * CA that may read figures (no other node's), and only what cannot change anything (GET).
 */
import { chmodSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { createServer as createSecureServer, type Server as SecureServer } from "node:https";
import { type AddressInfo } from "node:net";
import { mayReadFigures, type TlsCredentials } from "../net/tls.ts";
import { type Endpoint } from "../protocol/assignment.ts";
import { METRICS_CONTENT_TYPE } from "../telemetry/metrics.ts";
import { type Log } from "../telemetry/log.ts";
import { type SwitchoverAnswer } from "./guest-runner.ts";

/** What the endpoint shows and presses. */
export interface NodeControl {
  writeMetrics(): string;
  readStatus(): unknown;
  /** Undefined when there is no such guest. */
  requestSwitchover(guest: string): Promise<SwitchoverAnswer> | undefined;
  startEnded(guest: string): SwitchoverAnswer | undefined;
}

type Answer = { readonly code: number; readonly type: string; readonly body: string };

const TIMEOUT_MS = 15_000;
const CONNECTIONS_MAX = 64;

export class LocalEndpoint {
  readonly #control: NodeControl;
  readonly #log: Log;
  readonly #servers: (Server | SecureServer)[] = [];

  constructor(control: NodeControl, log: Log) {
    this.#control = control;
    this.#log = log;
  }

  /** The caller has made sure that no other agent lives: a file that is in the way is a dead one's. */
  async listenLocally(path: string): Promise<void> {
    rmSync(path, { force: true });
    const server = createServer(this.#listener(true));
    const before = process.umask(0o177); // The socket must never exist with a wider mode, not for a moment.
    try {
      await this.#open(server, { path });
    } finally {
      process.umask(before);
    }
    chmodSync(path, 0o600);
  }

  /** Resolves with the port. */
  async listenSecurely({ host, port }: Endpoint, credentials: TlsCredentials): Promise<number> {
    const server = createSecureServer(
      { ...credentials.material(), requestCert: true, rejectUnauthorized: true },
      this.#listener(false),
    );
    server.on("secureConnection", (socket) => {
      if (!mayReadFigures(socket, credentials.identity)) {
        socket.destroy();
      }
    });
    credentials.onReloaded((failure) => {
      if (failure === undefined) {
        server.setSecureContext(credentials.material());
      }
    });
    await this.#open(server, { host, port });
    return (server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    const closing = this.#servers.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const server of this.#servers) {
      server.closeAllConnections();
    }
    await Promise.all(closing);
  }

  async #open(server: Server | SecureServer, where: Endpoint | { readonly path: string }): Promise<void> {
    server.requestTimeout = TIMEOUT_MS;
    server.headersTimeout = TIMEOUT_MS;
    server.maxConnections = CONNECTIONS_MAX;
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(where, resolve);
    });
    server.on("error", (error: Error) => {
      this.#log.error({ error }, "the HTTP endpoint failed");
    });
    this.#servers.push(server);
  }

  #listener(mayChange: boolean): RequestListener {
    return (request, response) => {
      Promise.resolve()
        .then(() => this.#answer(request, mayChange))
        .catch((error: unknown) => {
          this.#log.error({ error, path: request.url }, "cannot answer a request");
          return say(500, "the agent failed to answer; its log says why");
        })
        .then((answer) => {
          write(response, answer);
        })
        .catch(() => response.destroy());
    };
  }

  #answer({ method = "", url = "" }: IncomingMessage, mayChange: boolean): Promise<Answer> {
    const path = url.split("?", 1)[0] ?? "";
    const action = /^\/guests\/([-a-z0-9.]{1,63})\/(switchover|start)$/.exec(path);
    if (action !== null) {
      const refusal = refuseAction(method, mayChange);
      return refusal === undefined ? this.#press(action[1] ?? "", action[2] ?? "") : Promise.resolve(refusal);
    }
    const isRead = method === "GET" || method === "HEAD";
    return Promise.resolve(isRead ? this.#read(path) : say(405, `${path} is only to be read: use GET`));
  }

  async #press(guest: string, verb: string): Promise<Answer> {
    const outcome = verb === "start" ? this.#control.startEnded(guest) : await this.#control.requestSwitchover(guest);
    return outcome === undefined
      ? say(404, `no guest ${guest} is assigned to this node`)
      : say(outcome.accepted ? 202 : 409, outcome.message);
  }

  #read(path: string): Answer {
    switch (path) {
      case "/healthz":
        return { code: 200, type: "text/plain; charset=utf-8", body: "ok\n" };
      case "/metrics":
        return { code: 200, type: METRICS_CONTENT_TYPE, body: this.#control.writeMetrics() };
      case "/status":
        return {
          code: 200,
          type: "application/json",
          body: `${JSON.stringify(this.#control.readStatus(), null, 2)}\n`,
        };
      default:
        return say(404, "there is /healthz, /metrics, /status and POST /guests/NAME/switchover or /start");
    }
  }
}

function refuseAction(method: string, mayChange: boolean): Answer | undefined {
  if (method !== "POST") {
    return say(405, "this is to be pressed, not read: use POST");
  }
  return mayChange ? undefined : say(403, "over the network there is only reading; use the unix socket on the host");
}

function say(code: number, message: string): Answer {
  return { code, type: "application/json", body: `${JSON.stringify({ message })}\n` };
}

function write(response: ServerResponse, { code, type, body }: Answer): void {
  response.writeHead(code, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(body);
}
