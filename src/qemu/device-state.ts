/**
 * The checkpoint primitive: stop the guest at a boundary, let the caller copy memory, take the device state, go on.
 *
 * One QMP command does the stopping, saving and starting: `xen-save-devices-state live=false` on the running guest, into
 * a FIFO that holds its writer (held-pipe.ts). QEMU stops the virtual CPUs, drains and flushes the disks, opens the file,
 * writes the state, closes the file and starts the guest. So the two sides meet twice:
 *
 * - QEMU's open tells that everything is stopped and drained: `whileStopped` runs then, while QEMU gathers its state.
 * - QEMU's writes block until the pipe is drained, which begins only after `whileStopped` has returned. QEMU can neither
 *   close the file nor start the guest before.
 *
 * Contract:
 * - The guest does not run from the moment `whileStopped` is called until it has returned. Should that ever not have been
 *   so, capture fails with HoldBroken.
 * - capture settles once. After a failure the guest runs on its own accord (or will, after StopTimedOut or SaveTimedOut,
 *   as soon as QEMU gets that far), and the pages that `whileStopped` copied count as dirty again.
 * - A guest that was not running before (paused, I/O error) is captured as it is and stays stopped.
 * - When this process dies QEMU's write fails, the command fails, and the guest goes on. Only if it dies after sending the
 *   command and before QEMU's open does QEMU wait for a reader: the next process calls `releaseWriter` with the same path
 *   before it connects to the monitor (`Checkpointer.open` is too late: the monitor would not answer).
 *
 * Why there is room in the pipe: filled to the brim it keeps QEMU from working in parallel. The first capture finds it
 * full, later ones leave room for most of the smallest state seen. That QEMU had to write more than the room is the proof
 * that it was held; it is checked each time.
 *
 * Measured on two cores under TCG with little else running, 300 checkpoints at 25/s, guest writing to its disk through a
 * write-blocking mirror, whileStopped 0.5 ms (pauseMs, p50/p99): 2.7/6.5 ms for a minimal q35 (78 KB of state), 4.7/9.3 for
 * one with VGA, USB, six root ports and five virtio devices (314 KB) on QEMU 7.2, 5.6/13 on 10.0; stop, save and cont as
 * three commands took 3.1/9 on the first. Of its 2.7: 0.9 until the CPUs stand (the guest still runs for most of that), 0.7
 * drain and flush (0.3 without a mirror), 0.5 whileStopped, 0.5 rest of the state. QEMU needs 0.8 ms of processor time for
 * each 100 KB of state: devices that are not needed cost pause. A host disk that takes 50 ms for an fdatasync makes that
 * stop 50 ms long, whatever the way of saving. ioeventfd=off made no difference that could be measured.
 */
import { performance } from "node:perf_hooks";
import { assert } from "../lib/assert.ts";
import { Failure } from "../lib/failure.ts";
import { type EnlargePipe, HeldPipe, HeldPipeFailure } from "./held-pipe.ts";
import { countOwnStop } from "./own-stops.ts";
import { type PrimedCommand, type QmpClient } from "./qmp-client.ts";
import { type QmpCommands } from "./qmp-commands.ts";

export type CheckpointFailureDetail =
  | { readonly code: "CheckpointBusy" }
  | { readonly code: "StopTimedOut"; readonly afterMs: number }
  | { readonly code: "SaveTimedOut"; readonly afterMs: number }
  | { readonly code: "HoldBroken"; readonly stateBytes: number; readonly roomBytes: number }
  | { readonly code: "StateTooLarge"; readonly stateBytes: number; readonly bufferBytes: number }
  | { readonly code: "StateMalformed"; readonly stateBytes: number };
export class CheckpointFailure extends Failure<CheckpointFailureDetail> {}

export type Capture = {
  readonly stateBytes: number;
  readonly phases: {
    /** From sending the command until all was stopped, drained and flushed. */
    readonly stopMs: number;
    /** The caller's own work. */
    readonly copyMs: number;
    /** From then until QEMU had written its state, which is when it starts the guest. */
    readonly saveMs: number;
    /** Until QEMU's answer was here; the guest runs meanwhile. */
    readonly answerMs: number;
    /** stop + copy + save: how long the guest stood still, at most. */
    readonly pauseMs: number;
  };
};

type CaptureOrder = {
  readonly whileStopped: () => void;
  readonly state: Buffer;
  readonly roomBytes: number;
  readonly sentAtMs: number;
  readonly timeoutMs?: number;
};

