/**
 * What has come in at the taps of a QEMU that does not run its guest yet.
 *
 * Such a QEMU takes nothing from its taps, so they fill up: with broadcasts of hours, and then with nothing, for a full tap drops
 * what is new. Discarded again and again for as long as the other side runs the guest, what is left at a takeover are the last
 * moments: what switches flooded to every port when the lost node's went down. A client's retransmission is answered at once then,
 * instead of after its next one, which can be most of a second away (a timeout that doubles: RFC 6298, 5.5).
 */
import { closeSync, readdirSync, readSync, statSync } from "node:fs";
import { openDuplicate, openPidfd } from "./libc.ts";

/** The device number of /dev/net/tun: major 10, minor 200. */
const TUN = (10 << 8) | 200;
/** The longest packet with its offload header. */
const PACKET_BYTES_MAX = 65_536 + 64;
/** A tap keeps 1,000; more have come in meanwhile, and the next time is soon. */
const PACKETS_MAX = 2_000;

export class TapInput {
  readonly #fds: readonly number[];
  readonly #packet = Buffer.allocUnsafe(PACKET_BYTES_MAX);

  private constructor(fds: readonly number[]) {
    this.#fds = fds;
  }

  /** Of the taps that process `pid` has open, each queue of them. */
  static open(pid: number): TapInput {
    const pidfd = openPidfd(pid);
    try {
      return new TapInput(listTaps(pid).map((fd) => openDuplicate(pidfd, fd)));
    } finally {
      closeSync(pidfd);
    }
  }

  /** Throws away what waits. Returns how many packets that were. */
  discard(): number {
    return this.#fds.reduce((count, fd) => count + this.#discardOf(fd), 0);
  }

  close(): void {
    this.#fds.forEach((fd) => {
      closeSync(fd);
    });
  }

  #discardOf(fd: number): number {
    for (let count = 0; count < PACKETS_MAX; count += 1) {
      try {
        readSync(fd, this.#packet); // QEMU has set its taps not to block, and a duplicate is the same open file.
      } catch {
        return count; // Empty, or its interface is gone.
      }
    }
    return PACKETS_MAX;
  }
}

function listTaps(pid: number): number[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return statSync(`/proc/${pid}/fd/${fd}`).rdev === TUN ? [Number(fd)] : [];
    } catch {
      return []; // Closed meanwhile.
    }
  });
}
