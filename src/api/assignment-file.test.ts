import { expect, test } from "@jest/globals";
import { type GuestAssignment } from "../protocol/assignment.ts";
import { parseAssignments } from "./assignment-file.ts";
import { InputFailure } from "./checked-input.ts";

const calm = {
  guest: "web",
  peerNode: "host-b",
  firstPrimary: "host-a",
  port: 7100,
  links: [{ name: "direct", localHost: "10.0.0.1", peerHost: "10.0.0.2" }],
  disks: [{ id: "disk0", path: "/var/lib/web.raw" }],
  qemu: { binary: "/usr/bin/qemu-system-x86_64", args: ["-machine", "q35"] },
};

test("defaults are filled in, and the result is what the agent hands to engines", () => {
  const [guest] = parseAssignments({ guests: [calm] }, "file");
  expect(guest satisfies Omit<GuestAssignment, "qemu"> | undefined).toBeDefined();
  expect(guest).toEqual({
    ...calm,
    mode: "FaultTolerant",
    checkpoint: { maxAddedLatencyMs: 50, minIntervalMs: 5, maxIntervalMs: 1_000 },
    failover: { detectionTimeoutMs: 500 },
    tracker: "auto",
  });
});

test.each([
  { when: "it is FaultTolerant", guest: {}, ms: 500 },
  { when: "a mistake would cost it its memory", guest: { mode: "HighAvailability" }, ms: 2_000 },
  { when: "the user says so", guest: { mode: "HighAvailability", failover: { detectionTimeoutMs: 300 } }, ms: 300 },
])("the other side counts as lost after $ms ms of silence when $when", ({ guest, ms }) => {
  const [parsed] = parseAssignments({ guests: [{ ...calm, ...guest }] }, "file");
  expect(parsed?.failover).toEqual({ detectionTimeoutMs: ms });
});

test.each<{ when: string; guest?: object; file?: unknown; says: RegExp }>([
  {
    when: "a field is missing",
    guest: { port: undefined },
    says: /^ {2}guests\[0\]\.port: must be the port .* 1 to 65535, found nothing$/m,
  },
  { when: "a port is too great", guest: { port: 70_000 }, says: /guests\[0\]\.port: must be .*, found 70000$/m },
  { when: "a field is misspelt", guest: { disk: [] }, says: /guests\[0\]\.disk: no such field; remove it or correct/ },
  {
    when: "a list is a text",
    guest: { links: "direct" },
    says: /guests\[0\]\.links: must be the list of replication links/,
  },
  { when: "there is no link", guest: { links: [] }, says: /at least one replication link/ },
  {
    when: "a link lacks its host",
    guest: { links: [{ name: "a", localHost: "x" }] },
    says: /links\[0\]\.peerHost: must be the address/,
  },
  { when: "a name is bad", guest: { guest: "Web/1" }, says: /guests\[0\]\.guest: must be the name .* found "Web\/1"/ },
  {
    when: "a disk path is relative",
    guest: { disks: [{ id: "a", path: "x.raw" }] },
    says: /disks\[0\]\.path: must be .*absolute path/,
  },
  {
    when: "the args hold -incoming",
    guest: { qemu: { ...calm.qemu, args: ["-incoming", "defer"] } },
    says: /qemu\.args\[0\]: remove -incoming: the agent adds it/,
  },
  {
    when: "the args hold --daemonize",
    guest: { qemu: { ...calm.qemu, args: ["-m", "1", "--daemonize"] } },
    says: /qemu\.args\[2\]: remove --daemonize/,
  },
  {
    when: "a field of the contract is misspelt",
    guest: { checkpoint: { maxLatencyMs: 9 } },
    says: /checkpoint\.maxLatencyMs: no such field; remove it or correct/,
  },
  {
    when: "the intervals cross",
    guest: { checkpoint: { minIntervalMs: 9, maxIntervalMs: 8 } },
    says: /checkpoint\.minIntervalMs: must not be greater/,
  },
  {
    when: "two disks are one",
    guest: { disks: [1, 2].map((n) => ({ id: `d${n}`, path: "/d" })) },
    says: /disks\[1\]\.path: \/d stands here twice/,
  },
  {
    when: "two guests share a port",
    file: { guests: [calm, { ...calm, guest: "mail" }] },
    says: /guests\[1\]\.port: 7100 stands here twice/,
  },
  {
    when: "a guest is named like a socket",
    guest: { guest: "agent.sock" },
    says: /guests\[0\]\.guest: must not end in \.sock/,
  },
  {
    when: "the mode is unknown",
    guest: { mode: "Fast" },
    says: /guests\[0\]\.mode: must be the level of availability, FaultTolerant or HighAvailability, found "Fast"/,
  },
  {
    when: "the file is empty",
    file: null,
    says: /\(whole file\): must be an object with the field guests, found null/,
  },
])("$when => a line that names it", ({ guest, file, says }) => {
  const parse = (): unknown =>
    parseAssignments(file === undefined ? { guests: [{ ...calm, ...guest }] } : file, "a.yaml");
  expect(parse).toThrow(InputFailure);
  expect(parse).toThrow(says);
});

test("all mistakes are told at once", () => {
  const parse = (): unknown =>
    parseAssignments({ guests: [{ ...calm, port: 0, tracker: "magic" }], more: 1 }, "a.yaml");
  expect(parse).toThrow(/a\.yaml has 3 mistakes/);
});
