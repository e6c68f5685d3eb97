/**
 * Holds back what the guest sends until the standby could repeat it.
 *
 * Inside of QEMU the shim stands before every tap and, by `mode`, lets packets pass (open), keeps them in a ring of shared memory
 * (held), drops them (closed), or lets them pass until a time and holds them from then on (leased). Here is the only one who takes
 * packets out of the ring: in order, each at most once. After
 * {@link OutputGate.discard} none of those held leaves at all. Mode and ring live in QEMU: an engine that dies leaves the gate as
 * it was, and the next one finds what is held and decides.
 *
 * A position is how many bytes of records the guest has put into the ring so far; taken while the guest is stopped it is the
 * boundary of an epoch. Positions are numbers of this gate object, not of the guest: they mean nothing to the next engine.
 *
 * The ring's format and the reason for `released` next to `tail` are in shim/shim.c.
 */
import { closeSync, readSync, writeSync } from "node:fs";
import { Failure } from "../lib/failure.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { isSameFile, openDuplicate, usleep, watchReadable } from "./libc.ts";
import { LOCK, MODES, type OutputMode, RECORD_HEADER_BYTES, SKIP, WORD } from "./shim-layout.ts";

export class OutputGateFailure extends Failure<{ readonly code: "OutputGateStuck"; readonly pid: number }> {}

/** What a release did: packets handed to a tap, and those no tap would take. */
export type Released = { readonly packets: number; readonly bytes: number; readonly dropped: number };

export type OutputGateOptions = {
  readonly pid: number;
  readonly pidfd: number;
  /** Eventfd of the shim, owned by the gate from here on. */
  readonly wakeFd: number;
  readonly memory: ArrayBuffer;
  readonly ringOffset: number;
  readonly ringBytes: number;
};

type Tap = { readonly fd: number; readonly ownFd: number; checkedAt: number };

/** A packet takes QEMU microseconds under the lock; this long means that QEMU is frozen. */
const LOCK_WAIT_US = 50;
const LOCK_WAIT_MS_MAX = 500;
/** Tries in a row, about 20 µs: a guest that sends without a break leaves the lock free for a microsecond at a time. */
const LOCK_SPINS = 2000;
/** A tap that is full: tried this often, then the packet is dropped, as a full switch port would. */
const FULL_TAP_TRIES = 20;
const FULL_TAP_WAIT_US = 50;

export class OutputGate {
  readonly #options: OutputGateOptions;
  readonly #words: Int32Array;
  readonly #ring: Buffer;
  readonly #ringWords: Uint32Array;
  readonly #mask: number;
  readonly #taps = new Map<number, Tap>();
  readonly #wakeBytes = Buffer.alloc(8);
  readonly #watcher: { close(): void; unref(): void };
  /** Counter values of the ring are 32 bits wide; these are their continuation beyond 2^32. */
  #head: number;
  #releases = 0;
  #droppedHere = 0;
  #marked: number;
  #callback: (() => void) | undefined;
  #closed = false;

