/**
 * A candidate for leadership as a process of its own, for tests that kill and freeze it. Says on standard output, a line each time
 * it looks at itself, whether it leads for certain: `{"atMs":…,"isLeading":…}`; times are those of the machine's boot.
 *
 * usage: node elector.ts KUBECONFIG IDENTITY TIMING     TIMING is JSON. SIGTERM ends it in order.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Cluster } from "../../../src/kube/cluster.ts";
import { type ElectionTiming } from "../../../src/kube/election-state.ts";
import { LeaderElection } from "../../../src/kube/leader-election.ts";
import { monotonicMs } from "../../../src/telemetry/clock.ts";

const [kubeconfig = "", identity = "", timing = "{}"] = process.argv.slice(2);
const stop = new AbortController();
process.on("SIGTERM", () => {
  stop.abort();
});

const say = (isLeading: boolean): void => {
  process.stdout.write(`${JSON.stringify({ atMs: monotonicMs(), isLeading })}\n`);
};

const cluster = Cluster.fromKubeconfig(kubeconfig);
const election = new LeaderElection({
  ...{ cluster, namespace: "default", name: "elected", identity },
  timing: JSON.parse(timing) as Partial<ElectionTiming>,
});
const end = await election.run(async ({ signal, isCertain }) => {
  while (!signal.aborted) {
    say(isCertain());
    await sleep(5);
  }
}, stop.signal);
say(false);
process.stdout.write(`${JSON.stringify({ end })}\n`);
cluster.close();
