import { expect, test } from "@jest/globals";
import { type GuestEvent, parseGuestEvent, watchGuest } from "./guest-events.ts";
import { countOwnStop } from "./own-stops.ts";
import { type QmpClient, type QmpEvent } from "./qmp-client.ts";

type Case = {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly parsed: GuestEvent | undefined;
};

const ioError = {
  device: "disk0",
  "node-name": "#block1",
  operation: "write",
  action: "stop",
  nospace: true,
  reason: "No space",
};
const diskFailed = {
  tag: "diskFailed",
  device: "disk0",
  node: "#block1",
  operation: "write",
  reason: "No space",
} as const;

test.each<Case>([
  { event: "STOP", parsed: { tag: "stopped" } },
  { event: "RESUME", parsed: { tag: "resumed" } },
  { event: "POWERDOWN", parsed: { tag: "powerButtonPressed" } },
  {
    event: "SHUTDOWN",
    data: { guest: true, reason: "guest-shutdown" },
    parsed: { tag: "shutDown", byGuest: true, reason: "guest-shutdown" },
  },
  {
    event: "RESET",
    data: { guest: false, reason: "host-qmp-system-reset" },
    parsed: { tag: "reset", byGuest: false, reason: "host-qmp-system-reset" },
  },
  { event: "BLOCK_IO_ERROR", data: ioError, parsed: { ...diskFailed, noSpace: true, stopped: true } },
  {
    event: "BLOCK_IO_ERROR",
    data: { ...ioError, "node-name": undefined, operation: "read", action: "report", nospace: false },
    parsed: { ...diskFailed, node: undefined, operation: "read", noSpace: false, stopped: false },
  },
  { event: "GUEST_PANICKED", data: { action: "pause" }, parsed: { tag: "panicked", action: "pause" } },
  { event: "WATCHDOG", data: { action: "reset" }, parsed: { tag: "watchdogFired", action: "reset" } },
  { event: "DEVICE_DELETED", parsed: { tag: "shapeChanged", what: "DEVICE_DELETED" } },
  { event: "JOB_STATUS_CHANGE", data: { id: "x" }, parsed: undefined },
])("$event", ({ event, data = {}, parsed }) => {
  expect(parseGuestEvent({ event, data, atMs: 0 })).toEqual(parsed);
});

/** The tags of what is reported; "(" and ")" are where a command of ours that stops the guest is sent and answered. */
async function watch(events: readonly string[]): Promise<readonly string[]> {
  const listeners = new Set<(event: QmpEvent) => void>();
  const qmp = {
    onEvent: (listener: (event: QmpEvent) => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  } as unknown as QmpClient;
  const seen: string[] = [];
  watchGuest(qmp, ({ tag }) => seen.push(tag));
  let answer = (): void => undefined;
  for (const event of events) {
    if (event === "(") {
      countOwnStop(
        qmp,
        new Promise<void>((resolve) => {
          answer = resolve;
        }),
      );
    } else if (event === ")") {
      answer();
      await new Promise(setImmediate);
    } else {
      listeners.forEach((listener) => {
        listener({ event, data: {}, atMs: 0 });
      });
    }
  }
  return seen;
}

test.each([
  ["a checkpoint", ["(", "STOP", "RESUME", ")"], []],
  ["a checkpoint that the shim keeps quiet", ["(", ")"], []],
  ["somebody pauses the guest and lets it go on", ["STOP", "RESUME"], ["stopped", "resumed"]],
  ["somebody pauses it just before a checkpoint, which then stops nothing", ["(", "STOP", ")"], ["stopped"]],
  ["somebody pauses it before the checkpoint is answered", ["(", "STOP", "RESUME", "STOP", ")"], ["stopped"]],
  ["somebody lets it go on during one", ["(", "RESUME", ")"], ["resumed"]],
  ["it is shut down during one", ["(", "STOP", "SHUTDOWN", "RESUME", ")"], ["shutDown"]],
  [
    "a second checkpoint, after it was paused in the first",
    ["(", "STOP", ")", "(", ")", "RESUME"],
    ["stopped", "resumed"],
  ],
])("%s", async (_, events, reported) => {
  expect(await watch(events)).toEqual(reported);
});
