/**
 * What the operator does all the time and no more: it follows ProtectedVMs and GuestPairs, whole, and each change wakes a key of
 * a work queue. A process of its own, so that its memory is its own. Says when it has them all: `{"syncedAfterMs":…,"count":…}`,
 * from its start on, modules included; after SIGUSR2 how many keys it has worked on: `{"workedCount":…}`.
 *
 * usage: node follower.ts KUBECONFIG
 */
import { Cluster } from "../../src/kube/cluster.ts";
import { kindOf, type KubeObject } from "../../src/kube/kube-object.ts";
import { Reflector } from "../../src/kube/reflector.ts";
import { WorkQueue } from "../../src/kube/work-queue.ts";

const [kubeconfig = ""] = process.argv.slice(2);
const cluster = Cluster.fromKubeconfig(kubeconfig);
const say = (words: object): void => {
  process.stdout.write(`${JSON.stringify(words)}\n`);
};

let workedCount = 0;
const queue = new WorkQueue({
  work: () => {
    workedCount += 1;
    return Promise.resolve(undefined);
  },
});
const reflectors = ["ProtectedVM", "GuestPair"].map((kind) => {
  const reflector = new Reflector<KubeObject>({ cluster, kind: kindOf("twinrun.dev/v1alpha1", kind) });
  reflector.onChange(({ key }) => {
    queue.add(key);
  });
  reflector.start();
  return reflector;
});
process.on("SIGUSR2", () => {
  say({ workedCount });
});
await Promise.all(reflectors.map((reflector) => reflector.synced()));
queue.start();
say({
  syncedAfterMs: Math.round(performance.now()),
  count: reflectors.reduce((sum, { size }) => sum + size, 0),
});
