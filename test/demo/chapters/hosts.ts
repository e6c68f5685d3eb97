/**
 * `make demo CHAPTER=hosts`: two hosts, a quorum and a client in namespaces of this machine, two guests that survive what is done to
 * them, and at the end a table of what their clients saw. Exit status 1 when a client saw anything wrong, or an act did not end.
 *
 *   node test/demo/chapters/hosts.ts [--measure SECONDS] [--keep-logs DIRECTORY] [--traces DIRECTORY] [--json FILE]
 */
import { rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { checkTraces, createCluster, type TraceVerdict } from "../../lab/cluster.ts";
import { withLab, type Lab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import { isFlawless, sumVerdicts } from "../../lab/load.ts";
import { placeGuest } from "../../lab/placement.ts";
import { Narrator } from "../narrator.ts";
import { Story, type StoryResult } from "../story.ts";

/** `make traces` looks there. */
const tracesOfDemo = join(import.meta.dirname, "../../../build/demo");
const narrator = new Narrator();
const say = (line: string): void => {
  narrator.say(line);
};
const { values: flags } = parseArgs({
  options: {
    measure: { type: "string", default: "8" },
    "keep-logs": { type: "string" },
    json: { type: "string" },
    traces: { type: "string" },
  },
});

async function runDemo(lab: Lab): Promise<boolean> {
  const [busybox, debian] = [await provideImage("busybox", say), await provideImage("debian", say)];
  const shop = placeGuest(lab, { name: "shop", kind: "debian", image: debian, index: 0 }, "a");
  const counter = placeGuest(lab, { name: "counter", kind: "busybox", image: busybox, index: 1 }, "a");
  const traceDirectory = resolve(flags.traces ?? tracesOfDemo);
  if (flags.traces === undefined) {
    rmSync(traceDirectory, { recursive: true, force: true });
  }
  const cluster = await createCluster(lab, { guests: [shop, counter], firstPrimary: "a", traceDirectory });
  const story = new Story({ cluster, shop, counter, narrator, measureMs: 1000 * Number(flags.measure) });
  try {
    const result = await story.tell();
    await cluster.stop();
    const traces = await checkTraces(traceDirectory);
    printResult(result, traces);
    if (flags.json !== undefined) {
      writeFileSync(flags.json, JSON.stringify(result, null, 2));
    }
    return isGood(result) && traces.accepted;
  } catch (cause) {
    narrator.warn(`the demo stopped: ${cause instanceof Error ? cause.message : String(cause)}`);
    return false;
  } finally {
    if (flags["keep-logs"] !== undefined) {
      cluster.saveLogs(flags["keep-logs"]);
      narrator.say(`logs are in ${flags["keep-logs"]}`);
    }
  }
}

function isGood({ witnesses, underFire, alone, protected: guarded, differingBlocks }: StoryResult): boolean {
  const runs = [underFire, alone.pgbench, guarded.pgbench];
  return (
    isFlawless(sumVerdicts(witnesses)) &&
    runs.every(({ lostCount, failedCount, sumsAgree }) => lostCount === 0 && failedCount === 0 && sumsAgree) &&
    differingBlocks.every(({ count }) => count === 0)
  );
}

function printResult(result: StoryResult, traces: TraceVerdict): void {
  const verdicts = sumVerdicts(result.witnesses);
  const { alone, protected: guarded, underFire } = result;
  narrator.table("What the clients saw", [
    ["connections opened / survived", `${verdicts.connections} / ${verdicts.survived}`],
    ["replies, each checked", String(verdicts.replies)],
    ["lost / duplicated / reordered", `${verdicts.lost} / ${verdicts.duplicated} / ${verdicts.reordered}`],
    ["connections broken / wrong answers", `${verdicts.broken} / ${verdicts.wrong}`],
    ["transactions lost (pgbench through kill -9)", `${underFire.lostCount} of ${underFire.transactionsCount}`],
    ["accounts, tellers, branches, history", underFire.sumsAgree ? "agree" : "DISAGREE"],
    ...result.differingBlocks.map(
      ({ disk, count }) => [`disk ${disk}, A against B`, count === 0 ? "equal" : `${count} blocks DIFFER`] as const,
    ),
    ["every step of the engines, replayed in the model", traces.accepted ? "accepted" : "REFUSED"],
  ]);
  narrator.table(
    "What happened to the guests",
    result.incidents.map(({ what, guest, takeover, clientWaitMs }) => [
      `${what}, ${guest}`,
      (takeover === undefined
        ? "no takeover needed"
        : `runs elsewhere after ${takeover.totalMs} ms, ${takeover.detectionMs} ms of it to notice`) +
        `; longest wait of a client ${clientWaitMs === 0 ? "below 100" : clientWaitMs.toFixed(0)} ms`,
    ]),
  );
  narrator.table("What protection costs", [
    compare("synced request, 1 client (per s)", alone.synced.perSecond, guarded.synced.perSecond),
    ["  p50 latency", `${alone.synced.latency.p50Ms} ms alone, ${guarded.synced.latency.p50Ms} ms protected`],
    compare("redis SET, 50 clients (per s)", alone.redis.perSecond, guarded.redis.perSecond),
    compare("pgbench, 2 clients (tps)", alone.pgbench.tps, guarded.pgbench.tps),
    ...result.added.map(
      ({ guest, p50Ms, p99Ms }) =>
        [
          `added latency, ${guest}`,
          `${p50Ms.toFixed(1)} ms p50, ${p99Ms.toFixed(1)} ms p99 (engine's figure)`,
        ] as const,
    ),
  ]);
  for (const line of traces.accepted ? [] : traces.lines.slice(0, 20)) {
    narrator.warn(line);
  }
  for (const { name, guest, result: outcome } of result.witnesses) {
    for (const fault of outcome.faults) {
      narrator.warn(`${guest}, ${name}, connection ${fault.connection}: ${fault.kind}: ${fault.detail}`);
    }
  }
}

function compare(name: string, alone: number, guarded: number): readonly [string, string] {
  const share = alone === 0 ? "-" : `${((100 * guarded) / alone).toFixed(0)} %`;
  return [name, `${alone.toFixed(1)} alone, ${guarded.toFixed(1)} protected (${share})`];
}

const isFine = await withLab({ say }, runDemo);
narrator.say(isFine ? "the demo went well" : "the demo FAILED");
process.exitCode = isFine ? 0 : 1;
