/**
 * Where QEMU's write-blocking mirror jobs send each write of the guest: an NBD server on a unix socket, one export a disk.
 *
 * A write is answered as soon as the sink has it, not when the standby has it: the guest's output is held until the
 * whole epoch is acknowledged, so nobody outside can know of a write the standby lacks, and the guest does not pay a
 * network round trip for every write. QEMU's `stop` drains these requests, so when the guest stands still the sink
 * has seen exactly the writes of the epoch.
 *
 * In HighAvailability output is not held, so there the sink says when the standby has a write, and it is answered no sooner.
 *
 * Protocol: fixed newstyle handshake with INFO and GO, simple replies, requests WRITE, WRITE_ZEROES, TRIM, FLUSH and
 * DISC (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). READ is refused: a target that only takes
 * writes cannot hand stale data back. The socket lets every user in, for QEMU may run as another one than we do: its folder
 * must be closed to all others; NBD itself has no authentication here.
 */
import { createServer, type Server, type Socket } from "node:net";
import { rmSync } from "node:fs";

export interface MirrorExport {
  readonly name: string;
  readonly bytes: number;
}

/** What takes the writes; `disk` is the index of the export. */
export interface MirrorSink {
  /** `data` belongs to the sink from here on. */
  writeDisk(disk: number, offset: number, data: Buffer): void;
  zeroDisk(disk: number, offset: number, bytes: number): void;
  /** Until what was given last may be answered; undefined where that is at once. */
  acknowledged(): Promise<void> | undefined;
  /** A promise while the sink wants no more: answers, and so the guest's writes, wait for it. */
  room(): Promise<void> | undefined;
}

const IHAVEOPT = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const REPLY_MAGIC = 0x67446698;
const OPTION = { exportName: 1, abort: 2, info: 6, go: 7 } as const;
const REPLY = { ack: 1, info: 3, unsupported: 0x80000001, unknown: 0x80000006, invalid: 0x80000003 } as const;
const REQUEST = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const;
/** HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES. */
const EXPORT_FLAGS = 1 | 4 | 8 | 32 | 64;
const REQUEST_BYTES = 28;
/** QEMU splits at 32 MiB; anything longer is not QEMU. */
const WRITE_BYTES_MAX = 32 * 1024 * 1024;
const OPTION_BYTES_MAX = 4096;
const EINVAL = 22;
const NO_SPACE = 28;

export class MirrorTarget {
  readonly path: string;
  readonly #server: Server;
  readonly #connections = new Set<Socket>();

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
  }

  static async listen(path: string, exports: readonly MirrorExport[], sink: MirrorSink): Promise<MirrorTarget> {
    rmSync(path, { force: true });
    const server = createServer();
    const target = new MirrorTarget(path, server);
    server.on("connection", (socket) => {
      target.#connections.add(socket);
      socket.once("close", () => target.#connections.delete(socket));
      socket.on("error", () => socket.destroy());
      new MirrorConnection(socket, exports, sink);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // Not chmod afterwards: in a folder that QEMU may write to, the name could lead to another file by then.
      const umask = process.umask(0o111);
      server.listen(path, resolve);
      process.umask(umask);
    });
    return target;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#connections) {
      socket.destroy();
    }
    rmSync(this.path, { force: true });
  }
}

type MirrorRequest = {
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  /** Bytes of the disk. */
  readonly limit: number;
};
type Phase = "flags" | "option" | "request" | "payload" | "closed";

/** One QEMU block node connected to one export. */
class MirrorConnection {
  readonly #socket: Socket;
  readonly #exports: readonly MirrorExport[];
  readonly #sink: MirrorSink;
  #phase: Phase = "flags";
  #disk = -1;
  #noZeroes = false;
  /** Bytes of a header that has not arrived whole. */
  #rest: Buffer = Buffer.alloc(0);
  #payload: Buffer = Buffer.alloc(0);
  #payloadBytes = 0;
  #payloadOffset = 0;
  #cookie = 0n;
  #answers: Buffer[] = [];
  #waiting = false;

