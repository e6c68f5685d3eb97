/**
 * The assignment file: which guests this node runs and with whom, for hosts without Kubernetes. YAML or JSON:
 *
 *   guests:
 *     - guest: web
 *       peerNode: host-b
 *       firstPrimary: host-a
 *       port: 7100
 *       links:
 *         - { name: direct, localHost: 10.0.0.1, peerHost: 10.0.0.2 }
 *       disks:
 *         - { id: disk0, path: /var/lib/twinrun/web.raw }
 *       qemu:
 *         binary: /usr/bin/qemu-system-x86_64
 *         args: ["-machine", "q35", ...]          # without -S, -incoming and -qmp
 *       checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1000 }     # these are the defaults
 *       failover: { detectionTimeoutMs: 500 }     # 2000 in HighAvailability
 *       tracker: auto
 *       linkCapacity: { ownMiBPerSecond: 1000, peerMiBPerSecond: 1000 }   # left out; what all links of this host carry together,
 *                                               # and all of the peer's: guests that want more than their share are slowed down
 *       fullResync: "2026-11-27"                # left out; another word than before: copy everything once more
 *
 * Every field that is not listed with a default is required; a field nobody knows is a mistake. The result has the shape
 * of protocol/assignment.ts GuestAssignment (the compiler checks it where the agent takes it).
 */
import { z } from "zod";
import { parseInput } from "./checked-input.ts";
import { checkpointContract, decideDetectionMs, detectionTimeoutMs } from "./fault-tolerance.ts";
import { NAME_LENGTH_MAX, NAME_PATTERN } from "./fields.ts";

const name = (what: string): z.ZodString =>
  z
    .string(`${what} of lower-case letters, digits, "-" and ".", at most ${NAME_LENGTH_MAX}`)
    .regex(NAME_PATTERN, `${what} of lower-case letters, digits, "-" and "."`)
    .max(NAME_LENGTH_MAX, `${what} of at most ${NAME_LENGTH_MAX} characters`);

const host = (what: string): z.ZodString => z.string(what).min(1, what).max(253, what);
const path = (what: string): z.ZodString =>
  z.string(`${what}, an absolute path`).regex(/^\/[^\0]*$/, `${what}, an absolute path`);

const wholeNumber = (what: string, low: number, high: number): z.ZodNumber => {
  const says = `${what}, a whole number from ${low} to ${high}`;
  return z.int(says).min(low, says).max(high, says);
};

const capacity = (what: string): z.ZodNumber => {
  const says = `${what}, in MiB a second`;
  return z.number(says).positive(says);
};

const object = <Shape extends z.core.$ZodLooseShape>(what: string, shape: Shape): z.ZodObject<Shape, z.core.$strict> =>
  z.strictObject(shape, { error: (issue) => sayObject(issue, what) });

function sayObject(issue: z.core.$ZodRawIssue, what: string): string | undefined {
  return issue.code === "unrecognized_keys" ? undefined : what;
}

const link = object("a link with name, localHost and peerHost", {
  name: name("the name of the link"),
  localHost: host("the address of this host on the link"),
  peerHost: host("the address of the peer on the link"),
});

const disk = object("a disk with id and path", {
  id: z.string("the id or node-name the disk has in qemu.args").min(1, "the id or node-name the disk has in qemu.args"),
  path: path("the raw image or block device of the disk on this host"),
});

/** What the agent adds itself, and what would take QEMU out of its hands. */
const RESERVED_ARGS: Readonly<Record<string, string>> = {
  S: "the agent starts the guest when its role says so",
  incoming: "the agent adds it on the standby",
  qmp: "the agent adds its own; a further monitor can be had with -chardev and -mon",
  daemonize: "the agent has to know the process it started",
  pidfile: "the agent keeps its own state file",
  "run-with": "the agent has to know the process it started",
};

const qemuArgs = z
  .array(z.string("text"), "the list of QEMU's arguments")
  .min(1, "the list of QEMU's arguments")
  .superRefine((args, context) => {
    args.forEach((arg, index) => {
      const option = /^--?(.+)$/.exec(arg)?.[1] ?? "";
      const why = Object.hasOwn(RESERVED_ARGS, option) ? RESERVED_ARGS[option] : undefined;
      if (why !== undefined) {
        context.addIssue({ code: "custom", path: [index], message: `remove ${arg}: ${why}` });
      }
    });
  });

const anyGuest = object("a guest", {
  guest: name("the name of the guest").refine((given) => !given.endsWith(".sock"), {
    message: "must not end in .sock, for it names a directory beside the agent's socket",
  }),
  mode: z
    .enum(["FaultTolerant", "HighAvailability"], "the level of availability, FaultTolerant or HighAvailability")
    .default("FaultTolerant"),
  peerNode: name("the name of the node that holds the other side"),
  firstPrimary: name("the name of the node that runs the guest the first time"),
  port: wholeNumber("the port on which both engines of this guest listen", 1, 65_535),
  links: z
    .array(link, "the list of replication links to the peer, the first one preferred")
    .min(1, "a list of at least one replication link to the peer")
    .max(8, "a list of at most 8 replication links"),
  disks: z.array(disk, "the list of disks, [] for none").max(64, "a list of at most 64 disks"),
  qemu: object("an object with binary and args", {
    binary: z.string("the QEMU to run").min(1, "the QEMU to run, such as /usr/bin/qemu-system-x86_64"),
    args: qemuArgs,
  }),
  checkpoint: checkpointContract.strict().prefault({}),
  failover: object("an object with detectionTimeoutMs", {
    detectionTimeoutMs: detectionTimeoutMs.optional(),
  }).prefault({}),
  tracker: z
    .enum(["auto", "userfaultfd", "softDirty", "comparison"], "auto, userfaultfd, softDirty or comparison")
    .default("auto"),
  linkCapacity: object("an object with ownMiBPerSecond and peerMiBPerSecond", {
    ownMiBPerSecond: capacity("what this host's replication links carry").optional(),
    peerMiBPerSecond: capacity("what the peer's replication links carry").optional(),
  }).optional(),
  fullResync: z.string("text").max(253, "at most 253 characters").optional(),
}).superRefine((assignment, context) => {
  refuseRepeated(context, "links", assignment.links, ["name", "peerHost"]);
  refuseRepeated(context, "disks", assignment.disks, ["id", "path"]);
});
const guest = anyGuest.transform((given) => ({
  ...given,
  failover: { detectionTimeoutMs: decideDetectionMs(given) },
}));

export const assignmentFile = object("an object with the field guests", {
  guests: z.array(guest, "the list of guests, [] for none").superRefine((guests, context) => {
    refuseRepeated(context, undefined, guests, ["guest", "port"]);
  }),
});

export type AssignmentFile = z.output<typeof assignmentFile>;

/** The guests of a file that was read as YAML or JSON already; throws {@link InputFailure} with every mistake. */
export function parseAssignments(value: unknown, subject: string): AssignmentFile["guests"] {
  return parseInput(assignmentFile, value, subject).guests;
}

function refuseRepeated<Item extends object>(
  context: z.core.$RefinementCtx,
  list: string | undefined,
  items: readonly Item[],
  fields: readonly (keyof Item & string)[],
): void {
  for (const field of fields) {
    const seen = new Set<unknown>();
    items.forEach((item, index) => {
      const value = item[field];
      if (seen.has(value)) {
        const path = list === undefined ? [index, field] : [list, index, field];
        context.addIssue({ code: "custom", path, message: `${String(value)} stands here twice; each needs its own` });
      }
      seen.add(value);
    });
  }
}
