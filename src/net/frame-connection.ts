/**
 * One authenticated TLS connection that carries frames both ways.
 *
 * Contract: what is passed to one `send` arrives whole and in order relative to every other `send`; `sendUrgent` goes before
 * what still waits here, between two groups, never inside one (a heartbeat must not wait behind a first copy). The
 * bytes belong to the connection until `onSent` of that group. `onClosed` comes exactly once, never from inside a call of
 * ours, and no `onFrame` after it. Nothing is promised about delivery: what was sent before the end may be lost, so only
 * the peer's answer counts.
 *
 * Why an own queue in front of Node's: given many buffers Node copies the whole backlog into one, encrypts all of it in one
 * go and so holds up the event loop; given small ones each becomes a TLS record and a system call. Here small parts are
 * gathered into batches of about 256 KiB, large ones go out uncopied in slices, and two batches are under way at a time:
 * measured as fast as plain `write` of 256 KiB, with an urgent frame at most 512 KiB behind.
 */
import type { TLSSocket } from "node:tls";
import { NetFailure, parseNetFailure, type Target } from "./net-failure.ts";
import type { PeerIdentity } from "./peer-identity.ts";
import { SendQueue, type SendGroup } from "./send-queue.ts";

/** Turns the byte stream into frames; throws on the first byte that is none. See protocol/frames.ts. */
export interface FrameSource<Frame> {
  push(chunk: Uint8Array): readonly Frame[];
}

export type ClosedReason =
  | { readonly tag: "closedHere" }
  | { readonly tag: "closedByPeer" }
  | { readonly tag: "failed"; readonly failure: NetFailure };

export type FrameConnectionOptions<Frame> = {
  readonly socket: TLSSocket;
  readonly peer: PeerIdentity;
  readonly decoder: FrameSource<Frame>;
  readonly backlogBytesMax?: number;
};

const BATCHES_UNDER_WAY_MAX = 2;
const LOW_WATER_BYTES = 512 * 1024;
const BACKLOG_BYTES_MAX = 512 * 1024 * 1024;
const CLOSE_GRACE_MS = 1_000;

export class FrameConnection<Frame> {
  readonly peer: PeerIdentity;
  readonly localHost: string;
  readonly remote: Target;
  /** Set both before the first await after getting the connection: bytes flow from then on. */
  onFrame: (frame: Frame) => void = () => undefined;
  onClosed: (reason: ClosedReason) => void = () => undefined;

  readonly #socket: TLSSocket;
  readonly #decoder: FrameSource<Frame>;
  readonly #backlogBytesMax: number;
  readonly #queue = new SendQueue();
  #backlogBytes = 0;
  #underWay = 0;
  #isClosing = false;
  #receivedBytes = 0;
  #sentBytes = 0;
  #reason: ClosedReason | undefined;
  #waiting: (() => void)[] = [];
  readonly #closedListeners: ((reason: ClosedReason) => void)[] = [];

  constructor({ socket, peer, decoder, backlogBytesMax = BACKLOG_BYTES_MAX }: FrameConnectionOptions<Frame>) {
    this.#socket = socket;
    this.peer = peer;
    this.#decoder = decoder;
    this.#backlogBytesMax = backlogBytesMax;
    this.localHost = plainHost(socket.localAddress);
    this.remote = { host: plainHost(socket.remoteAddress), port: socket.remotePort ?? 0 };
    socket.setNoDelay(true);
    socket.setTimeout(0);
    socket.on("data", (chunk: Buffer) => {
      this.#take(chunk);
    });
    socket.on("end", () => {
      this.#finish(this.#endedByPeer());
    });
    socket.on("error", (error) => {
      this.#finish({ tag: "failed", failure: parseNetFailure(error, this.remote) });
    });
    socket.on("close", () => {
      this.#finish(this.#endedByPeer());
    });
    if (socket.destroyed) {
      this.#finish(this.#endedByPeer());
    }
  }

