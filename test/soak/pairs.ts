/**
 * Two faults at once.
 *
 * Those of `survivedPairs` must go by without a client waiting for long. Those of `heldPairs` must stop the guest safely: nobody
 * can go on by the rules, a person is told why, and when one of the two is over everything goes on, open connections included.
 */
import { otherHost, type PairHost } from "../lab/placement.ts";
import { type PlainFaultName } from "./faults.ts";

export type FaultPair = {
  readonly first: PlainFaultName;
  readonly second: PlainFaultName;
  /** The second strikes when the first has cost the guest its standby. */
  readonly whenAlone?: true;
  /** The second strikes another guest. */
  readonly onOther?: true;
};

export type HeldPair = FaultPair & {
  /** Where a person is told, given who ran the guest. */
  readonly toldBy: (primary: PairHost) => PairHost;
  readonly words: RegExp;
};

const pairOf =
  (first: PlainFaultName) =>
  (second: PlainFaultName): FaultPair => ({ first, second });

export const survivedPairs: readonly FaultPair[] = [
  ...(
    [
      ...["killPrimaryQemu", "killStandbyQemu", "killPrimaryEngine", "killPrimaryAgent", "powerOffPrimary"],
      ...["powerOffStandby", "switchOver", "failPrimaryWrites", "failStandbyWrites", "cutQuorumFromPrimary"],
      ...["pullPrimaryUplink", "isolatePrimary", "askFullResync", "lowerLevel"],
    ] as const
  ).map(pairOf("cutOneLink")),
  // The quorum sees one side only: that one goes on, whoever it is.
  ...(["killPrimaryQemu", "powerOffPrimary", "failPrimaryWrites"] as const).map(pairOf("cutQuorumFromPrimary")),
  ...(["cutBothLinks", "powerOffStandby", "failStandbyWrites", "killStandbyQemu"] as const).map(
    pairOf("cutQuorumFromStandby"),
  ),
  // Without a quorum a pair that is whole again has no need of it.
  ...(["cutBothLinksShortly", "killStandbyEngine", "slowPrimaryDisk", "cutOneLink"] as const).map(pairOf("stopQuorum")),
  ...(["killPrimaryQemu", "powerOffStandby", "cutBothLinks", "switchOver", "slowStandbyDisk"] as const).map(
    pairOf("slowPrimaryDisk"),
  ),
  ...(["killPrimaryQemu", "failPrimaryWrites", "switchOver"] as const).map(pairOf("slowStandbyDisk")),
  ...(["pullStandbyUplink", "killStandbyQemu", "failStandbyWrites"] as const).map(pairOf("pullPrimaryUplink")),
  // What is copied meanwhile is interrupted.
  ...(
    [
      "cutBothLinks",
      "killStandbyEngine",
      "killPrimaryEngine",
      "failStandbyWrites",
      "stopQuorum",
      "slowStandbyDisk",
    ] as const
  ).map(pairOf("askFullResync")),
  ...(["failStandbyReads", "hangStandbyDisk"] as const).map(pairOf("killStandbyEngine")),
  ...(["killStandbyEngine", "cutBothLinks", "killQuorum", "hangStandbyDisk"] as const).map(pairOf("switchOver")),
  // At the level below, its guest is lost with its own host or QEMU alone.
  ...(
    [
      ...["killStandbyQemu", "killStandbyEngine", "powerOffStandby", "failStandbyWrites", "switchOver"],
      ...["pullPrimaryUplink", "cutQuorumFromPrimary", "killQuorum", "isolateStandby", "askFullResync"],
    ] as const
  ).map(pairOf("lowerLevel")),
  // Guests share their hosts, links and quorum.
  ...(
    [
      ["killPrimaryQemu", "killPrimaryQemu"],
      ["killPrimaryQemu", "switchOver"],
      ["killPrimaryEngine", "killPrimaryQemu"],
      ["failPrimaryWrites", "killStandbyQemu"],
      ["askFullResync", "failPrimaryWrites"],
      ["switchOver", "switchOver"],
    ] as const
  ).map(([first, second]) => ({ first, second, onOther: true }) as const),
];

const noQuorum = /the quorum does not answer: .*no failover is possible; check the quorum service/;
const self = (primary: PairHost): PairHost => primary;

export const heldPairs: readonly HeldPair[] = [
  ...(["killPrimaryQemu", "powerOffPrimary", "failPrimaryWrites"] as const).map((second) => ({
    ...pairOf("stopQuorum")(second),
    ...{ toldBy: otherHost, words: noQuorum },
  })),
  ...(["cutBothLinks", "powerOffStandby", "failStandbyWrites"] as const).map((second) => ({
    ...pairOf("stopQuorum")(second),
    ...{ toldBy: self, words: noQuorum },
  })),
  { ...pairOf("powerOffQuorum")("cutBothLinks"), toldBy: self, words: noQuorum },
  { ...pairOf("fillQuorumVolume")("powerOffStandby"), toldBy: self, words: /the quorum does not answer: .*free space/ },
  ...(["failPrimaryWrites", "fillPrimaryVolume"] as const).map((second) => ({
    ...({ ...pairOf("failStandbyWrites")(second), whenAlone: true } as const),
    ...{ toldBy: self, words: /the guest stands still and goes on by itself once its disk works: disk disk\d+: / },
  })),
];

export const nameOfPair = ({ first, second, onOther }: FaultPair): string =>
  `${first}+${second}${onOther === true ? "@other" : ""}`;