const CAPTURE_TIMEOUT_MS = 10_000;
/** Of the smallest state seen; a guest that reboots has one that is smaller by a few percent. */
const ROOM_SHARE = 0.8;
/** "QEVM": how every QEMU migration stream begins. */
const STREAM_MAGIC = 0x5145564d;
const STREAM_END = 0;
const SECTION_FOOTER = 0x7e;
const FOOTER_BYTES = 5;

/**
 * Number of the section that a state ends with; QEMU counts them up and lays the newest device's last, so another number says that a
 * device may have come or gone. 0 where a machine is too old to write section footers.
 */
export function readLastSection(state: Buffer, stateBytes: number): number {
  const footer = stateBytes - 1 - FOOTER_BYTES;
  return footer > 0 && state[footer] === SECTION_FOOTER ? state.readUInt32BE(footer + 1) : 0;
}

/** One command under way, and how far QEMU and the pool's thread have got with it. */
class Attempt {
  readonly opened: Promise<void>;
  readonly answer: Promise<unknown>;
  /** Resolves when `answer` has settled either way. */
  readonly answered: Promise<void>;
  isOpened = false;
  isAnswered = false;
  isDrained = false;

  constructor(opened: Promise<void>, answer: Promise<unknown>) {
    this.opened = opened.then(() => {
      this.isOpened = true;
    });
    this.answer = answer;
    const onAnswer = (): void => {
      this.isAnswered = true;
    };
    this.answered = answer.then(onAnswer, onAnswer);
  }
}

