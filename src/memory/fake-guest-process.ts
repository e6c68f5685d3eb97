/**
 * The process behind fake-guest.ts. It looks to this folder like a QEMU: started with the shim preloaded it maps RAM blocks the
 * way QEMU does, writes pages when told, sends packets into a tap and event lines into a monitor socket.
 *
 * The tap lies in a network namespace of this process's own (unshare), together with a UDP socket that receives what leaves the
 * gate: nothing is left behind when the process ends, however it ends. Packets carry their number, so order, loss and
 * duplicates show.
 */
import { execFileSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { constants, openSync, readdirSync, readlinkSync } from "node:fs";
import { connect, createServer } from "node:net";
import koffi from "koffi";
import { type FakeGuestReply, type FakeGuestRequest } from "./fake-guest.ts";

const PAGE_BYTES = 4096;
const GUEST_PORT = 7001;
const VNET_HEADER_BYTES = 12;
const PAYLOAD_OFFSET = 14 + 20 + 8;

const c = koffi.load(null); // The shim comes first in the search order, as for QEMU.
const mmap = c.func("uintptr_t mmap(uintptr_t at, size_t bytes, int prot, int flags, int fd, long offset)") as (
  ...integers: number[]
) => number | bigint;
const munmap = c.func("int munmap(uintptr_t at, size_t bytes)");
const memfdCreate = c.func("int memfd_create(str name, uint flags)");
const ftruncate = c.func("int ftruncate(int fd, long bytes)");
const unshare = c.func("int unshare(int flags)");
const ioctl = c.func("int ioctl(int fd, ulong request, void *argument)");
const writev = c.func("long writev(int fd, void *ranges, int count)");
const setsockopt = c.func("int setsockopt(int fd, int level, int option, void *value, uint bytes)");
const sendmsg = c.func("long sendmsg(int fd, void *message, int flags)");
const recvmsg = c.func("long recvmsg(int fd, void *message, int flags)");

const blocks: { address: bigint; bytes: number; words: Uint32Array }[] = [];
const taps: number[] = [];
const received: number[] = [];
let monitor = -1;
let channel = -1;

function mapBlock(bytes: number, shared: boolean): string {
  const [PROT_NONE, PROT_READ_WRITE] = [0, 3];
  const [SHARED, PRIVATE_ANONYMOUS, FIXED] = [0x1, 0x22, 0x10];
  // SAFETY: first a reservation, then the block inside of it, as QEMU does. Nobody else uses the range.
  const reserved = BigInt(mmap(0, bytes, PROT_NONE, PRIVATE_ANONYMOUS, -1, 0));
  const fd = shared ? Number(memfdCreate("memory-backend-memfd", 1)) : -1;
  if (shared) {
    ftruncate(fd, bytes);
  }
  // SAFETY: as above.
  const address = BigInt(
    mmap(Number(reserved), bytes, PROT_READ_WRITE, FIXED | (shared ? SHARED : PRIVATE_ANONYMOUS), fd, 0),
  );
  // SAFETY: the bytes just mapped; unmap() forgets the view.
  blocks.push({ address, bytes, words: new Uint32Array(koffi.view(address, bytes)) });
  return address.toString();
}

function unmapBlock(index: number): void {
  const { address, bytes } = blocks[index] as (typeof blocks)[number];
  blocks[index] = { address: 0n, bytes: 0, words: new Uint32Array(0) };
  // SAFETY: the view was dropped above.
  munmap(address, bytes);
}

/** Writes random words for a while, in short bursts as a guest would, giving way to the event loop in between. */
async function writeAlways(index: number, forMs: number, seed: number): Promise<void> {
  const { words } = blocks[index] as (typeof blocks)[number];
  let state = seed;
  const endMs = performance.now() + forMs;
  while (performance.now() < endMs) {
    for (let n = 0; n < 50; n++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      words[state % words.length] = state;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

function listSockets(): number[] {
  const names = readdirSync("/proc/self/fd").filter((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`).startsWith("socket:");
    } catch {
      return false; // The descriptor of the listing itself.
    }
  });
  return names.map(Number);
}

async function openTap(): Promise<void> {
  const [TUNSETIFF, TUNSETVNETHDRSZ, CLONE_NEWNET] = [0x400454ca, 0x400454d8, 0x40000000];
  const [TAP_NO_PI_VNET] = [0x0002 | 0x1000 | 0x4000];
  if (taps.length === 0) {
    // SAFETY: integers only. Only this thread moves; it is the one that opens sockets and starts programs.
    unshare(CLONE_NEWNET);
  }
  const number = taps.length;
  const fd = openSync("/dev/net/tun", constants.O_RDWR | constants.O_NONBLOCK);
  const request = Buffer.alloc(40);
  request.write(`tap${number}`, 0, "latin1");
  request.writeUInt16LE(TAP_NO_PI_VNET, 16);
  // SAFETY: a struct ifreq (40 bytes) and an int; both live until the call returns.
  if (
    Number(ioctl(fd, TUNSETIFF, request)) !== 0 ||
    Number(ioctl(fd, TUNSETVNETHDRSZ, Int32Array.of(VNET_HEADER_BYTES))) !== 0
  ) {
    throw new Error("no tap: root and /dev/net/tun are needed");
  }
  const name = `tap${number}`;
  execFileSync("ip", ["link", "set", name, "address", `02:00:00:00:00:0${number}`, "mtu", "9000", "up"]);
  execFileSync("ip", ["address", "add", `10.9.${number}.1/24`, "dev", name]);
  taps.push(fd);
  const socketsBefore = listSockets();
  const socket = createSocket("udp4");
  socket.bind(GUEST_PORT, `10.9.${number}.1`);
  await once(socket, "listening");
  const [SOL_SOCKET, SO_RCVBUFFORCE] = [1, 33];
  const socketFd = listSockets().find((number) => !socketsBefore.includes(number));
  // SAFETY: the option is an int that lives until the call returns. Room for all packets a test may release at once.
  setsockopt(socketFd, SOL_SOCKET, SO_RCVBUFFORCE, Int32Array.of(64 << 20), 4);
  socket.on("message", (message) => received.push(message.readUInt32LE(0)));
}

/** A UDP packet of the guest as QEMU gives it to a tap: vnet header, Ethernet, IPv4, UDP, the number, padding. */
function encodePacket(number: number, tap: number, payloadBytes: number): Buffer {
  const packet = Buffer.alloc(PAYLOAD_OFFSET + payloadBytes);
  packet.set([2, 0, 0, 0, 0, tap, 2, 0, 0, 0, 1, tap, 8, 0], 0);
  packet.set([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, tap, 2, 10, 9, tap, 1], 14);
  packet.writeUInt16BE(28 + payloadBytes, 16);
  let sum = 0;
  for (let at = 14; at < 34; at += 2) {
    sum += packet.readUInt16BE(at);
  }
  sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 24);
  packet.writeUInt16BE(7000, 34);
  packet.writeUInt16BE(GUEST_PORT, 36);
  packet.writeUInt16BE(8 + payloadBytes, 38);
  packet.writeUInt32LE(number, PAYLOAD_OFFSET);
  return packet;
}

const vnetHeader = Buffer.from(new ArrayBuffer(VNET_HEADER_BYTES));

function sendPacket(packet: Buffer, tap: number): number {
  const ranges = new BigUint64Array(4);
  ranges.set([koffi.address(vnetHeader), BigInt(vnetHeader.length), koffi.address(packet), BigInt(packet.length)]);
  // SAFETY: two struct iovec over buffers that are alive in this function.
  return Number(writev(taps[tap], ranges, 2));
}

/**
 * Sends numbered packets as fast as it can, so that the gate is turned in the midst of them; a refused one (EAGAIN) is tried
 * again later, as QEMU's queue does. Returns how often that was.
 */
async function sendAlways(from: number, count: number, tap: number): Promise<number> {
  const packet = encodePacket(from, tap, 64);
  let refused = 0;
  for (let number = from; number < from + count;) {
    packet.writeUInt32LE(number, PAYLOAD_OFFSET);
    if (sendPacket(packet, tap) > 0) {
      number++;
    } else {
      refused++;
    }
    if (number % 50 === 0 || refused % 20 === 19) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  return refused;
}

/** A struct msghdr with one struct iovec over `bytes`; both have to stay alive as long as it is used. */
function encodeMessage(bytes: Buffer, range: BigUint64Array): BigUint64Array {
  const message = new BigUint64Array(7);
  range.set([koffi.address(bytes), BigInt(bytes.length)]);
  message.set([0n, 0n, koffi.address(range), 1n]);
  return message;
}

function sendEvent(line: string): void {
  const [bytes, range] = [Buffer.from(line, "latin1"), new BigUint64Array(2)];
  // SAFETY: all three buffers are alive in this function.
  sendmsg(monitor, encodeMessage(bytes, range), 0);
}

/** QEMU listens, and libvirt connects. */
async function openChannel(path: string): Promise<void> {
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    channel = fdOf(socket);
  });
  server.listen(path);
  await once(server, "listening");
}

/** As QEMU reads a socket. */
function readChannel(): string | null {
  const [bytes, range] = [Buffer.from(new ArrayBuffer(4_096)), new BigUint64Array(2)];
  // SAFETY: all three buffers are alive in this function.
  const count = Number(recvmsg(channel, encodeMessage(bytes, range), 0));
  return count < 0 ? null : bytes.toString("latin1", 0, count);
}

async function openMonitor(path: string): Promise<void> {
  const socket = connect(path);
  await once(socket, "connect");
  monitor = fdOf(socket);
}

const fdOf = (socket: unknown): number => (socket as { _handle: { fd: number } })._handle.fd;

// eslint-disable-next-line complexity -- one case a request
async function answer(request: FakeGuestRequest): Promise<FakeGuestReply> {
  switch (request.tag) {
    case "map":
      return { tag: "mapped", address: mapBlock(request.bytes, request.shared) };
    case "unmap":
      unmapBlock(request.block);
      return { tag: "done" };
    case "write":
      for (const [block, page, value] of request.writes) {
        (blocks[block] as (typeof blocks)[number]).words[(page * PAGE_BYTES) / 4 + 5] = value;
      }
      return { tag: "done" };
    case "writeAlways":
      await writeAlways(request.block, request.forMs, request.seed);
      return { tag: "done" };
    case "openTap":
      await openTap();
      return { tag: "done" };
    case "send": {
      const numbers = Array.from({ length: request.count }, (_, index) => request.from + index);
      const results = numbers.map((number) =>
        sendPacket(encodePacket(number, request.tap, request.bytes), request.tap),
      );
      return { tag: "sent", results, refused: 0 };
    }
    case "sendAlways":
      return { tag: "sent", results: [], refused: await sendAlways(request.from, request.count, request.tap) };
    case "listReceived":
      for (let before = -1; before !== received.length;) {
        before = received.length;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return { tag: "received", numbers: received.splice(0) };
    case "startHelper":
      return {
        tag: "helper",
        hasShim: execFileSync("ls", ["-l", "/proc/self/fd"]).toString().includes("twinrun-shim"),
      };
    case "openMonitor":
      await openMonitor(request.path);
      return { tag: "done" };
    case "sendEvents":
      request.lines.forEach(sendEvent);
      return { tag: "done" };
    case "openChannel":
      await openChannel(request.path);
      return { tag: "done" };
    case "readChannel":
      return { tag: "read", text: readChannel() };
  }
}

process.on("message", ({ id, request }: { id: number; request: FakeGuestRequest }) => {
  answer(request).then(
    (reply) => process.send?.({ id, reply }),
    (error: unknown) =>
      process.send?.({ id, reply: { tag: "failed", message: String(error) } satisfies FakeGuestReply }),
  );
});
process.on("disconnect", () => {
  process.exit(0);
});
process.send?.({ id: 0, reply: { tag: "done" } satisfies FakeGuestReply });
