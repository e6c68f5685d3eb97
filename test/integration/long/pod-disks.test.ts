/**
 * A guest on disks as KubeVirt makes them in the pod and on block volumes: an image that is qcow2, settings that are not the same
 * on the two sides and not of one size, and a block device. All of it follows the guest from side to side, and back.
 */
import { expect, test } from "@jest/globals";
import { execFileSync } from "node:child_process";
import { chownSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { compareDisks } from "../../lab/disk-comparison.ts";
import { type Lab, withLab } from "../../lab/hosts.ts";
import { provideImage } from "../../lab/images.ts";
import { startControlPlane } from "../../lab/kubernetes/control-plane.ts";
import { findRemedy } from "../../lab/kubernetes/programs.ts";
import { startWitnesses } from "../../lab/load.ts";
import { otherHost, type PairHost, pairHosts, placeGuest } from "../../lab/placement.ts";
import { createPodCluster, overlayPathOf, type PodCluster } from "../../lab/pod-cluster.ts";
import { expectFlawless, tellOnPods } from "../pod-story.ts";

const patienceMs = 900_000;
const MIB = 1024 * 1024;

const remedy = findRemedy(["etcd", "kube-apiserver"]);
if (remedy !== undefined) {
  process.stderr.write(`SKIPPED test/integration/pod-disks.test.ts: ${remedy}\n`);
}

const fileOfDevice = (lab: Lab, host: PairHost): string => join(lab.diskDirectory(host), "device.raw");

/** Block devices over files of the two hosts, taken away again however the body ends. */
async function withDevices(
  lab: Lab,
  body: (paths: Readonly<Record<PairHost, string>>) => Promise<void>,
): Promise<void> {
  const attach = (host: PairHost): string => {
    const file = fileOfDevice(lab, host);
    writeFileSync(file, Buffer.alloc(MIB, host));
    truncateSync(file, 48 * MIB);
    return execFileSync("losetup", ["--find", "--show", "--direct-io=on", file], { encoding: "utf8" }).trim();
  };
  const paths: Partial<Record<PairHost, string>> = {};
  try {
    await body(Object.assign(paths, { a: attach("a"), b: attach("b") }));
  } finally {
    for (const path of Object.values(paths)) {
      chownSync(path, 0, 0);
      execFileSync("losetup", ["--detach", path]);
    }
  }
}

/** The disks of a side as its QEMU has them; of the device what is really on it, not what the page cache says. */
function pathsOf(cluster: PodCluster, host: PairHost): readonly string[] {
  const pod = cluster.podOf(host);
  const settings = cluster.guest.specs[host].disks[2]?.path ?? "";
  // /var/run of the pod is an absolute link, which would lead into ours.
  return [
    pod.pathOf(`${overlayPathOf("disk0")}.twinrun`.replace("/var/run", "/run")),
    pod.pathOf(settings),
    fileOfDevice(cluster.lab, host),
  ];
}

/** What a standby writes to a device gets there within some seconds. */
const settleMs = 40_000;

async function expectEqualDisks(cluster: PodCluster): Promise<void> {
  const [ofA, ofB] = pairHosts.map((host) => pathsOf(cluster, host)) as [string[], string[]];
  for (const [index, path] of ofA.entries()) {
    const other = ofB[index] ?? "";
    expect(statSync(other).size).toBe(statSync(path).size);
    expect((await compareDisks(path, other, settleMs)).differingOffsets).toEqual([]);
  }
}

(remedy === undefined ? test : test.skip)(
  "an image in the pod, settings and a block device follow the guest",
  async () => {
    await withLab({}, (lab) =>
      withDevices(lab, async (devices) => {
        const plane = await startControlPlane();
        const image = await provideImage("busybox", () => undefined);
        const wish = { name: "guest", kind: "busybox", image, index: 0, disksCount: 3 } as const;
        const guest = placeGuest(lab, { ...wish, options: { directDisk: true } }, "a");
        // The other side's image and settings are others: a tag that was moved, a name that is longer.
        writeFileSync(guest.specs.b.disks[0]?.path ?? "", Buffer.alloc(3 * MIB, "other"), { flag: "r+" });
        for (const [host, mebibytes] of [
          ["a", 1],
          ["b", 3],
        ] as const) {
          writeFileSync(guest.specs[host].disks[2]?.path ?? "", Buffer.alloc(mebibytes * MIB, `settings of ${host} `));
        }
        const cluster = await createPodCluster(lab, plane, guest, {
          disk0: { tag: "overlay" },
          disk1: { tag: "device", paths: devices },
          disk2: { tag: "settings" },
        });
        const tell = async (): Promise<void> => {
          const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });
          await sleep(3_000);
          await expectEqualDisks(cluster);

          let primary: PairHost = "a";
          for (const kill of ["the first time", "and back"]) {
            cluster.podOf(primary).process.kill("SIGKILL");
            primary = otherHost(primary);
            const pair = await cluster.waitUntilProtected(primary, patienceMs / 4);
            expect([kill, pair[primary]?.takeoversCount]).toEqual([kill, 1]);
            await sleep(2_000);
            await expectEqualDisks(cluster);
          }

          // Its engine goes with the agent, and the other side takes over: what is there is raw, and stays so.
          cluster.agents[primary].kill();
          primary = otherHost(primary);
          await cluster.waitUntilProtected(primary, patienceMs / 4);
          await sleep(1_000);
          await expectFlawless(witnesses);
          await expectEqualDisks(cluster);
          const settings = readFileSync(pathsOf(cluster, primary)[1] ?? "");
          expect(settings.subarray(0, 13).toString()).toBe("settings of a");
          expect(settings.length).toBe(MIB);
        };
        await tellOnPods({ cluster, patienceMs: patienceMs / 4, tell });
      }),
    );
  },
  patienceMs,
);
