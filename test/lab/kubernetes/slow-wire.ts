/**
 * A wire between two networks that takes its time: `node slow-wire.ts NEAR FAR`, with an IPC channel on which the delay of one
 * direction comes in milliseconds. It makes a tap of either name in its network namespace and carries every frame from one to the
 * other, in order. This kernel has no netem, and a process in between is what it takes: a frame costs it some ten microseconds.
 *
 * It ends with its parent.
 */
import { openSync, read, writeSync, constants } from "node:fs";
import { ioctl } from "../../../src/memory/libc.ts";

const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const FRAME_BYTES = 65_536;
const INTERFACE_REQUEST_BYTES = 40;

let delayMs = 0;

function openTap(name: string): number {
  const fd = openSync("/dev/net/tun", constants.O_RDWR);
  const request = Buffer.alloc(INTERFACE_REQUEST_BYTES);
  request.write(name, 0, "latin1");
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI, 16);
  // SAFETY: the kernel copies the 40 bytes of the request during the call and keeps none of them.
  if (ioctl(fd, TUNSETIFF, request) !== 0) {
    throw new Error(`cannot make the tap ${name}`);
  }
  return fd;
}

type Waiting = { readonly dueMs: number; readonly frame: Buffer };

/** One direction. */
function carry(from: number, to: number): void {
  const queue: Waiting[] = [];
  const buffer = Buffer.alloc(FRAME_BYTES);
  let isArmed = false;
  const deliver = (): void => {
    isArmed = false;
    for (let next = queue[0]; next !== undefined && next.dueMs <= performance.now(); next = queue[0]) {
      queue.shift();
      send(to, next.frame);
    }
    arm();
  };
  const arm = (): void => {
    const [next] = queue;
    if (next !== undefined && !isArmed) {
      isArmed = true;
      setTimeout(deliver, Math.max(0, next.dueMs - performance.now()));
    }
  };
  const take = (): void => {
    read(from, buffer, 0, FRAME_BYTES, null, (error, bytes) => {
      if (error === null) {
        queue.push({ dueMs: performance.now() + delayMs, frame: Buffer.from(buffer.subarray(0, bytes)) });
        arm();
        take();
      } else {
        setTimeout(take, 10); // The other end is down for the moment.
      }
    });
  };
  take();
}

/** A wire whose end is down loses what it carries. */
function send(to: number, frame: Buffer): void {
  try {
    writeSync(to, frame);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EIO") {
      throw error;
    }
  }
}

const [near = "", far = ""] = process.argv.slice(2);
const ends = [openTap(near), openTap(far)] as const;
carry(ends[0], ends[1]);
carry(ends[1], ends[0]);
process.on("message", (message) => {
  delayMs = Number(message);
});
process.on("disconnect", () => process.exit(0));
process.send?.("ready");
