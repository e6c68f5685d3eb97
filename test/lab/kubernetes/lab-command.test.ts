import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { present } from "../../../src/lib/assert.ts";
import { findDebianRoot, findRemedy } from "./programs.ts";

/** The first time images are built. */
const patienceMs = 900_000;
const script = new URL("lab-command.ts", import.meta.url).pathname;
const isPossible = findRemedy(["etcd", "kube-apiserver", "kubelet", "kube-proxy", "kubectl", "helm"]) === undefined;
const describeLab = isPossible && findDebianRoot() !== undefined ? describe : describe.skip;

describeLab("a lab that stays for a person", () => {
  let directory: string;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-test-lab-"));
  });

  afterAll(() => {
    run("down");
    rmSync(directory, { recursive: true });
  }, patienceMs);

  function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], {
      ...{ encoding: "utf8", timeout: patienceMs, env: { ...process.env, TWINRUN_LAB: directory } },
    });
    return { status, stdout, stderr };
  }

  /** What a person sees who sourced the lab's environment. */
  function type(line: string): string {
    const { stdout, stderr } = spawnSync("sh", ["-c", `. ${directory}/env && ${line}`], { encoding: "utf8" });
    return stderr === "" ? stdout : `${stdout}${stderr}`;
  }

  test(
    "goes up, is told what happens, and goes down",
    () => {
      expect(run("help")).toEqual({ status: 1, stdout: "", stderr: "lab: no lab runs: make lab\n" });
      const started = run("up");
      expect(started).toMatchObject({ status: 0, stderr: "" });
      const kubeconfig = present(/KUBECONFIG is (\S+)[.] /.exec(started.stdout)?.[1], "kubeconfig");
      expect(type("kubectl get nodes -o name")).toBe("node/node-a\nnode/node-b\nnode/node-c\n");
      // Once more it is the same one.
      expect(run("up").stdout).toContain(kubeconfig);

      // The guest that it brings along becomes what it is meant to be.
      expect(type(`kubectl apply --filename ${directory}/guest.yaml`)).toBe("protectedvm.twinrun.dev/web created\n");
      const condition = "--namespace shop protectedvm/web --for condition=Ready --timeout 10m";
      expect(type(`kubectl wait ${condition}`)).toBe("protectedvm.twinrun.dev/web condition met\n");
      // On a busy machine it may have lost its standby again by now.
      expect(type("kubectl twinrun status --namespace shop")).toMatch(/^web +(True|False) +\S+ +node-/m);
      expect(type("helm list --namespace twinrun --short")).toBe("twinrun\n");

      expect(run("exec", "node-a", "hostname").stdout).toBe("node-a\n");
      expect(run("power-off", "node-a").stdout).toBe("node-a has no power\n");
      expect(run("exec", "node-a", "hostname").status).toBe(1);
      expect(run("power-on", "node-a").stdout).toBe("node-a is ready\n");
      expect(run("cut-link", "node-a", "replication", "node-b").stdout).toBe("cut: node-a replication node-b\n");
      expect(run("mend-link", "node-a", "replication", "node-b").stdout).toBe("mended: node-a replication node-b\n");
      expect(run("cut-link", "node-a", "wan").stderr).toBe(
        "lab: there is no network wan: management, replication, lan\n",
      );
      expect(run("api-outage", "1").stdout).toBe("the API server was away for 1 s\n");
      expect(run("power-off", "node-x").stderr).toBe("lab: there is no node node-x: node-a, node-b, node-c\n");

      expect(run("down")).toEqual({ status: 0, stdout: "the lab is gone\n", stderr: "" });
      expect(existsSync(dirname(kubeconfig))).toBe(false);
      expect(run("down").stdout).toBe("no lab runs\n");
    },
    patienceMs,
  );
});