export class Checkpointer {
  readonly #qmp: QmpClient;
  readonly #pipe: HeldPipe;
  readonly #saveArgs: QmpCommands["xen-save-devices-state"]["args"];
  #primed: PrimedCommand<unknown>;
  readonly #discarded = Buffer.alloc(0);
  #stateBytesMin = 0;
  /** A capture under way, or one that was given up and that QEMU has still to end. */
  #attempt: Attempt | undefined;
  #letGoing: Promise<void> | undefined;
  #closed = false;
  readonly #onExit = (): void => {
    // A thread of libuv's pool that waits for QEMU would keep the process from ending.
    this.#pipe.wakeOnce();
  };

  private constructor(qmp: QmpClient, pipe: HeldPipe, pathInQemu: string) {
    this.#qmp = qmp;
    this.#pipe = pipe;
    this.#saveArgs = { filename: pathInQemu, live: false };
    this.#primed = qmp.prime("xen-save-devices-state", this.#saveArgs);
    process.on("exit", this.#onExit);
  }

  /**
   * Makes the FIFO, a fresh one whatever is at that path; QEMU must reach it under the same path or `pathInQemu`, `mode` is
   * for a QEMU that runs as another user. Captures take a thread of libuv's pool for as long as the stop lasts: a process that reads
   * disks through the pool as well sets UV_THREADPOOL_SIZE above the number of its reads.
   */
  static async open(
    qmp: QmpClient,
    fifoPath: string,
    options: {
      readonly mode?: number;
      readonly enlarge?: EnlargePipe;
      readonly pathInQemu?: string;
    } = {},
  ): Promise<Checkpointer> {
    await qmp.assertCommands(["xen-save-devices-state"]);
    const pipe = await HeldPipe.create(fifoPath, options.mode ?? 0o600, options.enlarge);
    return new Checkpointer(qmp, pipe, options.pathInQemu ?? fifoPath);
  }

  /** Whether a capture of ours is under way: the guest's stops and starts are its doing then. */
  get isCapturing(): boolean {
    return this.#attempt !== undefined;
  }

  /** See the head of this file. The state is in `state` from byte 0. */
  async capture(
    whileStopped: () => void,
    state: Buffer,
    options: { readonly timeoutMs?: number } = {},
  ): Promise<Capture> {
    assert(!this.#closed, "capture on a closed checkpointer");
    if (this.#attempt !== undefined) {
      throw new CheckpointFailure({ code: "CheckpointBusy" }, "the checkpoint before has not ended; wait for it");
    }
    const roomBytes = this.#pipe.fill(this.#stateBytesMin * ROOM_SHARE);
    const opened = this.#pipe.opened();
    const sentAtMs = performance.now();
    const attempt = new Attempt(opened, this.#primed.fire({ timeoutMs: 0 }));
    this.#attempt = attempt;
    countOwnStop(this.#qmp, attempt.answered);
    try {
      return await this.#follow(attempt, { whileStopped, state, roomBytes, sentAtMs, ...options });
    } finally {
      if (attempt.isDrained && attempt.isAnswered) {
        this.#attempt = undefined;
      } else {
        this.#letGoing = this.#letGo(attempt);
      }
      this.#primed = this.#qmp.prime("xen-save-devices-state", this.#saveArgs);
    }
  }

  /** Removes the FIFO, once QEMU is through with a capture that is under way. Close the monitor only after this. */
  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    await this.#attempt?.answered;
    await this.#letGoing;
    process.off("exit", this.#onExit);
    this.#pipe.close();
  }

  async #follow(attempt: Attempt, how: CaptureOrder): Promise<Capture> {
    const timeoutMs = how.timeoutMs ?? CAPTURE_TIMEOUT_MS;
    await waitForStop(attempt, timeoutMs);
    const stoppedAtMs = performance.now();
    let copyFailure: { readonly error: unknown } | undefined;
    try {
      how.whileStopped();
    } catch (error) {
      copyFailure = { error }; // QEMU has to be let go first.
    }
    const copiedAtMs = performance.now();
    const stateBytes = await this.#takeState(how.state, timeoutMs);
    attempt.isDrained = true;
    const savedAtMs = performance.now();
    await attempt.answer;
    if (copyFailure !== undefined) {
      throw copyFailure.error;
    }
    this.#assertWhole(how.state, stateBytes, how.roomBytes);
    const phases = {
      stopMs: stoppedAtMs - how.sentAtMs,
      copyMs: copiedAtMs - stoppedAtMs,
      saveMs: savedAtMs - copiedAtMs,
      answerMs: performance.now() - savedAtMs,
      pauseMs: savedAtMs - how.sentAtMs,
    };
    return { stateBytes, phases };
  }

  /** Waits, without a limit, until neither QEMU nor the pool has to do with a given-up capture; never rejects. */
  async #letGo(attempt: Attempt): Promise<void> {
    await Promise.race([attempt.opened, attempt.answered]);
    if (!attempt.isOpened) {
      await this.#pipe.wake(attempt.opened);
    }
    await this.#pipe.drain(this.#discarded, Number.POSITIVE_INFINITY);
    await attempt.answered;
    this.#attempt = undefined;
  }

  async #takeState(state: Buffer, timeoutMs: number): Promise<number> {
    try {
      return await this.#pipe.drain(state, timeoutMs);
    } catch (error) {
      if (error instanceof HeldPipeFailure) {
        throw new CheckpointFailure(
          { code: "SaveTimedOut", afterMs: timeoutMs },
          `QEMU did not write its state within ${timeoutMs} ms; is it stopped, or the host overloaded?`,
          { cause: error },
        );
      }
      throw error;
    }
  }

  #assertWhole(state: Buffer, stateBytes: number, roomBytes: number): void {
    if (stateBytes <= roomBytes) {
      this.#stateBytesMin = 0;
      throw holdBroken(stateBytes, roomBytes);
    }
    if (stateBytes > state.length) {
      throw new CheckpointFailure(
        { code: "StateTooLarge", stateBytes, bufferBytes: state.length },
        `the device state has ${stateBytes} bytes, the buffer ${state.length}; capture again with a larger one`,
      );
    }
    if (stateBytes < 8 || state.readUInt32BE(0) !== STREAM_MAGIC || state[stateBytes - 1] !== STREAM_END) {
      throw new CheckpointFailure(
        { code: "StateMalformed", stateBytes },
        `what QEMU saved is no whole device state (${stateBytes} bytes); does something else write into the FIFO?`,
      );
    }
    this.#stateBytesMin = this.#stateBytesMin === 0 ? stateBytes : Math.min(this.#stateBytesMin, stateBytes);
  }
}

async function waitForStop(attempt: Attempt, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([attempt.opened, attempt.answered, late]);
  clearTimeout(timer);
  if (attempt.isOpened) {
    return;
  }
  if (attempt.isAnswered) {
    await attempt.answer; // Throws why QEMU refused, if it did.
    throw holdBroken(0, 0);
  }
  throw new CheckpointFailure(
    { code: "StopTimedOut", afterMs: timeoutMs },
    `QEMU did not stop within ${timeoutMs} ms; a disk or a mirror's target hangs: end the mirror, look at the disk`,
  );
}

function holdBroken(stateBytes: number, roomBytes: number): CheckpointFailure {
  return new CheckpointFailure(
    { code: "HoldBroken", stateBytes, roomBytes },
    `QEMU was not held while memory was copied (${stateBytes} bytes of state, room for ${roomBytes}); capture again`,
  );
}