  constructor(socket: Socket, exports: readonly MirrorExport[], sink: MirrorSink) {
    this.#socket = socket;
    this.#exports = exports;
    this.#sink = sink;
    const greeting = Buffer.alloc(18);
    greeting.write("NBDMAGIC", 0, "latin1");
    greeting.writeBigUInt64BE(IHAVEOPT, 8);
    greeting.writeUInt16BE(3, 16); // FIXED_NEWSTYLE | NO_ZEROES
    socket.write(greeting);
    socket.on("data", (chunk) => {
      this.#take(chunk);
      this.#flushAnswers();
    });
  }

  #take(chunk: Buffer): void {
    let bytes = chunk;
    while (this.#phase !== "closed") {
      if (this.#phase === "payload") {
        const taken = bytes.copy(this.#payload, this.#payloadBytes);
        this.#payloadBytes += taken;
        bytes = bytes.subarray(taken);
        if (this.#payloadBytes < this.#payload.length) {
          return;
        }
        this.#phase = "request";
        this.#sink.writeDisk(this.#disk, this.#payloadOffset, this.#payload);
        this.#answerWritten(this.#cookie);
      }
      if (this.#rest.length > 0) {
        bytes = Buffer.concat([this.#rest, bytes]);
        this.#rest = Buffer.alloc(0);
      }
      const used = this.#takeHeader(bytes);
      if (used === 0) {
        this.#rest = Buffer.from(bytes);
        return;
      }
      bytes = bytes.subarray(used);
    }
  }

  /** Bytes of one whole header or option taken from the front; 0 when more have to arrive. */
  #takeHeader(bytes: Buffer): number {
    switch (this.#phase) {
      case "flags":
        if (bytes.length < 4) {
          return 0;
        }
        this.#noZeroes = (bytes.readUInt32BE(0) & 2) !== 0;
        this.#phase = "option";
        return 4;
      case "option":
        return this.#takeOption(bytes);
      default:
        return this.#takeRequest(bytes);
    }
  }

  #takeOption(bytes: Buffer): number {
    if (bytes.length < 16) {
      return 0;
    }
    const option = bytes.readUInt32BE(8);
    const length = bytes.readUInt32BE(12);
    if (bytes.readBigUInt64BE(0) !== IHAVEOPT || length > OPTION_BYTES_MAX) {
      this.#end();
      return bytes.length;
    }
    if (bytes.length < 16 + length) {
      return 0;
    }
    this.#answerOption(option, bytes.subarray(16, 16 + length));
    return 16 + length;
  }

