/**
 * gRPC over HTTP/2 on a unix socket: unary calls, as much of it as virt-launcher's client uses.
 *
 * A call is a POST to /PACKAGE.SERVICE/METHOD with content-type application/grpc. Its body, and that of the answer, is one
 * message: {u8 compressed, u32 big-endian length, bytes}. The answer ends with the trailers grpc-status (a number) and, when
 * that is not 0, grpc-message (percent-encoded); an answer without a message is only headers, which carry the trailers.
 *
 * Contract: whatever a client sends, it gets a status and the server lives on. One sidecar that dies keeps a guest from
 * starting, and KubeVirt starts no sidecar twice; so even a bug in a method becomes the status INTERNAL, and a line in the log.
 *
 * Not spoken: compressed messages (never sent to a server that does not offer to take them), streams of messages, deadlines
 * (every method answers at once).
 *
 * Why not a library: measured with Node 24, the usual one (grpc-js) takes 4 MB more memory and 40 ms more processor time at
 * the start than node:http2 alone, of the 64 MB and the fifth of a core that a sidecar has; what is used of it is this file.
 */
import { createServer, type Http2Server, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { Failure } from "../lib/failure.ts";
import { type Log } from "../telemetry/log.ts";

/** The statuses in use here, by gRPC's numbers. */
const STATUS = {
  INVALID_ARGUMENT: 3,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
} as const;
export type GrpcStatus = keyof typeof STATUS;

/** What a method throws to choose its status. */
export class GrpcFailure extends Failure<{ readonly code: GrpcStatus }> {}

/** A message in, a message out. */
export type GrpcMethod = (request: Buffer) => Uint8Array;
export type GrpcMethods = ReadonlyMap<string, GrpcMethod>;

/** Annotations of a VMI end at 256 KiB; a domain has some 20. More would not fit a sidecar: a message is copied a few times. */
export const MESSAGE_BYTES_MAX = 1024 * 1024;
const PREFIX_BYTES = 5;
const CONTENT_TYPE = "application/grpc";
const CLOSE_WITHIN_MS = 1_000;

export class GrpcServer {
  readonly #methods: GrpcMethods;
  readonly #log: Log;
  readonly #server: Http2Server;
  readonly #sessions = new Set<ServerHttp2Session>();

  private constructor(methods: GrpcMethods, log: Log) {
    this.#methods = methods;
    this.#log = log;
    this.#server = createServer()
      .on("session", (session) => {
        this.#sessions.add(session);
        session.once("close", () => this.#sessions.delete(session));
      })
      .on("sessionError", (error) => {
        this.#log.warn({ error }, "a client's connection broke");
      })
      .on("stream", (stream, headers) => {
        // A client that went away; what it asked for changed nothing here.
        stream.on("error", (error) => {
          this.#log.debug({ error }, "a call broke");
        });
        if (headers[":method"] === "POST" && headers["content-type"]?.startsWith(CONTENT_TYPE) === true) {
          this.#takeCall(stream, headers[":path"] ?? "");
        } else {
          stream.respond({ ":status": 415 }, { endStream: true });
        }
      });
  }

  /** Resolves when calls are taken at `socketPath`; a socket that a dead process left there must be gone. */
  static async open(socketPath: string, methods: GrpcMethods, log: Log): Promise<GrpcServer> {
    const opened = new GrpcServer(methods, log);
    await new Promise<void>((resolve, reject) => {
      opened.#server.once("error", reject).listen(socketPath, resolve);
    });
    return opened;
  }

  /** Answers what was asked, takes no more, and removes the socket. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
    for (const session of this.#sessions) {
      session.close();
    }
    const deadline = setTimeout(() => {
      for (const session of this.#sessions) {
        session.destroy();
      }
    }, CLOSE_WITHIN_MS);
    await closed;
    clearTimeout(deadline);
  }

  #takeCall(stream: ServerHttp2Stream, path: string): void {
    const chunks: Buffer[] = [];
    let bytes = 0;
    stream.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= MESSAGE_BYTES_MAX + PREFIX_BYTES) {
        chunks.push(chunk);
      } else if (!stream.headersSent) {
        chunks.length = 0;
        this.#refuse(stream, path, tooLarge());
      }
    });
    stream.once("end", () => {
      if (stream.headersSent || stream.destroyed) {
        return;
      }
      try {
        this.#answer(stream, this.#call(path, Buffer.concat(chunks)));
      } catch (error) {
        this.#refuse(stream, path, error);
      }
    });
  }

  #call(path: string, body: Buffer): Uint8Array {
    const method = this.#methods.get(path);
    if (method === undefined) {
      const says = `no method ${path} here; there are ${[...this.#methods.keys()].join(", ")}`;
      throw new GrpcFailure({ code: "UNIMPLEMENTED" }, says);
    }
    return method(readMessage(body));
  }

  #answer(stream: ServerHttp2Stream, message: Uint8Array): void {
    const prefix = Buffer.alloc(PREFIX_BYTES);
    prefix.writeUInt32BE(message.length, 1);
    stream.once("wantTrailers", () => {
      stream.sendTrailers({ "grpc-status": "0" });
    });
    stream.respond({ ":status": 200, "content-type": CONTENT_TYPE }, { waitForTrailers: true });
    stream.end(Buffer.concat([prefix, message]));
  }

  #refuse(stream: ServerHttp2Stream, path: string, error: unknown): void {
    const failure = error instanceof GrpcFailure ? error : undefined;
    if (failure === undefined) {
      this.#log.error({ error, path }, "a call failed because of a bug");
    } else {
      this.#log.warn({ path, code: failure.detail.code, says: failure.message }, "a call was refused");
    }
    if (stream.headersSent || stream.destroyed) {
      stream.destroy(); // It failed in the middle of an answer: no status can be sent any more.
      return;
    }
    const headers = {
      ":status": 200,
      "content-type": CONTENT_TYPE,
      "grpc-status": String(STATUS[failure?.detail.code ?? "INTERNAL"]),
      "grpc-message": encodeStatusMessage(failure?.message ?? `bug in the hook: ${String(error)}`),
    };
    stream.respond(headers, { endStream: true });
    // What the client still sends is read and dropped: a reset in its place could overtake the status.
    stream.resume();
  }
}

function readMessage(body: Buffer): Buffer {
  if (body.length < PREFIX_BYTES) {
    throw new GrpcFailure({ code: "INVALID_ARGUMENT" }, "a call needs one message, there is none");
  }
  const length = body.readUInt32BE(1);
  if (length > MESSAGE_BYTES_MAX) {
    throw tooLarge();
  }
  if (body[0] !== 0) {
    throw new GrpcFailure({ code: "UNIMPLEMENTED" }, "compressed messages are not taken; send them as they are");
  }
  if (body.length !== PREFIX_BYTES + length) {
    const says = `a call has one message; its length is given as ${length}, and ${body.length - PREFIX_BYTES} bytes came`;
    throw new GrpcFailure({ code: "INVALID_ARGUMENT" }, says);
  }
  return body.subarray(PREFIX_BYTES);
}

function tooLarge(): GrpcFailure {
  const says = `a message may have at most ${MESSAGE_BYTES_MAX} bytes`;
  return new GrpcFailure({ code: "RESOURCE_EXHAUSTED" }, says);
}

/** Printable ASCII but for the percent sign stays; every other byte of the UTF-8 is written %XX. */
function encodeStatusMessage(text: string): string {
  return [...Buffer.from(text)]
    .map((byte) =>
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`,
    )
    .join("");
}
