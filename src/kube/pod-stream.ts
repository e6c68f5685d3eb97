/**
 * A command in a container of a pod, with its standard input and output: the `exec` of the API server over a WebSocket.
 *
 * Every message is a channel number and bytes (kubernetes/enhancements 4006): 0 standard input, 1 output, 2 errors, 3 the end as a
 * Status; in v5 a message of 255 ends the channel that it names.
 */
import { type Agent } from "node:http";
import { type RawData, WebSocket } from "ws";
import { aborted, KubeFailure, parseConnectionFailure, parseRefusal, timedOut } from "./kube-failure.ts";
import { type Access } from "./server-access.ts";

export type PodCommand = {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  readonly command: readonly string[];
};

export type PodStreamOptions = { readonly signal?: AbortSignal | undefined; readonly timeoutMs: number };

const CHANNELS = { input: 0, output: 1, errors: 2, end: 3, close: 255 } as const;
/** v5 can end the standard input; v4 is what servers before 1.30 speak. */
const PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const ERRORS_LENGTH_MAX = 4_096;
/** More is not handed to the connection before it has taken what it has. */
const MESSAGE_BYTES = 256 * 1024;

export class PodStream {
  readonly #socket: WebSocket;
  readonly #server: string;
  #errors = "";
  #failure: KubeFailure | undefined;
  #onOutput: (part: Buffer) => void = () => undefined;
  /** Resolves when the command has ended in order; rejects when it failed or the connection broke. */
  readonly ended: Promise<void>;

  private constructor(socket: WebSocket, server: string) {
    this.#socket = socket;
    this.#server = server;
    this.ended = new Promise((resolve, reject) => {
      socket.on("message", (data) => {
        this.#take(data);
      });
      socket.on("error", (error) => {
        this.#failure ??= parseConnectionFailure(error, server);
      });
      socket.on("close", (code) => {
        this.#failure ??= this.#isEnded ? undefined : this.#brokenOff(code);
        if (this.#failure === undefined) {
          resolve();
        } else {
          reject(this.#failure);
        }
      });
    });
    this.ended.catch(() => undefined);
  }

  #isEnded = false;

  static async open(
    { server, tls, headers }: Access,
    agent: Agent,
    what: PodCommand,
    { signal, timeoutMs }: PodStreamOptions,
  ): Promise<PodStream> {
    const { namespace, pod, container, command } = what;
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/exec`;
    const url = new URL(server.pathname.replace(/\/$/, "") + path, server);
    url.protocol = server.protocol === "https:" ? "wss:" : "ws:";
    if (signal?.aborted === true) {
      throw aborted(`GET ${path}`);
    }
    const query = { container, stdin: "true", stdout: "true", stderr: "true", tty: "false" };
    const words = command.map((word): [string, string] => ["command", word]);
    url.search = new URLSearchParams([...Object.entries(query), ...words]).toString();
    const socket = new WebSocket(url, PROTOCOLS, {
      ...{ ...tls, agent, handshakeTimeout: timeoutMs, perMessageDeflate: false },
      headers: headers as Record<string, string>,
    });
    const stream = new PodStream(socket, server.host);
    const giveUp = (): void => {
      stream.#failure ??= aborted(`GET ${path}`);
      socket.terminate();
    };
    signal?.addEventListener("abort", giveUp);
    socket.on("close", () => {
      signal?.removeEventListener("abort", giveUp);
    });
    await stream.#untilOpen(`GET ${path}`, timeoutMs);
    return stream;
  }

  #untilOpen(request: string, timeoutMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.on("open", resolve);
      this.#socket.on("unexpected-response", (_sent, answer) => {
        let body = "";
        answer.setEncoding("utf8").on("data", (part: string) => (body = (body + part).slice(0, ERRORS_LENGTH_MAX)));
        answer.on("end", () => {
          this.#failure ??= parseRefusal({ request, status: answer.statusCode ?? 0, body });
          this.#socket.terminate();
        });
      });
      this.ended.catch((error: unknown) => {
        const isSilence = error instanceof Error && /handshake has timed out/.test(error.message);
        reject(isSilence ? timedOut(request, timeoutMs) : (error as KubeFailure));
      });
    });
  }

  /** What the command writes; before it, nothing is kept. */
  onOutput(take: (part: Buffer) => void): void {
    this.#onOutput = take;
  }

  /** Resolves when the connection has taken it. */
  async write(content: Uint8Array): Promise<void> {
    for (let at = 0; at < content.length; at += MESSAGE_BYTES) {
      await this.#send(CHANNELS.input, content.subarray(at, at + MESSAGE_BYTES));
    }
  }

  #send(channel: number, content: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(Buffer.concat([Uint8Array.of(channel), content]), (error) => {
        if (error instanceof Error) {
          reject(this.#failure ?? parseConnectionFailure(error, this.#server));
        } else {
          resolve();
        }
      });
    });
  }

  /** Ends the standard input and waits for the command; where the server cannot say so, the connection ends. */
  async end(): Promise<void> {
    if (this.#socket.protocol === PROTOCOLS[0]) {
      await this.#send(CHANNELS.close, Uint8Array.of(CHANNELS.input));
      await this.ended;
      return;
    }
    this.#isEnded = true;
    this.close();
  }

  close(): void {
    this.#socket.terminate();
  }

  #take(data: RawData): void {
    const bytes = data as Buffer;
    const content = bytes.subarray(1);
    const channel = bytes[0];
    // The end of a channel says nothing: the Status tells all.
    if (channel === CHANNELS.output) {
      this.#onOutput(content);
    } else if (channel === CHANNELS.errors) {
      this.#errors = (this.#errors + content.toString()).slice(-ERRORS_LENGTH_MAX);
    } else if (channel === CHANNELS.end) {
      this.#takeEnd(content.toString());
    }
  }

  #takeEnd(text: string): void {
    this.#isEnded = true;
    const { status, message = "" } = parseStatus(text);
    if (status !== "Success") {
      const said = this.#errors.trim() === "" ? message : `${message} (${this.#errors.trim()})`;
      this.#failure ??= new KubeFailure({ code: "BadAnswer", reason: said }, `the command in the pod failed: ${said}`);
    }
  }

  #brokenOff(code: number): KubeFailure {
    const says = `the connection to the pod broke off (${code})`;
    return new KubeFailure({ code: "Unreachable", reason: says }, `${says}; check that the pod and the API server run`);
  }
}

function parseStatus(text: string): { readonly status?: string; readonly message?: string } {
  try {
    return JSON.parse(text) as { status?: string; message?: string };
  } catch {
    return { message: text };
  }
}
