/** What doctor finds: one line for each check, with the remedy, in groups; and how that is shown. */
import { type Known } from "./kube-objects.ts";
import { oneLine } from "./table.ts";
import { type Paint } from "./paint.ts";

/**
 * ok: as it should be. note: worth knowing, nothing to do. warning: works, but less well than it could. failure: protection or a
 * failover does not work until it is mended. unknown: could not be looked at.
 */
export const LEVELS = ["ok", "note", "warning", "failure", "unknown"] as const;
export type Level = (typeof LEVELS)[number];

export type Finding = {
  readonly level: Level;
  /** The check's name, stable, for scripts. */
  readonly check: string;
  readonly message: string;
  readonly remedy?: string;
};

/** All findings about one thing: the cluster, a node, a ProtectedVM. */
export type FindingGroup = { readonly subject: string; readonly findings: readonly Finding[] };

export const ok = (check: string, message: string): Finding => ({ level: "ok", check, message });
export const note = (check: string, message: string): Finding => ({ level: "note", check, message });
export const warning = (check: string, message: string, remedy: string): Finding => ({
  ...{ level: "warning", check, message, remedy },
});
export const failure = (check: string, message: string, remedy: string): Finding => ({
  ...{ level: "failure", check, message, remedy },
});

/** The finding that something could not be looked at, where that is so. */
export function cannotTell(check: string, fact: Exclude<Known<unknown>, { tag: "known" }>, what: string): Finding {
  return fact.tag === "absent"
    ? { level: "unknown", check, message: `there is no ${what}` }
    : { level: "unknown", check, message: `${what}: ${fact.why}`, remedy: "ask as somebody who may read it" };
}

export type Counts = Readonly<Record<Level, number>>;

export function countFindings(groups: readonly FindingGroup[]): Counts {
  const findings = groups.flatMap((group) => group.findings);
  const count = (level: Level): number => findings.filter((finding) => finding.level === level).length;
  return {
    ...{ ok: count("ok"), note: count("note"), warning: count("warning") },
    ...{ failure: count("failure"), unknown: count("unknown") },
  };
}

export const hasFailure = (groups: readonly FindingGroup[]): boolean => countFindings(groups).failure > 0;

const MARKS: Readonly<Record<Level, { readonly word: string; readonly paint: keyof Paint }>> = {
  ok: { word: "ok", paint: "good" },
  note: { word: "note", paint: "faint" },
  warning: { word: "WARN", paint: "doubtful" },
  failure: { word: "FAIL", paint: "bad" },
  unknown: { word: "?", paint: "doubtful" },
};

/** Groups, one after the other, and the sum. What is well is counted instead of listed, unless all is to be shown. */
export function writeFindings(groups: readonly FindingGroup[], paint: Paint, showsAll: boolean): readonly string[] {
  return [
    ...groups.flatMap((group) => [...writeGroup(group, paint, showsAll), ""]),
    writeSum(countFindings(groups), paint),
  ];
}

function writeGroup({ subject, findings }: FindingGroup, paint: Paint, showsAll: boolean): readonly string[] {
  const shown = showsAll ? findings : findings.filter(({ level }) => level !== "ok");
  const okCount = findings.length - shown.length;
  const rest =
    okCount === 0 ? [] : [`  ${paint.good("ok".padEnd(5))} ${okCount} ${okCount === 1 ? "check" : "checks"}`];
  return [paint.strong(subject), ...shown.flatMap((finding) => writeFinding(finding, paint)), ...rest];
}

/** The message, and below it what to do. */
export function writeFinding({ level, check, message, remedy }: Finding, paint: Paint): readonly string[] {
  const { word, paint: colour } = MARKS[level];
  const lines = [`  ${paint[colour](word.padEnd(5))} ${check}: ${oneLine(message)}`];
  return remedy === undefined ? lines : [...lines, `        -> ${oneLine(remedy)}`];
}

function writeSum(counts: Counts, paint: Paint): string {
  const parts = [
    `${counts.ok} ok`,
    ...(counts.note > 0 ? [`${counts.note} to note`] : []),
    ...(counts.warning > 0 ? [paint.doubtful(`${counts.warning} to look at`)] : []),
    ...(counts.unknown > 0 ? [paint.doubtful(`${counts.unknown} unknown`)] : []),
    ...(counts.failure > 0 ? [paint.bad(`${counts.failure} to mend`)] : []),
  ];
  return parts.join(", ");
}
