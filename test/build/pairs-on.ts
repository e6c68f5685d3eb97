/** GuestPairs for whoever asks which guests are on a node. */
import { type ShownPair } from "../../src/cli/protected-vms.ts";
import { buildReport } from "./engine-report.ts";
import { buildReportedSide } from "./guest-pair-rows.ts";
import { buildGuestPair, buildSide } from "./resources.ts";

export type PairOn = {
  readonly nodes?: readonly [string, string];
  /** Nobody says so when it is left out. */
  readonly runsOn?: string;
  readonly isInSync?: boolean;
  /** It shut itself down. */
  readonly rests?: boolean;
  readonly settledFor?: string;
};

export function buildPairOn(name: string, given: PairOn): ShownPair {
  const { nodes = ["node-a", "node-b"], runsOn, isInSync = true, rests = false, settledFor } = given;
  const reports = nodes.map((node) => {
    const role = node === runsOn ? "primary" : "standby";
    const status = isInSync ? "True" : "False";
    const conditions = [{ type: "InSync", status, reason: "Protected", message: "" }] as const;
    const report = { role, primaryNode: runsOn ?? "", conditions: role === "primary" ? [...conditions] : [] } as const;
    const side = buildReportedSide(node, buildReport(report));
    return rests ? { ...side, role: "ended" } : side;
  });
  const pair = buildGuestPair({ sides: nodes.map((node) => buildSide(node)) }, { sides: reports });
  const annotations = {
    "twinrun.dev/protected-vm": `shop/${name}`,
    ...(settledFor === undefined ? {} : { "twinrun.dev/settled-for": settledFor }),
  };
  return { ...pair, metadata: { name: `${name}-0a1b2c3d`, namespace: "twinrun", annotations } };
}
