/**
 * The hook's domains and a real libvirt: its schema, its parser, and the QEMU that it starts of them.
 *
 * libvirt's QEMU driver runs inside of virsh (the URI qemu:///embed), so there is no daemon; as a user without privileges, in a
 * network and mount namespace of its own, with the tap there as KubeVirt would have made it. KubeVirt's paths become paths
 * of the test's folder, and nothing else is changed between the hook and libvirt.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { execFileSync, spawn, spawnSync, type ChildProcessWithoutNullStreams } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { killProcess, listEnvironments } from "../../src/agent/linux-process.ts";
import { QMP_PATH_IN_POD, type VmiShape } from "../../src/api/vmi-contract.ts";
import { planDomainEdit } from "../../src/hook/domain-edit.ts";
import { connectWithRetry } from "../../src/qemu/qmp-client.ts";
import { listObstacles, readMachine } from "../../src/qemu/machine.ts";
import { silentLog } from "../../src/telemetry/log.ts";

const golden = (name: string): string => new URL(`../golden/hook/${name}.xml`, import.meta.url).pathname;
const shim = new URL("../../build/twinrun-shim.so", import.meta.url).pathname;

const missing = ["virsh", "virt-xml-validate", "xmllint", "unshare", "setpriv", "ip"].filter(
  (program) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0,
);
const obstacle =
  missing.length > 0
    ? `${missing.join(", ")} missing (make setup installs libvirt)`
    : process.getuid?.() !== 0
      ? "only root can make namespaces and taps"
      : undefined;
if (obstacle !== undefined) {
  process.stderr.write(`SKIPPED, no real libvirt has seen the hook's domains: ${obstacle}\n`);
}
const withLibvirt = obstacle === undefined ? describe : describe.skip;

withLibvirt(`the schema${obstacle === undefined ? "" : ` (skipped: ${obstacle})`}`, () => {
  test.each(["kubevirt", "libvirt"])("takes the domains made of %s.xml", (name) => {
    for (const path of [golden(name), golden(`${name}.primary`), golden(`${name}.standby`)]) {
      expect(spawnSync("virt-xml-validate", [path, "domain"])).toMatchObject({ status: 0 });
    }
  });
});

/** Who QEMU runs as: a user that every system has, and that may do nothing. */
const NOBODY = 65_534;
const DOMAIN = "shop_web-a";
let folder = "";

class Virsh {
  readonly child: ChildProcessWithoutNullStreams;
  #said = "";

  constructor(directory: string) {
    const namespace = [
      `mknod ${directory}/tun c 10 200 && chmod 666 ${directory}/tun && mount --bind ${directory}/tun /dev/net/tun`,
      `ip tuntap add dev tap0 mode tap user ${NOBODY}`,
      `exec setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups virsh -c qemu:///embed?root=${directory}`,
    ].join(" && ");
    const env = { PATH: process.env["PATH"], HOME: directory, XDG_RUNTIME_DIR: directory };
    this.child = spawn("unshare", ["--net", "--mount", "sh", "-c", namespace], { env });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        this.#said += chunk.toString();
      });
    }
  }

  /** What virsh says to one command, its errors included. */
  async run(command: string): Promise<string> {
    const end = randomUUID();
    this.#said = "";
    this.child.stdin.write(`${command}\necho ${end}\n`);
    const isEnd = new RegExp(`^${end}`, "m");
    while (!isEnd.test(this.#said)) {
      if (this.child.exitCode !== null) {
        throw new Error(`virsh has ended: ${this.#said}`);
      }
      await sleep(20);
    }
    return this.#said;
  }
}

withLibvirt("libvirt", () => {
  let virsh: Virsh;
  const mark = `hook-${randomUUID()}`;
  const listQemus = (): ReturnType<typeof listEnvironments> =>
    listEnvironments((environment) => environment.includes(`TWINRUN_GUEST=${mark}`));

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "twinrun-libvirt-"));
    for (const path of ["", "etc", "pod/vmi-disks/rootdisk", "pod/cloud-init-data/shop/web-a", "pod/lib"]) {
      mkdirSync(join(folder, path), { recursive: true });
    }
    mkdirSync(join(folder, "pod/8c1ad4a4-8e2a-4e2c-9d5e-0d6f0c7a2f11"));
    writeFileSync(join(folder, "etc/qemu.conf"), 'stdio_handler = "file"\nsecurity_driver = "none"\n');
    for (const image of ["vmi-disks/rootdisk/disk.img", "cloud-init-data/shop/web-a/noCloud.iso"]) {
      writeFileSync(join(folder, "pod", image), "");
      truncateSync(join(folder, "pod", image), 1024 * 1024);
    }
    copyFileSync(shim, join(folder, "pod/lib/twinrun-shim.so"));
    chmodSync(join(folder, "pod/lib/twinrun-shim.so"), 0o555);
    execFileSync("chown", ["-R", `${NOBODY}:${NOBODY}`, folder]);
    virsh = new Virsh(folder);
  });

  afterEach(async () => {
    await virsh.run(`destroy ${DOMAIN}`);
  });

  afterAll(async () => {
    const ended = once(virsh.child, "close");
    virsh.child.stdin.end();
    await ended; // It writes into its folder until then.
    for (const { identity } of listQemus()) {
      await killProcess(identity, silentLog);
    }
    rmSync(folder, { recursive: true, force: true });
  });

  test.each<[VmiShape, runState: string]>([
    ["primary", "prelaunch"],
    ["standby", "inmigrate"],
  ])("starts a %s that the engine can take over", async (startedAs, runState) => {
    const given = readFileSync(golden("kubevirt"), "utf8");
    const shimPath = "/var/run/kubevirt-private/lib/twinrun-shim.so";
    const edited = planDomainEdit(given, { guest: mark, node: "node-a", startedAs, shimPath });
    const inPod = (text: string): string =>
      text.replaceAll(/\/var\/run\/kubevirt-(private|ephemeral-disks)/g, join(folder, "pod"));
    writeFileSync(join(folder, "domain.xml"), inPod(edited));

    expect(await virsh.run(`define ${join(folder, "domain.xml")}`)).toContain("defined");
    expect(await virsh.run(`start ${DOMAIN} --paused`)).toContain("started");
    expect(await virsh.run(`domstate ${DOMAIN}`)).toContain("paused");

    const [qemu] = listQemus();
    expect(qemu?.environment).toEqual(expect.arrayContaining(["TWINRUN_NODE=node-a", "TWINRUN_OUTPUT=held"]));
    const maps = readFileSync(`/proc/${qemu?.identity.pid ?? 0}/maps`, "utf8");
    expect(maps).toMatch(/rw-s .*memfd:memory-backend-memfd/);
    expect(maps).toMatch(/rw-s .*memfd:twinrun-shim/);

    const qmp = await connectWithRetry(inPod(QMP_PATH_IN_POD), { withinMs: 5_000 });
    const machine = await readMachine(qmp);
    qmp.close();
    expect(machine).toMatchObject({ runState, nics: [{ netdev: expect.stringContaining("ua-default"), queues: 1 }] });
    expect(listObstacles(machine, { hasShim: true })).toEqual([]);
    expect(existsSync(join(folder, "pod/twinrun.qmp"))).toBe(true);
  });
});
