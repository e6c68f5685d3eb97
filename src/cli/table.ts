/** Tables as kubectl writes them: upper-case heads, columns as wide as their widest cell, three blanks between. */
import { type Paint, plainPaint } from "./paint.ts";

export type Column<Row> = {
  readonly head: string;
  readonly cell: (row: Row) => string;
  /** How the cell is coloured, where there are colours. */
  readonly paint?: (row: Row) => keyof Paint | undefined;
};

export type TableStyle = {
  readonly paint?: Paint;
  readonly headless?: boolean;
  /** Widths from an earlier part of the same table, so that rows that come later stand below the first ones. */
  readonly widths?: readonly number[];
};

const GAP = "   ";

/** Lines without blanks at their ends; none at all when there is nothing to show. */
export function writeTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  style: TableStyle = {},
): readonly string[] {
  const { paint = plainPaint } = style;
  const widths = measureTable(columns, rows, style.widths);
  const body = rows.map((row) =>
    writeLine(
      columns.map((column) => ({ text: oneLine(column.cell(row)), colour: column.paint?.(row) })),
      widths,
      paint,
    ),
  );
  const heads = writeLine(
    columns.map(({ head }) => ({ text: head, colour: "strong" as const })),
    widths,
    paint,
  );
  return style.headless === true ? body : [heads, ...body];
}

/** The width of each column: of the widest cell, or of what it was before if that was wider. */
export function measureTable<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  before: readonly number[] = [],
): readonly number[] {
  return columns.map(({ head, cell }, index) =>
    Math.max(before[index] ?? 0, head.length, ...rows.map((row) => oneLine(cell(row)).length)),
  );
}

type Cell = { readonly text: string; readonly colour: keyof Paint | undefined };

function writeLine(cells: readonly Cell[], widths: readonly number[], paint: Paint): string {
  const last = cells.findLastIndex(({ text }) => text !== "");
  return cells
    .slice(0, last + 1)
    .map(({ text, colour }, index) => {
      const painted = colour === undefined ? text : paint[colour](text);
      return index === last ? painted : painted + " ".repeat((widths[index] ?? 0) - text.length);
    })
    .join(GAP);
}

/** Text of others' making may hold anything; a line break or an escape would break the table, or the terminal. */
export function oneLine(text: string): string {
  return text.replaceAll(/\s*[\r\n]+\s*/g, " ").replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, "");
}
