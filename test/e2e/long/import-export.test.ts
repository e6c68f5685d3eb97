/**
 * Disk images become protected guests on a cluster, and guests become disk images: what goes in comes out.
 *
 * As people do it, by `kubectl twinrun`. The guest is the lab's busybox, whose kernel the cluster has; its disk is imported.
 */
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { type ChildProcess, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { kindOf, type KubeObject, type ObjectRef } from "../../../src/kube/kube-object.ts";
import { type Json, mergeJson } from "../../../src/lib/json-merge.ts";
import { startClient } from "../../lab/clients/client-process.ts";
import { buildProtectedGuest } from "../guest-manifests.ts";
import { spawnTwinrun } from "../kubectl.ts";
import { type Platform, startPlatform, tenantNamespace } from "../platform.ts";
import { describeOnCluster, faultMsMax as testMsMax, say, setUpMsMax } from "../witness.ts";

const MIB = 2 ** 20;
const diskBytes = 192 * MIB;
/** More than goes over the connection before it is broken. */
const contentBytes = 120 * MIB;
const nodes = ["node-a", "node-b"];
const address = "10.77.0.64";
/** What is looked at here is not how fast a fault is noticed. */
const detectionTimeoutMs = 5_000;

describeOnCluster(import.meta.filename)("disk images", () => {
  let platform: Platform;
  let directory: string;
  const file = (name: string): string => join(directory, name);

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "twinrun-images-"));
    platform = await startPlatform({ store: "lease", kinds: ["busybox"], say });
    writeFileSync(file("source.raw"), randomBytes(contentBytes));
    execFileSync("truncate", ["--size", String(diskBytes), file("source.raw")]);
    qemuImg("convert", "-f", "raw", "-O", "qcow2", file("source.raw"), file("source.qcow2"));
    const guest = buildProtectedGuest({
      name: "imported",
      kind: "busybox",
      address,
      placement: { nodes },
      detectionTimeoutMs,
    });
    writeFileSync(file("booting.json"), JSON.stringify(withoutDisks(guest)));
    // Nothing in it that would write to its disk.
    writeFileSync(file("bare.json"), JSON.stringify(mergeJson(withoutDisks(guest), withoutKernel)));
  }, setUpMsMax);

  afterAll(async () => {
    await platform.stop();
    rmSync(directory, { recursive: true });
  }, testMsMax);

  type Ran = { readonly status: number | null; readonly said: string };

  function start(args: readonly string[]): { readonly child: ChildProcess; readonly ended: Promise<Ran> } {
    const child = spawnTwinrun(platform, [...args, "--namespace", tenantNamespace], { TMPDIR: directory });
    let said = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => (said += text));
    }
    const ended = new Promise<Ran>((resolve) => {
      child.once("close", (status) => {
        say(
          `kubectl twinrun ${args.slice(0, 2).join(" ")}: ${status ?? "ended"}, ${said.trim().split("\n").slice(-4).join(" / ")}`,
        );
        resolve({ status, said });
      });
    });
    return { child, ended };
  }

  async function twinrun(...args: readonly string[]): Promise<string> {
    const { status, said } = await start(args).ended;
    expect({ status, said: status === 0 ? "" : said }).toEqual({ status: 0, said: "" });
    return said;
  }

  /** On the two nodes that the template names. */
  const importAs = (name: string, image: string, template: string): readonly string[] => [
    ...["import", file(image), "--name", name, "--template", file(template), "--storage-class", "lab-local"],
  ];
  const refOf = (kind: ObjectRef["kind"], name: string): ObjectRef => ({ kind, namespace: tenantNamespace, name });
  const pods = kindOf("v1", "Pod");
  const listPods = async (): Promise<readonly string[]> =>
    (await platform.cluster.list<KubeObject>(pods, { namespace: tenantNamespace })).items
      .map(({ metadata }) => metadata.name)
      .filter((name) => name.startsWith("twinrun-volume-"));

  test(
    "an import that is broken off leaves what arrived, and goes on from there",
    async () => {
      const first = start(importAs("imported", "source.qcow2", "booting.json"));
      await untilSaid(first.child, /, (?!0 B)[0-9.]+ [MG]iB sent/);
      first.child.kill("SIGKILL");
      await first.ended;
      expect(await listPods()).toHaveLength(1);
      const said = await twinrun(...importAs("imported", "source.qcow2", "booting.json"), "--wait");
      const [, sent = "0"] = /192 MiB are there, ([0-9]+) MiB of them sent now/.exec(said) ?? [];
      expect(Number(sent)).toBeGreaterThan(0);
      expect(Number(sent)).toBeLessThan(contentBytes / MIB);
      expect(said).toContain("protected:");
      expect(await listPods()).toEqual([]);
      const client = startClient(platform.lab, "counted", {
        ...{ host: address, connectionsCount: 2, thinkMs: 20, stallMs: 60_000, connectTimeoutMs: 120_000 },
      });
      while (client.progress.repliesCount < 20) {
        expect(client.progress.faultsCount).toBe(0);
        await sleep(100);
      }
      expect((await client.stop()).faults).toEqual([]);
    },
    testMsMax,
  );

  test(
    "what is there already is not imported over",
    async () => {
      const { status, said } = await start(importAs("imported", "source.qcow2", "booting.json")).ended;
      expect(status).toBe(3);
      expect(said).toContain("there is a ProtectedVM imported");
    },
    testMsMax,
  );

  test(
    "while the guest runs, export wants --live, and then pauses it for a moment",
    async () => {
      const refused = await start(["export", "imported", "-f", file("live.qcow2")]).ended;
      expect(refused.status).toBe(3);
      expect(refused.said).toContain("--live");
      const said = await twinrun("export", "imported", "-f", file("live.qcow2"), "--live", "--yes");
      expect(said).toMatch(/the guest stood still for [0-9.]+ s/);
      expect(qemuImg("check", "-f", "qcow2", file("live.qcow2"))).toContain("No errors");
      expect(statSync(file("live.qcow2")).mode & 0o777).toBe(0o600);
      await platform.waitUntilReady("imported");
    },
    testMsMax,
  );

  test(
    "an image of another disk imports into one that is exported again with the same content",
    async () => {
      qemuImg(
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        file("source.raw"),
        file("source.vmdk"),
      );
      await twinrun(...importAs("bare", "source.vmdk", "bare.json"), "--wait");
      await twinrun("export", "bare", "-f", file("bare.ova"), "--live", "--yes");
      // As an earlier attempt at a larger disk would have left it.
      writeFileSync(file("bare.raw.disk.part"), Buffer.alloc(diskBytes + MIB, 1));
      await twinrun("export", "bare", "-f", file("bare.raw"), "--live", "--yes");
      expect(statSync(file("bare.raw")).size).toBe(diskBytes);
      const compared = qemuImg("compare", "-f", "raw", "-F", "raw", file("source.raw"), file("bare.raw"));
      expect(compared).toContain("Images are identical");
      const dry = await twinrun(...importAs("again", "bare.ova", "bare.json"), "--dry-run");
      expect(dry).toContain("checking bare-disk1.vmdk");
      execFileSync("tar", ["--extract", "--file", file("bare.ova"), "--directory", directory]);
      expect(readFileSync(file("bare.ovf"), "utf8")).toContain("64 MiB of memory");
      expect(qemuImg("compare", "-f", "raw", "-F", "vmdk", file("source.raw"), file("bare-disk1.vmdk"))).toContain(
        "identical",
      );
    },
    testMsMax,
  );

  test(
    "what was imported stays when the ProtectedVM goes",
    async () => {
      await platform.cluster.remove(refOf(kindOf("twinrun.dev/v1alpha1", "ProtectedVM"), "bare"));
      while ((await platform.readProtectedVm("bare")) !== undefined) {
        await sleep(200);
      }
      expect(await platform.cluster.read(refOf(kindOf("v1", "PersistentVolumeClaim"), "bare-disk"))).toBeDefined();
    },
    testMsMax,
  );
});

function qemuImg(...args: readonly string[]): string {
  return execFileSync("qemu-img", args, { encoding: "utf8" });
}

function untilSaid(child: ChildProcess, wanted: RegExp): Promise<void> {
  let said = "";
  return new Promise((resolve, reject) => {
    child.stderr?.on("data", (text: string) => {
      said += text;
      if (wanted.test(said)) {
        resolve();
      }
    });
    child.once("close", () => {
      reject(new Error(`it ended before it said what was waited for: ${said}`));
    });
  });
}

/** The disks are what is imported. */
function withoutDisks(guest: KubeObject): Json {
  const change = {
    template: { spec: { volumes: null, domain: { devices: { disks: null } } } },
    dataVolumeTemplates: null,
  };
  return mergeJson({ ...guest }, { spec: { virtualMachineTemplate: { spec: change } } });
}

const withoutKernel: Json = {
  spec: {
    virtualMachineTemplate: { spec: { template: { spec: { domain: { firmware: null, memory: { guest: "64Mi" } } } } } },
  },
};