  /** Bytes accepted by `send` that the kernel has not taken yet. */
  get backlogBytes(): number {
    return this.#backlogBytes;
  }
  get receivedBytes(): number {
    return this.#receivedBytes;
  }
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /**
   * The TCP socket, or undefined once closed. For TCP_NOTSENT_LOWAT, which Node cannot set: without it up to 4 MiB of bulk
   * wait in the kernel in front of every urgent frame, with it (128 KiB) the wait measured a fifth.
   */
  get fileDescriptor(): number | undefined {
    const fd = (this.#socket as { _handle?: { fd?: number } | null })._handle?.fd;
    return fd === undefined || fd < 0 ? undefined : fd;
  }

  get isClosed(): boolean {
    return this.#reason !== undefined;
  }

  /** Queues a group of bytes (whole frames); without effect once closed. False: wait for {@link drained} before more bulk. */
  send(parts: readonly Uint8Array[], onSent?: () => void): boolean {
    return this.#accept({ parts, onSent }, false);
  }

  /** For small frames that must not wait behind bulk. Urgent frames keep their order among themselves. */
  sendUrgent(parts: readonly Uint8Array[], onSent?: () => void): boolean {
    return this.#accept({ parts, onSent }, true);
  }

  /** Resolves once little enough waits here for the pipe to stay full, and also when the connection ends. */
  drained(): Promise<void> {
    if (this.#backlogBytes <= LOW_WATER_BYTES || this.#reason !== undefined) {
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** For whoever looks after the connection's life rather than its frames. */
  whenClosed(listener: (reason: ClosedReason) => void): void {
    this.#closedListeners.push(listener);
  }

  /** Stops reading, and so in the end the peer's sending. Frames of the chunk at hand still come. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Sends what waits, then ends. Calling it again changes nothing. */
  close(): void {
    if (this.#reason !== undefined || this.#isClosing) {
      return;
    }
    this.#isClosing = true;
    const finish = (): void => {
      this.#finish({ tag: "closedHere" });
    };
    setTimeout(finish, CLOSE_GRACE_MS).unref();
    if (this.#backlogBytes === 0) {
      this.#end();
    }
  }

  /** Ends now; what waits is thrown away. */
  destroy(failure?: NetFailure): void {
    this.#finish(failure === undefined ? { tag: "closedHere" } : { tag: "failed", failure });
  }

  #take(chunk: Buffer): void {
    this.#receivedBytes += chunk.length;
    let frames: readonly Frame[];
    try {
      frames = this.#decoder.push(chunk);
    } catch (error) {
      this.#refuseBytes(error); // An error out of onFrame is a bug of ours and must not be caught.
      return;
    }
    for (const frame of frames) {
      if (this.#reason !== undefined) {
        return;
      }
      this.onFrame(frame);
    }
  }

  #refuseBytes(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    const says = `${this.remote.host} sent what is no frame (${reason}): both sides must run versions that fit together`;
    this.#finish({ tag: "failed", failure: new NetFailure({ code: "BadFrame", reason }, says, { cause: error }) });
  }

  #accept(group: SendGroup, isUrgent: boolean): boolean {
    if (this.#reason !== undefined || this.#isClosing) {
      return false;
    }
    for (const part of group.parts) {
      this.#backlogBytes += part.byteLength;
    }
    if (this.#backlogBytes > this.#backlogBytesMax) {
      const limitBytes = this.#backlogBytesMax;
      const says = `more than ${limitBytes} bytes wait for ${this.remote.host}: the sender must wait for drained()`;
      this.#finish({ tag: "failed", failure: new NetFailure({ code: "BacklogExceeded", limitBytes }, says) });
      return false;
    }
    if (isUrgent) {
      this.#queue.pushUrgent(group);
    } else {
      this.#queue.push(group);
    }
    this.#pump();
    return this.#backlogBytes <= LOW_WATER_BYTES;
  }

  #pump(): void {
    while (this.#underWay < BATCHES_UNDER_WAY_MAX && this.#reason === undefined) {
      const batch = this.#queue.next();
      if (batch === undefined) {
        return;
      }
      this.#underWay += 1;
      this.#socket.write(batch, () => {
        this.#underWay -= 1;
        this.#afterWrite(batch.byteLength);
      });
    }
  }

  #afterWrite(bytes: number): void {
    if (this.#reason !== undefined) {
      return;
    }
    this.#backlogBytes -= bytes;
    this.#sentBytes += bytes;
    this.#pump();
    for (const onSent of this.#queue.written(bytes)) {
      onSent();
    }
    if (this.#backlogBytes <= LOW_WATER_BYTES) {
      this.#wake();
    }
    if (this.#isClosing && this.#backlogBytes === 0) {
      this.#end();
    }
  }

  #end(): void {
    this.#socket.end(() => {
      this.#finish({ tag: "closedHere" });
    });
  }

  #endedByPeer(): ClosedReason {
    if (this.#receivedBytes > 0) {
      return { tag: "closedByPeer" };
    }
    return { tag: "failed", failure: parseNetFailure(new Error("ended before the first byte"), this.remote) };
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) {
      resolve();
    }
  }

  #finish(reason: ClosedReason): void {
    if (this.#reason !== undefined) {
      return;
    }
    this.#reason = reason;
    this.#backlogBytes = 0;
    this.#socket.destroy();
    this.#wake();
    setImmediate(() => {
      this.onClosed(reason);
      for (const listener of this.#closedListeners) {
        listener(reason);
      }
    });
  }
}

/** An IPv4 address that arrived at an IPv6 socket is still the IPv4 address. */
export function plainHost(address: string | undefined): string {
  return (address ?? "").replace(/^::ffff:/, "");
}
