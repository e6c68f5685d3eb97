/**
 * HTTP to one API server: whole answers with a deadline, and streams of lines that end when nothing is heard.
 *
 * Every failure is a {@link KubeFailure}. Connections are kept and used again; when the certificate or the CA has changed, new
 * ones are made. What was surely not carried out is sent again: a refused token after reading it anew, "too many requests"
 * after the time the server names, and anything but a POST on a kept connection that turns out to be closed.
 *
 * Why node:https and not the library's client (undici): it costs 6 MiB and not 27, and lets us set a socket's keep-alive, which
 * is what finds a half-open watch.
 */
import { createHash } from "node:crypto";
import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, request as requestHttp } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import type { Access } from "./server-access.ts";
import type { AccessSource } from "./access.ts";
import {
  aborted,
  badAnswer,
  hasKubeCode,
  KubeFailure,
  parseConnectionFailure,
  parseRefusal,
  timedOut,
} from "./kube-failure.ts";

export type HttpRequest = {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>> | undefined;
  readonly body?: string | undefined;
  readonly contentType?: string | undefined;
  /** Of the whole request with all its attempts; for a stream: until it begins. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
};

export type StreamRequest = HttpRequest & { readonly silenceMs: number };

/** A dead watch is found after this and ten seconds more (libuv asks ten times, a second apart). */
const keepAliveAfterMs = 10_000;
/** Less than an API server keeps an idle connection (90 s), so that a request seldom meets one that is being closed. */
const idleSocketMs = 45_000;
const answerLengthMax = 256 * 1024 * 1024;
const refusalLengthMax = 1024 * 1024;
const attemptsMax = 5;

type Transport = { readonly agent: HttpAgent; readonly fingerprint: string };

export class HttpConnection {
  readonly #source: AccessSource;
  #transport: Transport | undefined;

  constructor(source: AccessSource) {
    this.#source = source;
  }

  /** What the source says now. */
  readAccess(): Promise<Access> {
    return this.#source.read();
  }

  /** For who connects otherwise: who we are, and by which way. */
  async readTransport(): Promise<{ readonly access: Access; readonly agent: HttpAgent }> {
    const access = await this.#source.read();
    return { access, agent: access.agent ?? this.#agentFor(access) };
  }

  /** The body of a good answer. */
  async send(request: HttpRequest): Promise<string> {
    const deadlineMs = performance.now() + request.timeoutMs;
    for (let attempt = 1; ; attempt += 1) {
      let text = "";
      const exchange = new Exchange({ ...request, timeoutMs: Math.max(1, deadlineMs - performance.now()) }, (part) => {
        text += part;
        if (text.length > answerLengthMax) {
          throw badAnswer(nameOf(request), `the answer is longer than ${answerLengthMax} characters`);
        }
      });
      const failure = await this.#run(exchange);
      if (failure === undefined) {
        return text;
      }
      const waitMs = attempt < attemptsMax ? decideRetry(failure, exchange, attempt) : undefined;
      if (waitMs === undefined || performance.now() + waitMs >= deadlineMs) {
        throw failure;
      }
      await sleep(waitMs, undefined, { signal: request.signal }).catch(() => undefined);
    }
  }

  /** Gives every line to `onLine` until the server ends the stream, the signal is aborted or nothing is heard for `silenceMs`. */
  async stream(request: StreamRequest, onLine: (line: string) => void): Promise<void> {
    let rest = "";
    const exchange = new Exchange(request, (part) => {
      const lines = part.split("\n");
      for (const line of lines.slice(0, -1)) {
        onLine(rest + line);
        rest = "";
      }
      rest += lines.at(-1) ?? "";
    });
    const failure = await this.#run(exchange);
    if (failure !== undefined) {
      throw failure;
    }
  }

  /** Ends what is under way, too. */
  close(): void {
    this.#transport?.agent.destroy();
  }

  async #run(exchange: Exchange): Promise<KubeFailure | undefined> {
    try {
      const { access, agent } = await this.readTransport();
      await exchange.run(access, agent);
      return undefined;
    } catch (error) {
      if (hasKubeCode(error, "Unauthorized", "Untrusted")) {
        this.#source.forget();
      }
      if (error instanceof KubeFailure) {
        return error;
      }
      throw error;
    }
  }

  #agentFor({ server, tls, proxyUrl }: Access): HttpAgent {
    const fingerprint = createHash("sha256")
      .update(JSON.stringify([server.href, tls.servername, tls.rejectUnauthorized, proxyUrl]))
      .update(["", tls.ca ?? "", tls.cert ?? "", tls.key ?? ""].join("\n"))
      .digest("base64");
    if (this.#transport?.fingerprint !== fingerprint) {
      // What is under way on the old one ends by itself; its idle connections time out.
      const agent = createAgent({ server, tls, proxyUrl });
      this.#transport = { agent, fingerprint };
    }
    return this.#transport.agent;
  }
}

