/**
 * The taps of a QEMU that does not run its guest yet: what comes in there, and telling switches that the guest is there.
 *
 * Such a QEMU takes nothing from its taps, so they fill up: with broadcasts of hours, and then with nothing, for a full tap drops
 * what is new. Discarded again and again for as long as the other side runs the guest, what is left at a takeover are the last
 * moments: what switches sent here since the other side fell silent. A client's retransmission is answered at once then, instead
 * of after its next one, which can be most of a second away (a timeout that doubles: RFC 6298, 5.5).
 *
 * Switches, the bridge of this very host among them, do so only once they have learned that the guest's addresses are here. QEMU
 * cannot tell them: it sends no packet before its guest runs. So the announcement is written past it, as the RARP packet that
 * QEMU itself sends after a migration (net/announce.c).
 */
import { closeSync, readdirSync, readSync, statSync, writeSync } from "node:fs";
import { ioctl, openDuplicate, openPidfd } from "./libc.ts";

/** The device number of /dev/net/tun: major 10, minor 200. */
const TUN = (10 << 8) | 200;
/** linux/if_tun.h */
const TUNGETIFF = 0x800454d2;
const TUNGETVNETHDRSZ = 0x800454d7;
const IFF_VNET_HDR = 0x4000;
const IFREQ_BYTES = 40;
const IFNAMSIZ = 16;
/** The longest packet with its offload header. */
const PACKET_BYTES_MAX = 65_536 + 64;
/** A tap keeps 1,000; more have come in meanwhile, and the next time is soon. */
const PACKETS_MAX = 2_000;
const ETHERNET_BYTES_MIN = 60;

/** A card of the guest and the tap it is behind, which is known by QEMU's descriptor or by the name of its interface. */
export type AnnouncedCard = {
  readonly mac: string | undefined;
  readonly fd: number | undefined;
  readonly interfaceName: string | undefined;
};

type Tap = {
  readonly fd: number;
  readonly fdInQemu: number;
  readonly interfaceName: string;
  /** Before each packet (virtio's offload header). */
  readonly headerBytes: number;
};

export class StandbyTaps {
  readonly #taps: readonly Tap[];
  readonly #packet = Buffer.allocUnsafe(PACKET_BYTES_MAX);

  private constructor(taps: readonly Tap[]) {
    this.#taps = taps;
  }

  /** Of the taps that process `pid` has open, each queue of them. */
  static open(pid: number): StandbyTaps {
    const pidfd = openPidfd(pid);
    try {
      return new StandbyTaps(listTaps(pid).map((fdInQemu) => openTap(fdInQemu, openDuplicate(pidfd, fdInQemu))));
    } finally {
      closeSync(pidfd);
    }
  }

  /** Throws away what waits. Returns how many packets that were. */
  discard(): number {
    return this.#taps.reduce((count, { fd }) => count + this.#discardOf(fd), 0);
  }

  /** Tells switches that the addresses of these cards are here. Returns how many cards that were: some have no tap. */
  announce(cards: readonly AnnouncedCard[]): number {
    return cards.filter((card) => this.#announce(card)).length;
  }

  close(): void {
    this.#taps.forEach(({ fd }) => {
      closeSync(fd);
    });
  }

  #announce({ mac, fd, interfaceName }: AnnouncedCard): boolean {
    const tap = this.#taps.find((each) => each.fdInQemu === fd || each.interfaceName === interfaceName);
    if (mac === undefined || tap === undefined) {
      return false;
    }
    try {
      writeSync(tap.fd, Buffer.concat([Buffer.alloc(tap.headerBytes), encodeAnnouncement(mac)]));
      return true;
    } catch {
      return false; // The interface is down: nothing would come in either.
    }
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

function openTap(fdInQemu: number, fd: number): Tap {
  const request = Buffer.alloc(IFREQ_BYTES);
  const headerBytes = new Int32Array(1);
  // SAFETY: a struct ifreq and an int, both alive until their call returns. One that fails leaves its zeros: no name, no header.
  ioctl(fd, TUNGETIFF, request);
  ioctl(fd, TUNGETVNETHDRSZ, headerBytes);
  const hasHeader = (request.readUInt16LE(IFNAMSIZ) & IFF_VNET_HDR) !== 0;
  const [interfaceName = ""] = request.toString("latin1", 0, IFNAMSIZ).split("\0");
  return { fd, fdInQemu, interfaceName, headerBytes: hasHeader ? (headerBytes[0] ?? 0) : 0 };
}

/** A reverse ARP request for its own address (RFC 903), to everybody. */
function encodeAnnouncement(mac: string): Buffer {
  const address = Buffer.from(mac.replaceAll(":", ""), "hex");
  const frame = Buffer.alloc(ETHERNET_BYTES_MIN);
  frame.fill(0xff, 0, 6).set(address, 6);
  frame.set([0x80, 0x35, 0, 1, 0x08, 0, 6, 4, 0, 3], 12);
  frame.set(address, 22);
  frame.set(address, 32);
  return frame;
}
