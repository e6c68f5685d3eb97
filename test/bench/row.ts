/** One figure of the benchmark against its target, and how a person reads it. */
import { round } from "../lab/clients/figures.ts";

export type Row = {
  readonly name: string;
  readonly unit: string;
  readonly p50?: number;
  readonly p99?: number;
  readonly max?: number;
  /** The same without protection, in the same run on the same machine with the same guest settings. */
  readonly unprotected?: number;
  /** The protected figure over the unprotected one; of an added latency: what was added over what there was. */
  readonly ratio?: number;
  readonly target: string;
  readonly met: boolean;
  /** What explains the figure, such as the phases of a pause. */
  readonly detail?: Readonly<Record<string, unknown>>;
};

/** A row and the samples it was made from, for the file beside it. */
export type Figure = { readonly row: Row; readonly samples: Readonly<Record<string, unknown>> };

export type Quantiles = { readonly p50: number; readonly p99: number; readonly max: number; readonly count: number };

/** Quantiles by nearest rank: p99 of fewer than 100 samples is their maximum. */
export function quantilesOf(samples: readonly number[]): Quantiles {
  const sorted = Float64Array.from(samples).sort();
  const at = (share: number): number => round(sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? NaN);
  return { p50: at(0.5), p99: at(0.99), max: at(1), count: sorted.length };
}

export const median = (samples: readonly number[]): number => quantilesOf(samples).p50;

/** A Markdown table, which is a table for people too. */
export function formatTable(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.name,
    [row.p50, row.p99, row.max].map(formatNumber).join(" / "),
    row.unit,
    formatNumber(row.unprotected),
    formatNumber(row.ratio),
    row.target,
    row.met ? "yes" : "**no**",
  ]);
  const head = ["figure", "p50 / p99 / max", "unit", "unprotected", "ratio", "target", "met"];
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((line) => line[column]?.length ?? 0)));
  const format = (line: readonly string[]): string =>
    `| ${line.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  return [format(head), format(widths.map((width) => "-".repeat(width))), ...cells.map(format)].join("\n");
}

function formatNumber(value: number | undefined): string {
  if (value === undefined) {
    return "–";
  }
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toFixed(digits);
}
