/**
 * A guest whose QEMUs are in pods, followed from its GuestPair to its release: agents that find and wait for QEMU, engines that
 * ask it for its disks and meet it in a directory of its pod, reports in the pair's status.
 */
import { expect, test } from "@jest/globals";
import { setTimeout as sleep } from "node:timers/promises";
import { withLab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { startControlPlane } from "../lab/kubernetes/control-plane.ts";
import { findRemedy } from "../lab/kubernetes/programs.ts";
import { countReplies, startWitnesses } from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";
import { createPodCluster } from "../lab/pod-cluster.ts";
import { expectFlawless, tellOnPods } from "./pod-story.ts";

const patienceMs = 480_000;

const remedy = findRemedy(["etcd", "kube-apiserver"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED test/integration/launcher-pods.test.ts: ${remedy}\n`);
}

(remedy === undefined ? test : test.skip)(
  "a guest in pods is protected, survives its primary, changes sides, and is released as it runs",
  async () => {
    await withLab({}, async (lab) => {
      const plane = await startControlPlane();
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createPodCluster(lab, plane, guest);
      const tell = async (): Promise<void> => {
        const whole = await cluster.readPair();
        expect([whole.a?.wantedShape, whole.b?.wantedShape, whole.a?.trouble]).toEqual([
          undefined,
          undefined,
          undefined,
        ]);
        expect(cluster.shapes.toSorted()).toEqual(["primary on a", "standby on b"]);
        expect(whole.a?.disks.map(({ id }) => id)).toEqual(["disk0"]);
        const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
        await sleep(2_000);

        // The primary's QEMU dies while the API server is away; the pod that takes its place comes when it is back.
        await cluster.closeApi();
        const killed = cluster.podOf("a");
        killed.process.kill("SIGKILL");
        await sleep(1_500);
        const before = countReplies(witnesses);
        await sleep(1_500);
        expect(countReplies(witnesses)).toBeGreaterThan(before);
        await cluster.openApi();
        const taken = await cluster.waitUntilProtected("b", patienceMs / 4);
        expect(taken.b).toMatchObject({
          term: 2,
          takeoversCount: 1,
          lastTakeover: { cause: "the primary's QEMU died", term: 2 },
        });
        expect(cluster.podOf("a").pid).not.toBe(killed.pid);

        // A planned change of sides, as the operator wishes it.
        await cluster.patchPair({ spec: { roles: { term: 3, primary: "host-a" } } });
        const back = await cluster.waitUntilProtected("a", patienceMs / 4);
        expect(back.a).toMatchObject({ term: 3, lastTakeover: { cause: "handed over as planned" } });

        // A failover that somebody asks for, once.
        await cluster.patchPair({ metadata: { annotations: { "twinrun.dev/failover-from": "host-a" } } });
        await cluster.waitUntilProtected("b", patienceMs / 4);
        await cluster.patchPair({ metadata: { annotations: { "twinrun.dev/failover-from": null } } });

        // An agent that starts anew finds its QEMU again.
        cluster.agents.b.kill();
        await cluster.waitUntilWhole(patienceMs / 4);

        // Released: it runs on where it is, its output open, without an engine.
        await cluster.patchPair({ spec: { intent: "Release" } });
        await cluster.waitFor(
          "the guest is released",
          ({ a, b }) => [a, b].some((side) => side?.role === "released"),
          patienceMs / 4,
        );
        const released = countReplies(witnesses);
        await sleep(2_000);
        await cluster.deletePair();
        await sleep(2_000);
        expect(await expectFlawless(witnesses)).toBeGreaterThan(released);
      };
      await tellOnPods({ cluster, patienceMs: patienceMs / 4, tell });
    });
  },
  patienceMs,
);
