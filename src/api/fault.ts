/**
 * A record of a fault, as it stands in the status of GuestPairs (what an agent has seen) and of ProtectedVMs (what became of it).
 *
 * A component is a part of a side of the guest: `host`, `agent`, `engine`, `qemu`, `devices`, `disk/NAME`, `link/NAME`,
 * `uplink/NAME`.
 */
import { type z } from "zod";
import { counter, oneOf, sequence, shortName, struct, text, time } from "./fields.ts";

export const COMPONENT_PATTERN = /^(host|agent|engine|qemu|devices|(disk|link|uplink)\/[^\s]+)$/;

const shared = {
  node: shortName().describe("The node that the component belongs to."),
  component: text(300, "a component such as host or disk/NAME")
    .regex(COMPONENT_PATTERN, "host, agent, engine, qemu, devices, disk/NAME, link/NAME or uplink/NAME")
    .describe("What failed: host, agent, engine, qemu, devices, disk/NAME, link/NAME or uplink/NAME."),
  code: text(64)
    .regex(/^[A-Z][A-Za-z0-9]*$/, "a code in PascalCase")
    .describe("How it failed, for programs."),
  message: text(1_024).describe("What was seen."),
  firstAt: time().describe("When it was seen for the first time."),
  lastAt: time().describe("When it was seen last."),
  count: counter().describe("How often it was seen."),
  repairedAt: time().optional().describe("When the component worked again after it; absent while it does not."),
  incidents: sequence(time(), { max: 16 }).describe(
    "When the component went out of service by it, within the last hour.",
  ),
  done: text(1_024).describe("What Twinrun does about it."),
  remedy: text(1_024).describe("What a person should do."),
};

/** What one agent has seen. */
export const seenFault = struct({
  ...shared,
  state: oneOf(["OutOfService", "InService"]).describe("Whether the component works as far as this agent sees."),
});

export type SeenFault = z.output<typeof seenFault>;

export const FAULT_STATES = ["Isolated", "OutOfService", "InService"] as const;

/** With what the operator makes of it. */
export const fault = struct({
  ...shared,
  state: oneOf(FAULT_STATES).describe(
    "OutOfService: it does not work. InService: it works again. Isolated: it failed again and again, and is not used for a new " +
      "copy of the guest until a person clears it (kubectl twinrun faults clear).",
  ),
  clearedAt: time().optional().describe("When a person cleared it last; what failed before does not count any more."),
});

export type Fault = z.output<typeof fault>;

/** Undefined when it is none, or one of another version. */
export function parseSeenFault(value: unknown): SeenFault | undefined {
  const parsed = seenFault.safeParse(value);
  return parsed.success ? parsed.data : undefined;
}
