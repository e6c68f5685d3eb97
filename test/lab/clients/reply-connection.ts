/**
 * One long-lived TCP connection to a guest on which a request is answered by exactly one reply.
 *
 * A reply that nobody asked for is as much of a fault as one that does not come, so both are told: `exchange` fails when the
 * connection breaks or nothing comes in time, and every reply outside an exchange goes to `unasked`. A connection that broke
 * is never opened again: surviving is what is tested.
 */
import { connect, type Socket } from "node:net";

/** Cuts the first complete reply off what has been received, or says that there is none yet. */
export type TakeReply<Reply> = (
  received: Buffer,
) => { readonly reply: Reply; readonly lengthBytes: number } | undefined;

export type ConnectionBreak = { readonly tag: "broken"; readonly detail: string };
export type ExchangeResult<Reply> =
  | { readonly tag: "reply"; readonly reply: Reply }
  | ConnectionBreak
  | { readonly tag: "stalled"; readonly afterMs: number };

type Waiting<Reply> = { readonly resolve: (result: ExchangeResult<Reply>) => void; readonly timer: NodeJS.Timeout };

export class ReplyConnection<Reply> {
  readonly unasked: Reply[] = [];
  readonly #socket: Socket;
  readonly #takeReply: TakeReply<Reply>;
  #received: Buffer = Buffer.alloc(0);
  #waiting: Waiting<Reply> | undefined;
  #break: ConnectionBreak | undefined;
  #closing = false;

  constructor(socket: Socket, takeReply: TakeReply<Reply>) {
    this.#socket = socket;
    this.#takeReply = takeReply;
    socket.setNoDelay(true);
    socket.on("data", (data: Buffer) => {
      this.#take(data);
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.#breakOff(error.code ?? error.message);
    });
    socket.on("end", () => {
      this.#breakOff("closed by the guest");
    });
  }

  /** Set once the connection is of no use any more. */
  get broken(): ConnectionBreak | undefined {
    return this.#break;
  }

  exchange(request: string | Buffer, stallMs: number): Promise<ExchangeResult<Reply>> {
    if (this.#break !== undefined) {
      return Promise.resolve(this.#break);
    }
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#settle({ tag: "stalled", afterMs: stallMs });
      }, stallMs);
      this.#waiting = { resolve, timer };
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#closing = true;
    this.#socket.destroy();
  }

  #take(data: Buffer): void {
    this.#received = this.#received.length === 0 ? data : Buffer.concat([this.#received, data]);
    for (let taken = this.#takeReply(this.#received); taken !== undefined; taken = this.#takeReply(this.#received)) {
      this.#received = this.#received.subarray(taken.lengthBytes);
      if (this.#waiting === undefined) {
        this.unasked.push(taken.reply);
      } else {
        this.#settle({ tag: "reply", reply: taken.reply });
      }
    }
  }

  #breakOff(detail: string): void {
    if (!this.#closing) {
      this.#break ??= { tag: "broken", detail };
      this.#settle(this.#break);
    }
  }

  #settle(result: ExchangeResult<Reply>): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    clearTimeout(waiting?.timer);
    waiting?.resolve(result);
  }
}

/** Connects, trying again while the guest still boots; gives up after `timeoutMs` with the last error. */
export async function connectToGuest(host: string, port: number, timeoutMs: number): Promise<Socket> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await tryConnect(host, port, Math.max(1, deadlineMs - Date.now()));
    } catch (cause) {
      if (Date.now() >= deadlineMs) {
        throw new Error(`no connection to ${host}:${port} within ${timeoutMs} ms`, { cause });
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

function tryConnect(host: string, port: number, timeoutMs: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    const timer = setTimeout(() => {
      socket.destroy(new Error("no answer"));
    }, timeoutMs);
    socket.once("error", (cause) => {
      clearTimeout(timer);
      reject(cause);
    });
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.removeAllListeners("error");
      resolve(socket);
    });
  });
}

/** Replies that are lines. */
export const takeLine: TakeReply<string> = (received) => {
  const end = received.indexOf(0x0a);
  return end === -1 ? undefined : { reply: received.toString("latin1", 0, end), lengthBytes: end + 1 };
};