function createAgent({ server, tls, proxyUrl }: Pick<Access, "server" | "tls" | "proxyUrl">): HttpAgent {
  const proxyEnv = proxyUrl === undefined ? process.env : { HTTPS_PROXY: proxyUrl, HTTP_PROXY: proxyUrl };
  const options = { keepAlive: true, timeout: idleSocketMs, maxFreeSockets: 16, proxyEnv };
  return server.protocol === "https:" ? new HttpsAgent({ ...options, ...tls }) : new HttpAgent(options);
}

/** How long to wait before the same request is sent again; undefined when it must not or need not be. */
function decideRetry(failure: KubeFailure, { method, isOnUsedSocket }: Exchange, attempt: number): number | undefined {
  const { detail } = failure;
  if (detail.code === "TooManyRequests") {
    return detail.retryAfterMs;
  }
  const isStaleToken = detail.code === "Unauthorized" && attempt === 1;
  const isStaleSocket = detail.code === "Unreachable" && isOnUsedSocket && method !== "POST";
  return isStaleToken || isStaleSocket ? 0 : undefined;
}

const nameOf = ({ method, path }: Pick<HttpRequest, "method" | "path">): string => `${method} ${path}`;

/** One request and its answer. */
class Exchange {
  readonly #request: HttpRequest & { readonly silenceMs?: number };
  readonly #take: (part: string) => void;
  #timer: NodeJS.Timeout | undefined;
  #sent: ClientRequest | undefined;

  /** What `take` throws ends the exchange. */
  constructor(request: HttpRequest & { readonly silenceMs?: number }, take: (part: string) => void) {
    this.#request = request;
    this.#take = take;
  }

  get method(): HttpRequest["method"] {
    return this.#request.method;
  }

  /** Whether the connection had served before: the server may have closed it just when we wrote. */
  get isOnUsedSocket(): boolean {
    return this.#sent?.reusedSocket === true;
  }

  async run(access: Access, agent: HttpAgent): Promise<void> {
    const { signal, timeoutMs } = this.#request;
    if (signal?.aborted === true) {
      throw aborted(nameOf(this.#request));
    }
    const sent = this.#open(access, agent);
    this.#sent = sent;
    const giveUp = (): void => {
      sent.destroy(aborted(nameOf(this.#request)));
    };
    signal?.addEventListener("abort", giveUp);
    this.#setTimer(sent, timeoutMs);
    try {
      await this.#receive(sent);
    } catch (error) {
      throw error instanceof TakeFailed ? error.cause : parseConnectionFailure(error, access.server.host);
    } finally {
      clearTimeout(this.#timer);
      signal?.removeEventListener("abort", giveUp);
    }
  }

  #setTimer(sent: ClientRequest, ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      sent.destroy(timedOut(nameOf(this.#request), ms));
    }, ms);
  }

  #open({ server, headers }: Access, agent: HttpAgent): ClientRequest {
    const { method, path, query, body, contentType } = this.#request;
    const url = new URL(server.pathname.replace(/\/$/, "") + path, server);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) {
        url.searchParams.set(name, String(value));
      }
    }
    const ofBody = {
      "content-type": contentType ?? "application/json",
      "content-length": Buffer.byteLength(body ?? ""),
    };
    const sent = (url.protocol === "https:" ? requestHttps : requestHttp)(url, {
      method,
      agent,
      headers: {
        accept: "application/json",
        "user-agent": "twinrun",
        ...(headers as Record<string, string | string[]>),
        ...(body === undefined ? {} : ofBody),
      },
    });
    sent.on("socket", (socket) => {
      socket.setKeepAlive(true, keepAliveAfterMs);
    });
    return sent.end(body);
  }

  #receive(sent: ClientRequest): Promise<void> {
    return new Promise((resolve, reject) => {
      sent.on("error", reject);
      sent.on("response", (answer) => {
        const status = answer.statusCode ?? 0;
        if (this.#request.silenceMs !== undefined) {
          this.#setTimer(sent, this.#request.silenceMs);
        }
        const isGood = status >= 200 && status < 300;
        let refusal = "";
        answer.setEncoding("utf8").on("error", reject);
        answer.on("data", (part: string) => {
          if (isGood) {
            this.#give(answer, part);
          } else if (refusal.length < refusalLengthMax) {
            refusal += part;
          }
        });
        answer.on("end", () => {
          if (isGood) {
            resolve();
          } else {
            reject(this.#refuse(answer, refusal));
          }
        });
      });
    });
  }

  #give(answer: IncomingMessage, part: string): void {
    if (this.#request.silenceMs !== undefined) {
      this.#timer?.refresh();
    }
    try {
      this.#take(part);
    } catch (cause) {
      answer.destroy(new TakeFailed(cause));
    }
  }

  #refuse({ statusCode = 0, headers }: IncomingMessage, body: string): KubeFailure {
    const after = Number(headers["retry-after"]);
    return parseRefusal({
      request: nameOf(this.#request),
      status: statusCode,
      body,
      retryAfterSeconds: headers["retry-after"] === undefined || Number.isNaN(after) ? undefined : after,
    });
  }
}

/** Carries what the receiver threw past the translation of connection errors. */
class TakeFailed extends Error {
  constructor(cause: unknown) {
    super("the receiver failed", { cause });
  }
}
