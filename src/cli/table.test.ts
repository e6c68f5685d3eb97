import { expect, test } from "@jest/globals";
import { colourPaint, decidePaint, plainPaint } from "./paint.ts";
import { type Column, measureTable, oneLine, writeTable } from "./table.ts";

type Row = { readonly name: string; readonly state: string };
const columns: readonly Column<Row>[] = [
  { head: "NAME", cell: ({ name }) => name },
  { head: "STATE", cell: ({ state }) => state, paint: ({ state }) => (state === "up" ? "good" : undefined) },
];

test("columns stand below each other, without blanks at the ends of lines", () => {
  const rows = [
    { name: "a", state: "up" },
    { name: "longer", state: "" },
  ];
  expect(writeTable(columns, rows)).toEqual(["NAME     STATE", "a        up", "longer"]);
});

test("colours do not count for widths", () => {
  const rows = [{ name: "a", state: "up" }];
  expect(writeTable(columns, rows, { paint: colourPaint })).toEqual([
    "\u001b[1mNAME\u001b[0m   \u001b[1mSTATE\u001b[0m",
    "a      \u001b[32mup\u001b[0m",
  ]);
});

test("rows that come later keep the widths there were", () => {
  const widths = measureTable(columns, [{ name: "longer", state: "up" }]);
  expect(writeTable(columns, [{ name: "b", state: "up" }], { headless: true, widths })).toEqual(["b        up"]);
});

test("what others wrote can neither break a line nor steer the terminal", () => {
  expect(oneLine("a\n  b\u001b[31mc\u0007\r\nd")).toBe("a b[31mc d");
});

test.each([
  { when: "a terminal", isTerminal: true, environment: {}, paint: colourPaint },
  { when: "a pipe", isTerminal: false, environment: {}, paint: plainPaint },
  { when: "NO_COLOR", isTerminal: true, environment: { NO_COLOR: "1" }, paint: plainPaint },
  { when: "a dumb terminal", isTerminal: true, environment: { TERM: "dumb" }, paint: plainPaint },
])("colours on $when", ({ isTerminal, environment, paint }) => {
  expect(decidePaint(isTerminal, environment)).toBe(paint);
});
