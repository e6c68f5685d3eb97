import { expect, test } from "@jest/globals";
import { type GuestEvent, parseGuestEvent } from "./guest-events.ts";

type Case = {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
  readonly isOwn?: boolean;
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
  { event: "STOP", isOwn: true, parsed: undefined },
  { event: "RESUME", parsed: { tag: "resumed" } },
  { event: "RESUME", isOwn: true, parsed: undefined },
  { event: "POWERDOWN", isOwn: true, parsed: { tag: "powerButtonPressed" } },
  {
    event: "SHUTDOWN",
    data: { guest: true, reason: "guest-shutdown" },
    isOwn: true, // A checkpoint under way hides only its own stop.
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
])("$event, own: $isOwn", ({ event, data = {}, isOwn = false, parsed }) => {
  expect(parseGuestEvent({ event, data, atMs: 0 }, isOwn)).toEqual(parsed);
});
