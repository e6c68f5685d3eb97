/** What stories about guests in pods begin and end with. */
import { expect } from "@jest/globals";
import { waitForGuest } from "../lab/guest-health.ts";
import { isFlawless, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { type PodCluster } from "../lab/pod-cluster.ts";

export type PodStory = {
  readonly cluster: PodCluster;
  /** For the guest to be there, and to be protected. */
  readonly patienceMs: number;
  /** From then on. */
  readonly tell: () => Promise<void>;
};

/** Ends cluster and API server however the story does; where that is a failure everybody's last words are shown. */
export async function tellOnPods({ cluster, patienceMs, tell }: PodStory): Promise<void> {
  try {
    await cluster.start();
    await cluster.createPair();
    await waitForGuest(cluster.guest, patienceMs);
    await cluster.waitUntilProtected("a", patienceMs);
    await tell();
  } catch (error) {
    process.stderr.write(`${cluster.describe()}\n`);
    throw error;
  } finally {
    await cluster.stop();
    await cluster.plane.stop();
  }
}

/** Of the two connections of each story; how many replies there were. */
export async function expectFlawless(witnesses: Parameters<typeof stopWitnesses>[0]): Promise<number> {
  const verdict = sumVerdicts(await stopWitnesses(witnesses));
  expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
  expect(isFlawless(verdict)).toBe(true);
  return verdict.replies;
}