  #answerOption(option: number, data: Buffer): void {
    switch (option) {
      case OPTION.exportName: {
        this.#answerExportName(data.toString("utf8"));
        return;
      }
      case OPTION.info:
      case OPTION.go: {
        this.#answerGo(option, data);
        return;
      }
      case OPTION.abort:
        this.#replyOption(option, REPLY.ack);
        {
          this.#end();
          return;
        }
      default: {
        this.#replyOption(option, REPLY.unsupported);
        return;
      }
    }
  }

  #answerExportName(name: string): void {
    if (!this.#choose(name)) {
      this.#end();
      return;
    }
    const info = Buffer.alloc(this.#noZeroes ? 10 : 134);
    info.writeBigUInt64BE(BigInt(this.#exports[this.#disk]?.bytes ?? 0), 0);
    info.writeUInt16BE(EXPORT_FLAGS, 8);
    this.#answers.push(info);
    this.#phase = "request";
  }

  #answerGo(option: number, data: Buffer): void {
    if (data.length < 6 || data.length < 6 + data.readUInt32BE(0)) {
      this.#replyOption(option, REPLY.invalid);
      return;
    }
    if (!this.#choose(data.toString("utf8", 4, 4 + data.readUInt32BE(0)))) {
      this.#replyOption(option, REPLY.unknown);
      return;
    }
    const info = Buffer.alloc(12);
    info.writeUInt16BE(0, 0); // NBD_INFO_EXPORT
    info.writeBigUInt64BE(BigInt(this.#exports[this.#disk]?.bytes ?? 0), 2);
    info.writeUInt16BE(EXPORT_FLAGS, 10);
    this.#replyOption(option, REPLY.info, info);
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(3, 0); // NBD_INFO_BLOCK_SIZE
    sizes.writeUInt32BE(1, 2);
    sizes.writeUInt32BE(4096, 6);
    sizes.writeUInt32BE(WRITE_BYTES_MAX, 10);
    this.#replyOption(option, REPLY.info, sizes);
    this.#replyOption(option, REPLY.ack);
    if (option === OPTION.go) {
      this.#phase = "request";
    }
  }

  #choose(name: string): boolean {
    this.#disk = this.#exports.findIndex((candidate) => candidate.name === name);
    return this.#disk >= 0;
  }

  #replyOption(option: number, reply: number, data = Buffer.alloc(0)): void {
    const head = Buffer.alloc(20);
    head.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
    head.writeUInt32BE(option, 8);
    head.writeUInt32BE(reply, 12);
    head.writeUInt32BE(data.length, 16);
    this.#answers.push(head, data);
  }

  #takeRequest(bytes: Buffer): number {
    if (bytes.length < REQUEST_BYTES) {
      return 0;
    }
    const type = bytes.readUInt16BE(6);
    const cookie = bytes.readBigUInt64BE(8);
    const offset = Number(bytes.readBigUInt64BE(16));
    const length = bytes.readUInt32BE(24);
    const limit = this.#exports[this.#disk]?.bytes ?? 0;
    if (bytes.readUInt32BE(0) !== REQUEST_MAGIC || (type === REQUEST.write && length > WRITE_BYTES_MAX)) {
      this.#end();
      return bytes.length;
    }
    if (type === REQUEST.write) {
      return this.#beginWrite({ cookie, offset, length, limit }) ? REQUEST_BYTES : bytes.length;
    }
    this.#carryOut({ type, cookie, offset, length, limit });
    return REQUEST_BYTES;
  }

  /** False when the write lies outside of the disk: the payload that follows could not be told from requests. */
  #beginWrite(request: Omit<MirrorRequest, "type">): boolean {
    const { cookie, offset, length, limit } = request;
    if (offset + length > limit) {
      this.#end();
      return false;
    }
    this.#payload = Buffer.allocUnsafe(length);
    this.#payloadBytes = 0;
    this.#payloadOffset = offset;
    this.#cookie = cookie;
    this.#phase = "payload";
    return true;
  }

  #carryOut({ type, cookie, offset, length, limit }: MirrorRequest): void {
    switch (type) {
      case REQUEST.trim:
      case REQUEST.writeZeroes:
        if (offset + length <= limit) {
          this.#sink.zeroDisk(this.#disk, offset, length);
          this.#answerWritten(cookie);
        } else {
          this.#answer(NO_SPACE, cookie);
        }
        return;
      case REQUEST.flush:
        this.#answer(0, cookie);
        return;
      case REQUEST.disconnect:
        this.#end();
        return;
      default:
        this.#answer(EINVAL, cookie);
    }
  }

  #answerWritten(cookie: bigint): void {
    const acknowledged = this.#sink.acknowledged();
    if (acknowledged === undefined) {
      this.#answer(0, cookie);
      return;
    }
    void acknowledged.then(() => {
      this.#answer(0, cookie);
      this.#flushAnswers();
    });
  }

  #answer(error: number, cookie: bigint): void {
    const reply = Buffer.allocUnsafe(16);
    reply.writeUInt32BE(REPLY_MAGIC, 0);
    reply.writeUInt32BE(error, 4);
    reply.writeBigUInt64BE(cookie, 8);
    this.#answers.push(reply);
  }

  #flushAnswers(): void {
    if (this.#answers.length === 0 || this.#waiting) {
      return;
    }
    const room = this.#phase === "request" || this.#phase === "payload" ? this.#sink.room() : undefined;
    if (room !== undefined) {
      this.#waiting = true;
      this.#socket.pause();
      void room.then(() => {
        this.#waiting = false;
        this.#socket.resume();
        this.#flushAnswers();
      });
      return;
    }
    const [first, ...others] = this.#answers;
    this.#answers = [];
    this.#socket.write(
      others.length === 0 && first !== undefined ? first : Buffer.concat([first ?? Buffer.alloc(0), ...others]),
    );
  }

  #end(): void {
    this.#flushAnswers();
    this.#phase = "closed";
    this.#socket.end();
  }
}
