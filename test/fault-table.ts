/**
 * The faults that Twinrun promises to survive, what it answers to each, and the tests that prove it: printed by a run of the tests
 * with what came of them. A test is named by the beginning or the whole of its name, with the groups it is in.
 */
export type SeenTest = { readonly name: string; readonly status: "passed" | "failed" | "skipped" };

export type FaultRow = { readonly fault: string; readonly answer: string; readonly tests: readonly string[] };

export type Verdict = "pass" | "FAIL" | "not run";

export const faultTable: readonly FaultRow[] = [
  {
    fault: "the primary's QEMU dies, or is told to end",
    answer: "its agent tells the standby at once; takeover",
    tests: [
      "a QEMU that is told to end loses its clients nothing",
      "a power button that is pressed on a protected guest",
    ],
  },
  {
    fault: "the primary's node, agent or link is silent",
    answer: "missed heartbeats on every link, quorum, takeover",
    tests: [
      "on a cluster the primary's node loses power",
      "on a cluster the kubelet of the primary's node is stopped",
      "a guest that is taken over while it boots comes up on the other host",
    ],
  },
  {
    fault: "the standby is lost",
    answer: "the quorum's grant, alone, a new standby, resync",
    tests: [
      "on a cluster the standby's node loses power",
      "on a cluster the standby's VirtualMachineInstance is deleted by hand",
    ],
  },
  {
    fault: "the standby's volume is full",
    answer: "marked stale and reported, resynced when there is room",
    tests: ["a full volume of the standby costs protection, nothing else"],
  },
  {
    fault: "a disk under the primary fails, hangs, or becomes slow",
    answer: "the guest never sees it: it goes on at the other side; slowness is said",
    tests: [
      "the primary's disk fails a write",
      "the primary's disk fails a read",
      "the primary's disk hangs",
      "the primary's disk becomes slow",
    ],
  },
  {
    fault: "a disk under the standby fails or hangs",
    answer: "marked stale and reported, tried again with growing pauses, resynced",
    tests: ["the standby's disk fails", "the standby's disk hangs"],
  },
  {
    fault: "the disks of both sides fail",
    answer: "the guest stands still, says so, and goes on by itself",
    tests: ["both disks fail, the primary's volume is full"],
  },
  {
    fault: "the primary's way to the clients is lost",
    answer: "planned hand-over to the host whose network works",
    tests: ["a guest whose clients cannot reach it any more moves to the other host"],
  },
  {
    fault: "one replication link of several is lost",
    answer: "the session goes on over another, protected all the time",
    tests: ["a guest that loses one replication link after the other stays protected"],
  },
  {
    fault: "the replication links are cut, both sides alive",
    answer: "the quorum decides once; the loser stops",
    tests: [
      "on a cluster both replication links between the nodes are cut",
      "the rules over the wire of both sides asking at once on one version exactly one is granted",
    ],
  },
  {
    fault: "the quorum is lost",
    answer: "the pair goes on, failover frozen; from the start: nobody starts",
    tests: [
      "on a cluster all replicas of the quorum service are killed",
      "without a quorum the guest waits, and with the quorum it starts once",
    ],
  },
  {
    fault: "the API server is lost, then the primary's node",
    answer: "takeover without it",
    tests: ["on a cluster the API server is away, and then the primary's node loses power"],
  },
  {
    fault: "the agent or the operator dies, a node is drained",
    answer: "no interruption; hand-over first",
    tests: [
      "on a cluster the agent of the standby is killed",
      "on a cluster both operators are killed",
      "on a cluster the primary's node is drained",
    ],
  },
];

/** What came of the tests of a row; in a whole run one that nobody has seen, not even skipped, is a failure as well. */
export function judgeFault({ tests }: FaultRow, seen: readonly SeenTest[], isWhole: boolean): Verdict {
  const found = tests.map((name) => seen.filter((test) => test.name.startsWith(name)));
  const isMissing = found.some((each) => each.length === 0);
  if (found.flat().some(({ status }) => status === "failed") || (isMissing && isWhole)) {
    return "FAIL";
  }
  return isMissing || found.flat().some(({ status }) => status === "skipped") ? "not run" : "pass";
}
