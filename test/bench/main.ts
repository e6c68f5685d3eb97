/**
 * `make bench JSON=FILE`: every figure that Twinrun promises, against its target, measured in one run on the lab.
 *
 *   node test/bench/main.ts [--json FILE] [--only PART,...] [--quick]
 *
 * FILE gets an array of rows (test/bench/row.ts), the folder FILE.samples beside it the samples each was made from. A target
 * that is not met is shown as such and does not change the exit status; a client that saw a fault does.
 * --quick shortens everything to try the benchmark itself: its figures are worth nothing.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { provideImage } from "../lab/images.ts";
import { Bench } from "./bench.ts";
import { measureCluster } from "./cluster.ts";
import { measureDatabase } from "./database.ts";
import { measureNeighbour } from "./neighbour.ts";
import { measureOperator } from "./operator.ts";
import { measureProcessor } from "./processor.ts";
import { type ProcessorShares } from "./processor-time.ts";
import { measureRequestReply } from "./request-reply.ts";
import { measureResync } from "./resync.ts";
import { formatTable, type Figure } from "./row.ts";
import { measureCrowd, measureIdle } from "./standing.ts";
import { measureSwitchovers } from "./switchover.ts";
import { measureTakeovers } from "./takeover.ts";

const parts: Readonly<Record<string, (bench: Bench) => Promise<Figure[]>>> = {
  "request-reply": measureRequestReply,
  database: measureDatabase,
  processor: measureProcessor,
  neighbour: measureNeighbour,
  takeover: measureTakeovers,
  switchover: measureSwitchovers,
  resync: measureResync,
  idle: measureIdle,
  crowd: measureCrowd,
  operator: measureOperator,
  cluster: measureCluster,
};

const { values: flags } = parseArgs({
  options: {
    json: { type: "string", default: "build/bench.json" },
    only: { type: "string", default: "" },
    quick: { type: "boolean", default: false },
  },
});

/** Of a core, taken by programs outside of the lab: more than that and a figure is not worth much. */
const disturbingPercent = 10;

const startedAtMs = Date.now();
const say = (line: string): void => {
  process.stdout.write(`[${((Date.now() - startedAtMs) / 1000).toFixed(0).padStart(5)} s] ${line}\n`);
};

function chooseParts(): readonly string[] {
  const chosen = flags.only === "" ? Object.keys(parts) : flags.only.split(",");
  const unknown = chosen.find((name) => !Object.hasOwn(parts, name));
  if (unknown !== undefined) {
    process.stderr.write(`there is no part ${unknown}: ${Object.keys(parts).join(", ")}\n`);
    process.exit(2);
  }
  return chosen;
}

/** Written after each part: a part that fails later takes nothing away. */
function writeFigures(figures: readonly Figure[]): void {
  const samples = `${flags.json.replace(/[.]json$/, "")}.samples`;
  mkdirSync(dirname(flags.json), { recursive: true });
  rmSync(samples, { recursive: true, force: true });
  mkdirSync(samples);
  for (const figure of figures) {
    const name = figure.row.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
    writeFileSync(join(samples, `${name}.json`), JSON.stringify({ row: figure.row, ...figure.samples }));
  }
  writeFileSync(
    flags.json,
    `${JSON.stringify(
      figures.map(({ row }) => row),
      null,
      2,
    )}\n`,
  );
}

const chosen = chooseParts();
const images = { busybox: await provideImage("busybox", say), debian: await provideImage("debian", say) };
const bench = new Bench(images, flags.quick ? 0.2 : 1, say);
const figures: Figure[] = [];
const broken: string[] = [];
for (const name of chosen) {
  say(`== ${name}`);
  try {
    const measured = await parts[name]?.(bench);
    figures.push(...(measured ?? []));
  } catch (cause) {
    broken.push(name);
    say(`${name} could not be measured: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`);
  }
  writeFigures(figures);
}
const missed = figures.filter(({ row }) => !row.met).length;
process.stdout.write(`\n${formatTable(figures.map(({ row }) => row))}\n\n`);
say(`${figures.length} figures in ${flags.json}, ${missed} of them off their target`);
for (const { row } of figures) {
  const others = (row.detail?.["processor"] as ProcessorShares | undefined)?.["others"] ?? 0;
  if (others > disturbingPercent) {
    say(`disturbed: other programs took ${others.toFixed(0)} % of a core while this was measured: ${row.name}`);
  }
}
if (broken.length > 0) {
  say(`NOT measured: ${broken.join(", ")}`);
  process.exitCode = 1;
}
