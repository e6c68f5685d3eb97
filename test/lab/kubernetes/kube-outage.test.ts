/** src/kube when the API server is away, silent, restarted or has forgotten; and who leads meanwhile. */
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from "@jest/globals";
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Cluster } from "../../../src/kube/cluster.ts";
import { type ElectionTiming } from "../../../src/kube/election-state.ts";
import { kindOf, type KubeObject, type ObjectRef } from "../../../src/kube/kube-object.ts";
import { type ElectionEnd, LeaderElection } from "../../../src/kube/leader-election.ts";
import { Reflector, type ReflectorTiming } from "../../../src/kube/reflector.ts";
import { present } from "../../../src/lib/assert.ts";
import { openSwallower, type Swallower } from "../../quorum/swallower.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { describeWith } from "./describe-with.ts";

const startMsMax = 180_000;
const configMaps = kindOf("v1", "ConfigMap");
const configMap = (name: string): KubeObject => ({
  ...{ apiVersion: "v1", kind: "ConfigMap" },
  metadata: { name, namespace: "default" },
});
const refOf = (name: string): ObjectRef => ({ kind: configMaps, namespace: "default", name });

async function until(holds: () => boolean): Promise<void> {
  for (const fromMs = performance.now(); !holds();) {
    expect(performance.now() - fromMs).toBeLessThan(60_000);
    await sleep(10);
  }
}

let plane: ControlPlane;
/** Not concerned by what happens to the swallower. */
let direct: Cluster;

