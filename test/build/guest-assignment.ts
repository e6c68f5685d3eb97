/** Assignments for tests: calm defaults, each test spreads one difference. */
import { type AssignmentFile } from "../../src/api/assignment-file.ts";
import { type GuestAssignment } from "../../src/protocol/assignment.ts";

export function buildAssignment(difference: Partial<GuestAssignment> = {}): GuestAssignment {
  return {
    guest: "web",
    mode: "FaultTolerant",
    peerNode: "host-b",
    firstPrimary: "host-a",
    port: 7100,
    links: [{ name: "direct", localHost: "127.0.0.1", peerHost: "127.0.0.2" }],
    disks: [],
    qemu: {
      tag: "local",
      binary: "/usr/bin/qemu-system-x86_64",
      args: ["-machine", "none"],
    },
    checkpoint: {
      maxAddedLatencyMs: 50,
      minIntervalMs: 5,
      maxIntervalMs: 1_000,
    },
    failover: { detectionTimeoutMs: 500 },
    tracker: "auto",
    ...difference,
  };
}

/** As it stands in an assignment file. */
export function encodeForFile(assignment: GuestAssignment): AssignmentFile["guests"][number] {
  const { qemu, disks } = assignment;
  if (qemu.tag !== "local") {
    throw new Error("an assignment file has local guests only");
  }
  return {
    ...assignment,
    links: [...assignment.links],
    disks: disks.flatMap((disk) => ("path" in disk ? [disk] : [])),
    qemu: { binary: qemu.binary, args: [...qemu.args] },
  };
}