  constructor(options: OutputGateOptions) {
    this.#options = options;
    const { memory, ringOffset, ringBytes, wakeFd } = options;
    this.#words = new Int32Array(memory, 0, ringOffset / 4);
    this.#ring = Buffer.from(memory, ringOffset, ringBytes);
    this.#ringWords = new Uint32Array(memory, ringOffset, ringBytes / 4);
    this.#mask = ringBytes - 1;
    // An engine that died between "released" and the write may have sent that packet: it counts as sent.
    this.#store(WORD.tail, this.#load(WORD.released));
    if (this.#load(WORD.lock) === LOCK.engine) {
      this.#store(WORD.lock, LOCK.free); // Of a dead engine: openShim lets only one in.
    }
    this.#head = this.#load(WORD.head);
    this.#marked = this.#head;
    this.#watcher = watchReadable(wakeFd, () => {
      this.#readWake();
    });
    this.#watcher.unref();
  }

  get mode(): OutputMode {
    return MODES[this.#load(WORD.mode)] ?? "closed";
  }

  /** Bytes in the ring, 8 a packet more than the packets. */
  get heldBytes(): number {
    return (this.#load(WORD.head) - this.#load(WORD.released)) >>> 0;
  }

  get heldPackets(): number {
    return (this.#load(WORD.packetsIn) - this.#load(WORD.packetsOut)) >>> 0;
  }

  /** Packets dropped while closed, discarded, or refused by a tap. */
  get droppedPackets(): number {
    return this.#load(WORD.dropped) + this.#droppedHere;
  }

  /** How often QEMU found the ring full and had to wait. */
  get fullCount(): number {
    return this.#load(WORD.full);
  }

  get ringBytes(): number {
    return this.#options.ringBytes;
  }

  /**
   * Takes effect before it returns: no packet leaves by the mode before. To "open" is {@link openAndRelease}; the other modes
   * leave what is held in the ring.
   */
  setMode(mode: OutputMode): void {
    if (mode === "open") {
      this.openAndRelease();
      return;
    }
    this.#store(WORD.mode, MODES.indexOf(mode));
    // A packet may be on its way by the old mode. Once the lock was free, all later ones see the new mode.
    this.#waitForLock(() => this.#load(WORD.lock) === LOCK.free);
  }

  /** Everything the guest sent so far lies before this. Also arms {@link onOutput} for what comes behind it. */
  position(): number {
    const head = this.#advanceHead();
    this.#marked = head;
    this.#arm();
    return head;
  }

  /**
   * Lets packets pass until `untilMs` of the host's monotonic clock, and not a moment longer whatever becomes of this process.
   * Those that were held since the last lease was over leave first.
   */
  lease(untilMs: number): void {
    this.#store(WORD.leasedUntil, Math.floor(untilMs) >>> 0);
    if (this.mode !== "leased") {
      this.#store(WORD.mode, MODES.indexOf("leased"));
    }
    if (this.heldPackets > 0 && untilMs > monotonicMs()) {
      this.#releaseLocked();
    }
  }

  /** Sends what lies before `position`, in order. */
  releaseThrough(position: number): Released {
    this.#releases++;
    const through = Math.min(position, this.#advanceHead()) >>> 0;
    let packets = 0;
    let bytes = 0;
    let dropped = 0;
    for (let at = this.#load(WORD.released); (through - at) << 0 > 0;) {
      const place = at & this.#mask;
      const length = this.#ringWords[place >>> 2] as number;
      if (length === SKIP) {
        at = (at + this.#options.ringBytes - place) >>> 0;
        this.#store(WORD.released, at);
        continue;
      }
      at = (at + RECORD_HEADER_BYTES + ((length + 7) & ~7)) >>> 0;
      this.#store(WORD.released, at);
      Atomics.add(this.#words, WORD.packetsOut, 1);
      if (this.#send(this.#ringWords[(place >>> 2) + 1] as number, place + RECORD_HEADER_BYTES, length)) {
        packets++;
        bytes += length;
      } else {
        dropped++;
      }
      this.#store(WORD.tail, at);
    }
    this.#droppedHere += dropped;
    return { packets, bytes, dropped };
  }

  /** Sends all that is held; the mode stays. */
  releaseAll(): Released {
    return this.releaseThrough(this.#advanceHead());
  }

  /** Sends all that is held, then opens; a packet sent meanwhile neither overtakes nor is left behind. */
  openAndRelease(): Released {
    return this.#releaseLocked(() => {
      this.#store(WORD.armed, 0);
      this.#store(WORD.mode, MODES.indexOf("open"));
    });
  }

  /** Sends all that is held and does `then` before QEMU can add to it. */
  #releaseLocked(then: () => void = () => undefined): Released {
    // Most of it without the lock, so that QEMU is kept waiting for a few packets only.
    const first = this.releaseAll();
    this.#waitForLock(() => Atomics.compareExchange(this.#words, WORD.lock, LOCK.free, LOCK.engine) === LOCK.free);
    try {
      const rest = this.releaseAll();
      then();
      return {
        packets: first.packets + rest.packets,
        bytes: first.bytes + rest.bytes,
        dropped: first.dropped + rest.dropped,
      };
    } finally {
      this.#store(WORD.lock, LOCK.free);
    }
  }

  /** Throws away what is held. Returns how many packets that were. */
  discard(): number {
    const packets = this.heldPackets;
    const through = this.#load(WORD.head);
    let count = 0;
    for (let at = this.#load(WORD.released); at !== through;) {
      const place = at & this.#mask;
      const length = this.#ringWords[place >>> 2] as number;
      const skip = length === SKIP;
      at = (at + (skip ? this.#options.ringBytes - place : RECORD_HEADER_BYTES + ((length + 7) & ~7))) >>> 0;
      count += skip ? 0 : 1;
    }
    this.#store(WORD.released, through);
    this.#store(WORD.tail, through);
    Atomics.add(this.#words, WORD.packetsOut, count);
    this.#droppedHere += count;
    return Math.min(count, packets);
  }

  /**
   * Calls back once from the event loop when the guest has sent something behind the last {@link position} while held. Armed by
   * `position()` and by this call; not again before the next position, so a busy guest costs one system call an epoch.
   */
  onOutput(callback: () => void): void {
    this.#callback = callback;
    this.#arm();
  }

  close(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#callback = undefined;
    this.#store(WORD.armed, 0);
    this.#watcher.close();
    closeSync(this.#options.wakeFd);
    for (const { ownFd } of this.#taps.values()) {
      closeSync(ownFd);
    }
    this.#taps.clear();
  }

  #arm(): void {
    if (this.#callback === undefined) {
      return;
    }
    this.#store(WORD.armed, 1);
    // Either QEMU sees the flag after moving the head, or the moved head is seen here after setting the flag.
    if (this.#advanceHead() > this.#marked && Atomics.exchange(this.#words, WORD.armed, 0) === 1) {
      setImmediate(() => this.#callback?.());
    }
  }

  #readWake(): void {
    try {
      readSync(this.#options.wakeFd, this.#wakeBytes, 0, 8, null);
    } catch {
      return; // Already taken: the descriptor does not block.
    }
    this.#callback?.();
  }

  #send(fd: number, offset: number, length: number): boolean {
    const tap = this.#tapOf(fd);
    if (tap === undefined) {
      return false;
    }
    for (let tries = 0; tries < FULL_TAP_TRIES; tries++) {
      try {
        writeSync(tap.ownFd, this.#ring, offset, length);
        return true;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") {
          return false; // The interface is down or gone: the same would have happened to QEMU.
        }
      }
      // SAFETY: an integer only.
      usleep(FULL_TAP_WAIT_US);
    }
    return false;
  }

  /** Our duplicate of QEMU's tap, checked once a release: a NIC may be unplugged and its number go to another. */
  #tapOf(fd: number): Tap | undefined {
    const { pid, pidfd } = this.#options;
    const known = this.#taps.get(fd);
    if (known !== undefined) {
      if (known.checkedAt === this.#releases || isSameFile(process.pid, known.ownFd, pid, fd) !== false) {
        known.checkedAt = this.#releases;
        return known;
      }
      closeSync(known.ownFd);
      this.#taps.delete(fd);
    }
    try {
      const tap = { fd, ownFd: openDuplicate(pidfd, fd), checkedAt: this.#releases };
      this.#taps.set(fd, tap);
      return tap;
    } catch {
      return undefined;
    }
  }

  #waitForLock(isTaken: () => boolean): void {
    const deadlineMs = performance.now() + LOCK_WAIT_MS_MAX;
    do {
      for (let spin = 0; spin < LOCK_SPINS; spin++) {
        if (isTaken()) {
          return;
        }
      }
      // SAFETY: an integer only.
      usleep(LOCK_WAIT_US);
    } while (performance.now() < deadlineMs);
    const { pid } = this.#options;
    throw new OutputGateFailure(
      { code: "OutputGateStuck", pid },
      `QEMU ${pid} stopped in the middle of sending a packet: it is frozen or dying; kill it`,
    );
  }

  #advanceHead(): number {
    this.#head += (this.#load(WORD.head) - this.#head) >>> 0;
    return this.#head;
  }

  #load(word: number): number {
    return Atomics.load(this.#words, word) >>> 0;
  }

  #store(word: number, value: number): void {
    Atomics.store(this.#words, word, value);
  }
}
