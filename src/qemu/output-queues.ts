/**
 * Holds back what the guest sends inside of QEMU, with QEMU's own filters: for hosts on which the preload shim cannot be.
 *
 * Three filters on each netdev, made in this order, because what the guest sends passes them from the last to the first:
 *
 *   guest -> twinrun-seen (filter-mirror) -> twinrun-now (filter-buffer) -> twinrun-sent (filter-buffer) -> network
 *
 * `mark` switches twinrun-now off and on, which moves what it holds into twinrun-sent; `release` does the same with
 * twinrun-sent, and that is when packets leave. twinrun-seen copies each packet to a socket of this process: that tells
 * that there is output to let go, and counts it.
 *
 * Contract:
 * - mark(epoch) is awaited before the checkpoint of that epoch is asked for. What the guest sends between the two is held
 *   until the next epoch, which is late but never early. (After the checkpoint would be early: the guest runs by then.)
 * - release(epoch) lets packets go only if no later epoch has been marked, since QEMU keeps no borders within a queue;
 *   otherwise they go with that later one. A fallback with one epoch in flight is never late for that reason.
 * - Holding begins with `hold` and ends with `open`, which lets everything go.
 * - There is no way to drop what is held: QEMU flushes its queues when a filter is removed and when it quits in an orderly
 *   way. Who must not send any more kills QEMU with SIGKILL.
 * - A queue holds 10,000 packets, then drops; a flush drops what the network does not take at once. The first can be seen
 *   (`overflowed`), the second cannot.
 *
 * Why the buffers have an interval of 4,000 s: filter-buffer flushes by a timer of the guest's clock, and that is the
 * longest it takes (its interval is microseconds in 32 bits). Each mark starts it anew.
 */
import { createServer, type Server, type Socket } from "node:net";
import { type QmpClient } from "./qmp-client.ts";
import { type QmpRequest } from "./qmp-commands.ts";
import { QmpFailure } from "./qmp-failure.ts";

const INTERVAL_US = 4_000_000_000;
const QUEUE_PACKETS_MAX = 10_000;
const LENGTH_BYTES = 4;

type Names = { readonly sent: string; readonly now: string; readonly seen: string; readonly chardev: string };

export class OutputQueues {
  readonly #qmp: QmpClient;
  readonly #netdevs: readonly string[];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isHolding = false;
  #markedEpoch = -1;
  #seenPackets = 0;
  /** Packets seen when the last mark was asked for, and when what is in twinrun-sent was. */
  #markedPackets = 0;
  #releasedPackets = 0;
  #wasOverflown = false;
  #onOutput: (() => void) | undefined;

  private constructor(qmp: QmpClient, netdevs: readonly string[], server: Server) {
    this.#qmp = qmp;
    this.#netdevs = netdevs;
    this.#server = server;
    server.on("connection", (socket) => {
      this.#follow(socket);
    });
  }

  /** Puts the filters in, open; what an earlier process left is removed first, and lets go of what it held. */
  static async add(qmp: QmpClient, netdevs: readonly string[], socketPath: string): Promise<OutputQueues> {
    await removeOutputQueues(qmp, netdevs);
    const queues = new OutputQueues(qmp, netdevs, await listen(socketPath));
    for (const netdev of netdevs) {
      const names = namesOf(netdev);
      const buffer = { "qom-type": "filter-buffer", netdev, queue: "rx", interval: INTERVAL_US, status: "off" };
      const backend = { type: "socket", data: { addr: { type: "unix", data: { path: socketPath } }, server: false } };
      await qmp.execute("chardev-add", { id: names.chardev, backend });
      await qmp.execute("object-add", { ...buffer, id: names.sent });
      await qmp.execute("object-add", { ...buffer, id: names.now });
      const mirror = { "qom-type": "filter-mirror", netdev, queue: "rx", outdev: names.chardev };
      await qmp.execute("object-add", { ...mirror, id: names.seen });
    }
    return queues;
  }

  /** Packets the guest sent and that have not left; those of the last instants may still be on their way to here. */
  get heldPackets(): number {
    return this.#isHolding ? this.#seenPackets - this.#releasedPackets : 0;
  }

  get seenPackets(): number {
    return this.#seenPackets;
  }

  /** Whether a queue may have been full once since it was asked last: then packets were lost. */
  takeOverflowed(): boolean {
    const overflowed = this.#wasOverflown;
    this.#wasOverflown = false;
    return overflowed;
  }

