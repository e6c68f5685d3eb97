/**
 * A timer that fires to within some tens of microseconds (timerfd), where setTimeout rounds up to whole milliseconds: a
 * checkpoint that is due in half a millisecond should not wait for two.
 */
import { closeSync, readSync } from "node:fs";
import { check, timerfdCreate, timerfdSettime, watchReadable } from "./libc.ts";

const CLOCK_MONOTONIC = 1;
const TFD_NONBLOCK_AND_CLOEXEC = 0x80800;
const NANOSECONDS = 1_000_000_000;

export class PreciseTimer {
  readonly #fd: number;
  /** struct itimerspec: {u64 seconds, nanoseconds} of the interval, which stays 0, and of the time until it fires. */
  readonly #spec = new Uint32Array(8);
  readonly #expirations = Buffer.alloc(8);
  readonly #watcher: { close(): void };
  #isClosed = false;

  /** `callback` is called from the event loop, once for each {@link arm} that was not replaced. */
  constructor(callback: () => void) {
    // SAFETY: integers only.
    this.#fd = check(
      timerfdCreate(CLOCK_MONOTONIC, TFD_NONBLOCK_AND_CLOEXEC),
      "timerfd_create",
      "raise the file limit",
    );
    this.#watcher = watchReadable(this.#fd, () => {
      if (this.#takeExpiration()) {
        callback();
      }
    });
  }

  /** Fires after `ms` milliseconds instead of whatever it was set to; a time that has passed means at once. */
  arm(ms: number): void {
    const nanoseconds = Math.max(1, Math.round(ms * 1_000_000)); // 0 would disarm it.
    this.#set(Math.floor(nanoseconds / NANOSECONDS), nanoseconds % NANOSECONDS);
  }

  disarm(): void {
    this.#set(0, 0);
  }

  close(): void {
    if (!this.#isClosed) {
      this.#isClosed = true;
      this.#watcher.close();
      closeSync(this.#fd);
    }
  }

  #set(seconds: number, nanoseconds: number): void {
    if (this.#isClosed) {
      return;
    }
    this.#spec[4] = seconds;
    this.#spec[6] = nanoseconds;
    // SAFETY: #spec is a struct itimerspec of 32 bytes and a field, so it lives until the call returns; no old value is wanted.
    check(timerfdSettime(this.#fd, 0, this.#spec, null), "timerfd_settime", "this is a bug, please report it");
  }

  /** False when it was set anew between firing and this look. */
  #takeExpiration(): boolean {
    try {
      return !this.#isClosed && readSync(this.#fd, this.#expirations, 0, 8, null) === 8;
    } catch {
      return false;
    }
  }
}
