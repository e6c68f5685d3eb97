import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { present } from "../../../src/lib/assert.ts";
import { type LabRecord, removeDeadLabs, removeLeftovers, writeLabRecord } from "../hosts.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { busyboxImage } from "./image-store.ts";
import { findRemedy, type ProgramName } from "./programs.ts";

const startMsMax = 180_000;

/** Skipped with the way to mend it where the programs are missing. */
function describeWith(names: readonly ProgramName[]): typeof describe | typeof describe.skip {
  const remedy = findRemedy(names);
  if (remedy !== undefined) {
    process.stderr.write(`SKIPPED in test/lab/kubernetes/control-plane.test.ts: ${remedy}\n`);
  }
  return remedy === undefined ? describe : describe.skip;
}

/** The programs of the control plane that has this directory: they were started in it. */
const listProcesses = (directory: string): string[] =>
  readdirSync("/proc").filter((name) => {
    try {
      return /^[0-9]+$/.test(name) && readlinkSync(`/proc/${name}/cwd`) === directory;
    } catch {
      return false; // It ended while we looked.
    }
  });

async function waitUntil(holds: () => boolean): Promise<void> {
  for (let waitedMs = 0; !holds(); waitedMs += 20) {
    expect(waitedMs).toBeLessThan(10_000);
    await sleep(20);
  }
}

describeWith(["etcd", "kube-apiserver"])("a control plane on loopback", () => {
  test(
    "serves whoever has its certificate, and stop leaves nothing",
    async () => {
      const plane = await startControlPlane();
      const directory = present(/^.*(?=[/])/.exec(plane.kubeconfigPath)?.[0], "directory");
      try {
        expect(await plane.admin.send("GET", "/readyz")).toEqual({ status: 200, body: "ok" });
        expect(listProcesses(directory)).toHaveLength(2);
        const other = plane.clientOf(await plane.authority.issue({ name: "other", subject: "/CN=other" }));
        expect(await other.send("GET", "/api/v1/nodes")).toMatchObject({ status: 403 });
        other.close();
      } finally {
        await plane.stop();
      }
      expect(listProcesses(directory)).toEqual([]);
      expect(existsSync(directory)).toBe(false);
    },
    startMsMax,
  );

  test(
    "a test that is killed takes the programs with it; its directory goes when the next one starts",
    async () => {
      const script = `
        const { startControlPlane } = await import("${new URL("control-plane.ts", import.meta.url).pathname}");
        console.log((await startControlPlane()).kubeconfigPath);
        setInterval(() => undefined, 1_000);`;
      const run = spawn(process.execPath, ["--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = new Promise((resolve) => run.once("exit", resolve));
      let said = "";
      run.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
      let directory = "";
      try {
        while (!said.includes("\n") && run.exitCode === null) {
          await sleep(50);
        }
        directory = present(/^.*(?=[/])/.exec(said)?.[0], "directory");
        expect(listProcesses(directory)).toHaveLength(2);
      } finally {
        run.kill("SIGKILL");
        await ended;
      }
      await waitUntil(() => listProcesses(directory).length === 0);
      expect(existsSync(directory)).toBe(true);
      await removeDeadLabs();
      expect(existsSync(directory)).toBe(false);
    },
    startMsMax,
  );
});

describeWith(["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"])(
  "a whole control plane in a network namespace",
  () => {
    const id = `tr${process.pid.toString(36)}-plane`;
    let record: LabRecord;
    let plane: ControlPlane | undefined;

    beforeAll(() => {
      record = writeLabRecord(id, { namespaces: [id], directories: [] });
    });

    afterAll(async () => {
      await plane?.stop();
      await removeLeftovers(record);
    }, startMsMax);

    test(
      "is reached at its address, and its controllers and scheduler work",
      async () => {
        const [outside, inside] = ["10.78.255.1", "10.78.255.2"];
        for (const line of [
          `netns add ${id}`,
          `-netns ${id} link set lo up`,
          `link add ${id.slice(0, 15)} type veth peer name eth0 netns ${id}`,
          `address add ${outside}/30 dev ${id.slice(0, 15)}`,
          `link set ${id.slice(0, 15)} up`,
          `-netns ${id} address add ${inside}/30 dev eth0`,
          `-netns ${id} link set eth0 up`,
        ]) {
          expect(spawnSync("ip", line.split(" "), { encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
        }
        plane = await startControlPlane({
          namespace: id,
          address: inside,
          with: ["kube-controller-manager", "kube-scheduler"],
        });
        expect(plane.url).toBe(`https://${inside}:6443`);
        const pod = { spec: { containers: [{ name: "a", image: busyboxImage }] } };
        const deployment = {
          metadata: { name: "a" },
          spec: {
            selector: { matchLabels: { app: "a" } },
            template: { metadata: { labels: { app: "a" } }, ...pod },
          },
        };
        const path = "/apis/apps/v1/namespaces/default/deployments";
        expect(await plane.admin.send("POST", path, { body: deployment })).toMatchObject({ status: 201 });
        // There is no node; that it says so shows that both did their part.
        expect(await waitForUnschedulable(plane)).toContain("no nodes available");
      },
      startMsMax,
    );
  },
);

async function waitForUnschedulable(plane: ControlPlane): Promise<string> {
  for (;;) {
    const { body } = await plane.admin.send("GET", "/api/v1/namespaces/default/pods");
    const { items } = body as { items: { status: { conditions?: { type: string; message?: string }[] } }[] };
    const message = items.flatMap(({ status }) => status.conditions ?? []).find(({ type }) => type === "PodScheduled");
    if (message?.message !== undefined) {
      return message.message;
    }
    await sleep(50);
  }
}