describeWith(["etcd", "kube-apiserver"], import.meta.filename)("with a real API server", () => {
  beforeAll(async () => {
    plane = await startControlPlane();
    direct = Cluster.fromKubeconfig(plane.kubeconfigPath);
  }, startMsMax);

  afterAll(async () => {
    (direct as Cluster | undefined)?.close();
    await (plane as ControlPlane | undefined)?.stop();
  }, startMsMax);

  const restartApiServer = async (): Promise<void> => {
    await plane.kill("kube-apiserver");
    plane.start("kube-apiserver");
    await plane.waitUntilReady();
  };

  describe("a reflector", () => {
    let way: Swallower;
    let cluster: Cluster;
    let reflector: Reflector<KubeObject> | undefined;
    const changes: string[] = [];

    const follow = async (timing: Partial<ReflectorTiming> = {}): Promise<Reflector<KubeObject>> => {
      const made = new Reflector<KubeObject>({
        ...{ cluster, kind: configMaps, scope: { namespace: "default" } },
        timing: { backoffMaxMs: 500, answerMs: 2_000, ...timing },
      });
      made.onChange(({ key, before, after }) => {
        const what = before === undefined ? "made" : after === undefined ? "gone" : "changed";
        changes.push(`${key.replace("default/", "")} ${what}`);
      });
      made.start();
      await made.synced();
      changes.length = 0;
      reflector = made;
      return made;
    };

    beforeEach(async () => {
      way = await openSwallower(plane.url);
      const path = join(plane.kubeconfigPath, "../swallowed.kubeconfig");
      writeFileSync(path, readFileSync(plane.kubeconfigPath, "utf8").replace(plane.url, way.url));
      cluster = Cluster.fromKubeconfig(path);
      await direct.create(configMap("kept"));
    });

    afterEach(async () => {
      await reflector?.stop();
      cluster.close();
      way.close();
      for (const { metadata } of (await direct.list(configMaps, { namespace: "default" })).items) {
        await direct.remove(refOf(metadata.name));
      }
    });

    test("goes on from where it was after the connection was cut, without listing again", async () => {
      const { listedCount } = await follow();
      way.swallow = true;
      await direct.create(configMap("meanwhile"));
      await sleep(1_500);
      expect(changes).toEqual([]);
      way.swallow = false;
      await until(() => changes.length > 0);
      expect(changes).toEqual(["meanwhile made"]);
      expect(present(reflector, "reflector").listedCount).toBe(listedCount);
    });

    test("finds a connection that is silently dead", async () => {
      await follow({ silenceMs: 1_000 });
      way.freeze();
      await direct.remove(refOf("kept"));
      await until(() => changes.length > 0);
      expect(changes).toEqual(["kept gone"]);
      expect(present(reflector, "reflector").listedCount).toBe(1);
    });

    test(
      "after a restart of the API server has what there is, and tells it",
      async () => {
        await follow();
        await restartApiServer();
        await direct.create(configMap("after"));
        await until(() => changes.includes("after made"));
        expect(changes).toEqual(["after made"]);
      },
      startMsMax,
    );

    test(
      "lists again when the server has forgotten, and tells the differences, deletions too",
      async () => {
        await follow();
        const replaced = await direct.create(configMap("replaced"));
        await until(() => changes.includes("replaced made"));
        changes.length = 0;
        way.swallow = true;
        await direct.remove(refOf("kept"));
        await direct.remove(refOf("replaced"));
        await direct.create(configMap("replaced"));
        await direct.create(configMap("new"));
        // Its memory of events begins with its start.
        await restartApiServer();
        await sleep(500);
        way.swallow = false;
        await until(() => changes.length === 3);
        expect([...changes].sort()).toEqual(["kept gone", "new made", "replaced changed"]);
        const { listedCount } = present(reflector, "reflector");
        expect(listedCount).toBe(2);
        expect(reflector?.get("default/replaced")?.metadata.uid).not.toBe(replaced.metadata.uid);
        await direct.create(configMap("last"));
        await until(() => changes.includes("last made"));
      },
      startMsMax,
    );

    test("waits for a server that is not there yet, and can be stopped while it waits", async () => {
      way.swallow = true;
      const waiting = new Reflector<KubeObject>({ cluster, kind: configMaps });
      waiting.start();
      await sleep(300);
      expect(waiting.isSynced).toBe(false);
      await waiting.stop();
      await waiting.synced();
      way.swallow = false;
      expect((await follow()).isSynced).toBe(true);
    });
  });

  describe("two candidates", () => {
    const timing: ElectionTiming = { leaseMs: 3_000, renewMs: 2_000, retryMs: 200 };
    type Said = { readonly atMs: number; readonly isLeading: boolean };
    type Candidate = { readonly child: ChildProcess; readonly said: Said[]; readonly ended: Promise<unknown> };
    const candidates: Candidate[] = [];

    const start = (identity: string): Candidate => {
      const program = new URL("elector.ts", import.meta.url).pathname;
      const args = [program, plane.kubeconfigPath, identity, JSON.stringify(timing)];
      const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
      const said: Said[] = [];
      let rest = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        const lines = `${rest}${text}`.split("\n");
        rest = lines.pop() ?? "";
        said.push(...lines.map((line) => JSON.parse(line) as Said));
      });
      const candidate = { child, said, ended: new Promise((resolve) => child.once("close", resolve)) };
      candidates.push(candidate);
      return candidate;
    };
    const leads = ({ said }: Candidate): boolean => said.at(-1)?.isLeading === true;
    const timesOf = ({ said }: Candidate): number[] =>
      said.filter(({ isLeading }) => isLeading).map(({ atMs }) => atMs);

    afterEach(async () => {
      for (const { child, ended } of candidates.splice(0)) {
        child.kill("SIGKILL");
        await ended;
      }
      await direct.remove({ kind: kindOf("coordination.k8s.io/v1", "Lease"), namespace: "default", name: "elected" });
    });

    test("never lead both; the second one leads when the first was killed", async () => {
      const one = start("one");
      await until(() => leads(one));
      const other = start("other");
      await sleep(timing.leaseMs + 1_000);
      expect(timesOf(other)).toEqual([]);
      one.child.kill("SIGKILL");
      await one.ended;
      await until(() => leads(other));
      const gapMs = present(timesOf(other)[0], "time") - present(timesOf(one).at(-1), "time");
      expect(gapMs).toBeGreaterThan(timing.leaseMs - timing.renewMs);
      expect(gapMs).toBeLessThan(timing.leaseMs + 3_000);
    });

    test("change places at once when the first one ends in order", async () => {
      const one = start("one");
      await until(() => leads(one));
      const other = start("other");
      await sleep(1_000);
      one.child.kill("SIGTERM");
      await until(() => leads(other));
      const gapMs = present(timesOf(other)[0], "time") - present(timesOf(one).at(-1), "time");
      expect(gapMs).toBeGreaterThan(0);
      expect(gapMs).toBeLessThan(timing.leaseMs);
      await one.ended;
      expect(one.said.at(-1)).toEqual({ end: "stopped" });
    });

    test("one that was frozen knows at its first look that it leads no more", async () => {
      const one = start("one");
      await until(() => leads(one));
      const other = start("other");
      await sleep(500);
      one.child.kill("SIGSTOP");
      await until(() => leads(other));
      const sinceMs = present(timesOf(other)[0], "time");
      one.child.kill("SIGCONT");
      await one.ended;
      expect(timesOf(one).filter((atMs) => atMs >= sinceMs)).toEqual([]);
      expect(one.said.at(-1)).toEqual({ end: "lost" });
      expect(leads(other)).toBe(true);
    });

    test(
      "an API server that is away ends leadership in time, and somebody leads after it",
      async () => {
        const stop = new AbortController();
        const election = new LeaderElection({
          ...{ cluster: direct, namespace: "default", name: "elected", identity: "here", timing },
        });
        let lostAfterMs = NaN;
        const end: Promise<ElectionEnd> = election.run(async ({ signal, isCertain }) => {
          await plane.kill("kube-apiserver");
          const fromMs = performance.now();
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          lostAfterMs = performance.now() - fromMs;
          expect(isCertain()).toBe(false);
        }, stop.signal);
        expect(await end).toBe("lost");
        expect(lostAfterMs).toBeLessThan(timing.renewMs + 500);
        expect(lostAfterMs).toBeGreaterThan(timing.renewMs - timing.retryMs - 500);
        const other = start("other");
        await sleep(500);
        plane.start("kube-apiserver");
        await plane.waitUntilReady();
        await until(() => leads(other));
      },
      startMsMax,
    );
  });
});
