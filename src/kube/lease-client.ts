/**
 * Requests for the Leases of one namespace: what the quorum's Lease store needs, and no more.
 *
 * Not made through Cluster, for two reasons. The store has to know whether a request that failed may have been carried out; and
 * a connection to an API server whose host lost power must be given up within a fraction of a second, with all that idle
 * beside it, for they lead to the same host. Nothing is tried again here.
 */
import { Agent, request as requestHttps, type RequestOptions } from "node:https";
import type { Access, AccessSource } from "./access.ts";

type LeaseRequest =
  | { readonly tag: "read"; readonly name: string }
  | { readonly tag: "create"; readonly lease: object }
  | { readonly tag: "patch"; readonly name: string; readonly patch: object };

type LeaseReply =
  | { readonly tag: "answered"; readonly status: number; readonly body: unknown }
  /** Not `maybeDone`: the request cannot have reached the server. */
  | { readonly tag: "failed"; readonly maybeDone: boolean; readonly why: string };

const answerLengthMax = 1024 * 1024;
const fieldManager = "twinrun-quorum";

export class LeaseClient {
  readonly #source: AccessSource;
  readonly #path: string;
  #agent = createAgent();

  constructor(source: AccessSource, namespace: string) {
    this.#source = source;
    this.#path = `/apis/coordination.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/leases`;
  }

  async send(request: LeaseRequest, timeoutMs: number): Promise<LeaseReply> {
    let access: Access;
    try {
      access = await this.#source.read();
    } catch (error) {
      return { tag: "failed", maybeDone: false, why: error instanceof Error ? error.message : String(error) };
    }
    const reply = await this.#exchange(request, access, timeoutMs);
    if (reply.tag === "answered" ? reply.status === 401 : !reply.maybeDone) {
      this.#source.forget(); // Another token may do, or another authority's certificate.
    }
    return reply;
  }

  close(): void {
    this.#agent.destroy();
  }

  #exchange(request: LeaseRequest, access: Access, timeoutMs: number): Promise<LeaseReply> {
    const agent = this.#agent;
    const text = encodeBody(request);
    return new Promise((resolve) => {
      let isSent = false;
      const fail = (why: string): void => {
        clearTimeout(timer);
        resolve({ tag: "failed", maybeDone: isSent, why: `API server at ${access.server.host}: ${why}` });
        sent.destroy();
      };
      const sent = requestHttps(this.#urlOf(request, access.server), { ...optionsOf(request, access, text), agent });
      const timer = setTimeout(() => {
        fail(`no answer within ${Math.round(timeoutMs)} ms`);
        this.#giveUpConnections(agent);
      }, timeoutMs);
      sent.on("error", (error) => {
        fail(error.message);
      });
      sent.on("response", (response) => {
        let given = "";
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          given += chunk;
          if (given.length > answerLengthMax) {
            fail("the answer is too long");
          }
        });
        response.on("error", (error) => {
          fail(error.message);
        });
        response.on("end", () => {
          clearTimeout(timer);
          resolve({ tag: "answered", status: response.statusCode ?? 0, body: parseBody(given) });
        });
      });
      // Sent means: may have reached the server. Before TLS stands nothing can have.
      sent.on("socket", (socket) => {
        const mark = (): void => {
          isSent = true;
        };
        if (socket.connecting) {
          socket.once("secureConnect", mark);
        } else {
          mark();
        }
      });
      sent.end(text);
    });
  }

  #urlOf(request: LeaseRequest, server: URL): URL {
    const name = request.tag === "create" ? "" : `/${encodeURIComponent(request.name)}`;
    const url = new URL(`${server.pathname.replace(/[/]$/, "")}${this.#path}${name}`, server);
    if (request.tag !== "read") {
      url.searchParams.set("fieldManager", fieldManager);
    }
    return url;
  }

  /** What is under way on other connections may still be answered; what is idle is not trusted any more. */
  #giveUpConnections(agent: Agent): void {
    if (agent === this.#agent) {
      this.#agent = createAgent();
    }
    for (const sockets of Object.values(agent.freeSockets)) {
      sockets?.forEach((socket) => socket.destroy());
    }
  }
}

/** Connections are kept by host, authority and certificate: new ones are made when these change. */
const createAgent = (): Agent => new Agent({ keepAlive: true, maxSockets: 64 });

function optionsOf(request: LeaseRequest, { tls, headers }: Access, text: string | undefined): RequestOptions {
  const type = request.tag === "patch" ? "application/merge-patch+json" : "application/json";
  return {
    ...tls,
    method: { read: "GET", create: "POST", patch: "PATCH" }[request.tag],
    headers: {
      accept: "application/json",
      "user-agent": fieldManager,
      ...(headers as Record<string, string | string[]>),
      ...(text === undefined ? {} : { "content-type": type, "content-length": Buffer.byteLength(text) }),
    },
  };
}

function encodeBody(request: LeaseRequest): string | undefined {
  switch (request.tag) {
    case "read":
      return undefined;
    case "create":
      return JSON.stringify(request.lease);
    case "patch":
      return JSON.stringify(request.patch);
  }
}

function parseBody(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