  /** Calls back when the guest sends while output is held; more often than once is possible. */
  onOutput(callback: () => void): void {
    this.#onOutput = callback;
  }

  async hold(): Promise<void> {
    // First the queue nearest to the network: whatever passes the other one is held there.
    await this.#switch(["sent", "on"], ["now", "on"]);
    this.#isHolding = true;
    this.#releasedPackets = this.#seenPackets;
  }

  /** Lets everything go and holds nothing any more. */
  async open(): Promise<void> {
    // In this order: the other way round a packet could overtake those in front of it.
    await this.#switch(["sent", "off"], ["now", "off"]);
    this.#isHolding = false;
    this.#releasedPackets = this.#seenPackets;
  }

  async mark(epoch: number): Promise<void> {
    const seen = this.#seenPackets;
    this.#markedEpoch = epoch;
    await this.#switch(["now", "off"], ["now", "on"]);
    this.#markedPackets = seen;
  }

  /** Resolves with how many packets left, as far as they had been seen. */
  async release(throughEpoch: number): Promise<number> {
    if (throughEpoch < this.#markedEpoch) {
      return 0;
    }
    const left = this.#markedPackets - this.#releasedPackets;
    await this.#switch(["sent", "off"], ["sent", "on"]);
    this.#releasedPackets = this.#markedPackets;
    return left;
  }

  /** Takes the filters out, which lets go of all they hold. */
  async remove(): Promise<void> {
    await removeOutputQueues(this.#qmp, this.#netdevs);
    this.close();
  }

  /** Leaves the filters in QEMU as they are: held stays held. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }

  /** In one write, netdev by netdev; throws the first failure. */
  async #switch(...steps: readonly (readonly ["sent" | "now", "on" | "off"])[]): Promise<void> {
    const requests = this.#netdevs.flatMap((netdev) =>
      steps.map(([queue, value]): QmpRequest => {
        const args = { path: `/objects/${namesOf(netdev)[queue]}`, property: "status", value };
        return { command: "qom-set", args };
      }),
    );
    for (const outcome of await this.#qmp.batch(requests)) {
      if (outcome.tag === "failed") {
        throw outcome.failure;
      }
    }
  }

  /** A filter-mirror writes each packet with its length before it, as a big-endian u32. */
  #follow(socket: Socket): void {
    this.#sockets.add(socket);
    let skipBytes = 0;
    let header = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      let packets = 0;
      for (let at = 0; at < chunk.length;) {
        const skipped = Math.min(skipBytes, chunk.length - at);
        skipBytes -= skipped;
        at += skipped;
        const part = chunk.subarray(at, at + LENGTH_BYTES - header.length);
        at += part.length;
        header = Buffer.concat([header, part]);
        if (header.length === LENGTH_BYTES) {
          skipBytes = header.readUInt32BE(0);
          header = Buffer.alloc(0);
          packets += 1;
        }
      }
      this.#count(packets);
    });
    socket.on("error", () => undefined); // The filter is gone, or QEMU is: the monitor tells.
    socket.on("close", () => {
      this.#sockets.delete(socket);
    });
  }

  #count(packets: number): void {
    this.#seenPackets += packets;
    this.#wasOverflown ||= this.heldPackets > QUEUE_PACKETS_MAX;
    if (packets > 0 && this.#isHolding) {
      this.#onOutput?.();
    }
  }
}

/** Takes out whatever an earlier process put in; what it held leaves. */
export async function removeOutputQueues(qmp: QmpClient, netdevs: readonly string[]): Promise<void> {
  const objects = new Set((await qmp.execute("qom-list", { path: "/objects" })).map(({ name }) => name));
  const chardevs = new Set((await qmp.execute("query-chardev", {})).map(({ label }) => label));
  for (const netdev of netdevs) {
    const names = namesOf(netdev);
    // From the network's end: what the next one lets go then passes at once.
    for (const id of [names.sent, names.now, names.seen]) {
      if (objects.has(id)) {
        await qmp.execute("object-del", { id });
      }
    }
    if (chardevs.has(names.chardev)) {
      await qmp.execute("chardev-remove", { id: names.chardev });
    }
  }
}

function namesOf(netdev: string): Names {
  return {
    sent: `twinrun-sent-${netdev}`,
    now: `twinrun-now-${netdev}`,
    seen: `twinrun-seen-${netdev}`,
    chardev: `twinrun-output-${netdev}`,
  };
}

function listen(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error) => {
      reject(QmpFailure.unreachable(path, error.message, error));
    });
    server.listen(path, () => {
      resolve(server);
    });
  });
}
