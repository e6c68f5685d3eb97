/**
 * What happens to the guest that is not a checkpoint of ours, as typed events.
 *
 * STOP and RESUME of our own (own-stops.ts) are left out; any other is reported, for somebody paused the guest, or QEMU
 * did. Why it stopped is told by the run state, which is for the reader to query. Where the preload shim swallows STOP and
 * RESUME of checkpoints there is nothing to leave out, and the same holds.
 *
 * A stop of our own begins and ends while its command is under way. Somebody else's may happen just then as well: a STOP
 * without its RESUME by the time of the answer is not ours, nor is a RESUME without a STOP before it.
 */
import { hasOwnStop, waitForOwnStops } from "./own-stops.ts";
import { type QmpClient, type QmpEvent } from "./qmp-client.ts";

export type GuestEvent =
  /** Somebody else, or QEMU itself, stopped the guest. */
  | { readonly tag: "stopped" }
  | { readonly tag: "resumed" }
  /** Somebody pressed its power button, from outside. */
  | { readonly tag: "powerButtonPressed" }
  /** `byGuest`: a shutdown from inside, else a quit, a signal or the like. `reason` in QEMU's words. */
  | { readonly tag: "shutDown"; readonly byGuest: boolean; readonly reason: string }
  | { readonly tag: "reset"; readonly byGuest: boolean; readonly reason: string }
  /** `stopped`: QEMU stopped the guest because of it (werror=stop); else the guest saw the error, or it was ignored. */
  | {
      readonly tag: "diskFailed";
      readonly device: string;
      readonly node: string | undefined;
      readonly operation: "read" | "write";
      readonly noSpace: boolean;
      readonly stopped: boolean;
      readonly reason: string;
    }
  | { readonly tag: "panicked"; readonly action: string }
  | { readonly tag: "watchdogFired"; readonly action: string }
  /** A device was unplugged or memory resized: the machine's shape is to be read again. */
  | { readonly tag: "shapeChanged"; readonly what: string };

/** Calls the listener with each event; returns how to end that. */
export function watchGuest(qmp: QmpClient, listener: (event: GuestEvent) => void): () => void {
  /** It may turn out to be ours. */
  let openStop: QmpEvent | undefined;
  const unwatch = qmp.onEvent((event) => {
    if (event.event === "STOP" && hasOwnStop(qmp)) {
      openStop = event;
      void waitForOwnStops(qmp).then(() => {
        if (openStop === event) {
          openStop = undefined;
          listener({ tag: "stopped" });
        }
      });
      return;
    }
    if (event.event === "RESUME" && openStop !== undefined) {
      openStop = undefined;
      return;
    }
    const guestEvent = parseGuestEvent(event);
    if (guestEvent !== undefined) {
      listener(guestEvent);
    }
  });
  return () => {
    openStop = undefined;
    unwatch();
  };
}

/** One parser for each event that says something of the guest; the rest of QEMU's events are about jobs and the like. */
const PARSERS: Readonly<Record<string, (data: QmpEvent["data"]) => GuestEvent>> = {
  STOP: () => ({ tag: "stopped" }),
  RESUME: () => ({ tag: "resumed" }),
  POWERDOWN: () => ({ tag: "powerButtonPressed" }),
  SHUTDOWN: (data) => ({ tag: "shutDown", byGuest: data["guest"] === true, reason: textOf(data["reason"]) }),
  RESET: (data) => ({ tag: "reset", byGuest: data["guest"] === true, reason: textOf(data["reason"]) }),
  BLOCK_IO_ERROR: parseDiskFailed,
  GUEST_PANICKED: (data) => ({ tag: "panicked", action: textOf(data["action"]) }),
  WATCHDOG: (data) => ({ tag: "watchdogFired", action: textOf(data["action"]) }),
  DEVICE_DELETED: () => ({ tag: "shapeChanged", what: "DEVICE_DELETED" }),
  MEMORY_DEVICE_SIZE_CHANGE: () => ({ tag: "shapeChanged", what: "MEMORY_DEVICE_SIZE_CHANGE" }),
};

export const parseGuestEvent = ({ event, data }: QmpEvent): GuestEvent | undefined => PARSERS[event]?.(data);

function parseDiskFailed(data: QmpEvent["data"]): GuestEvent {
  const node = data["node-name"];
  return {
    tag: "diskFailed",
    device: textOf(data["device"]),
    node: typeof node === "string" ? node : undefined,
    operation: data["operation"] === "read" ? "read" : "write",
    noSpace: data["nospace"] === true,
    stopped: data["action"] === "stop",
    reason: textOf(data["reason"]),
  };
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
