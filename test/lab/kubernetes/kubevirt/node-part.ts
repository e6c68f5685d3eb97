/**
 * What virt-handler does on a VMI's node before its guest can start: the device for taps, those of claims of mode Block for QEMU's
 * user, and for each interface a tap that QEMU's user owns and a bridge that joins it to the network (`k6t-…`, as KubeVirt has
 * them). Idempotent.
 *
 *   bridge on a Multus network     a veth from the pod into the node's bridge that the NetworkAttachmentDefinition names
 *   masquerade on the pod network  the guest is 10.0.2.2, translated to the pod's address; there is no DHCP
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { promisify } from "node:util";
import { bridgeNameOf, podInterfaceOf, tapNameOf } from "./interfaces.ts";
import { type LauncherProcess } from "./pod-processes.ts";
import { devicePathOf, type Vmi, type VmiInterface } from "./vmi.ts";

const run = promisify(execFile);

/** The bridge on nodes that a network of the VMI's stands for, by the network's name in the VMI; absent for the pod's own. */
export type NetworkBridges = ReadonlyMap<string, string>;

export async function prepareNode(vmi: Vmi, launcher: LauncherProcess, bridges: NetworkBridges): Promise<void> {
  await makeTapDevice(launcher);
  for (const { name } of vmi.spec.volumes ?? []) {
    const device = `/proc/${launcher.pid}/root${devicePathOf(name)}`;
    if (existsSync(device)) {
      await run("chown", ["107:107", device]);
    }
  }
  for (const nic of vmi.spec.domain.devices.interfaces ?? []) {
    if (!(await hasDevice(launcher.pid, tapNameOf(vmi.spec, nic)))) {
      await makeInterface(vmi, nic, launcher, bridges.get(nic.name));
    }
  }
}

/** KubeVirt has a device plugin for it. That the pod's processes may open it is runc's default before 1.2. */
async function makeTapDevice({ pid }: LauncherProcess): Promise<void> {
  const path = `/proc/${pid}/root/dev/net/tun`;
  if (!existsSync(path)) {
    mkdirSync(`/proc/${pid}/root/dev/net`, { recursive: true });
    await run("mknod", ["--mode=666", path, "c", "10", "200"]);
  }
}

async function hasDevice(pid: number, name: string): Promise<boolean> {
  return inNetworkOf(pid, ["ip", "link", "show", name]).then(
    () => true,
    () => false,
  );
}

async function makeInterface(
  vmi: Vmi,
  nic: VmiInterface,
  launcher: LauncherProcess,
  nodeBridge: string | undefined,
): Promise<void> {
  const [tap, bridge] = [tapNameOf(vmi.spec, nic), bridgeNameOf(vmi.spec, nic)];
  const lines = [
    `link add ${bridge} type bridge stp_state 0 mcast_snooping 0`,
    ...(nodeBridge === undefined ? ["address add 10.0.2.1/24 dev k6t-eth0"] : []),
    `link set ${bridge} up`,
    // The bridge has no address but that of the masquerade, and nothing of its own to say in the guests' network.
    `tuntap add ${tap} mode tap user 107 group 107`,
    `link set ${tap} master ${bridge}`,
    `link set ${tap} up`,
  ];
  await inNetworkOf(launcher.pid, ["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"]);
  if (nodeBridge === undefined) {
    await makeMasquerade(launcher.pid);
  } else {
    const podNic = `${podInterfaceOf(vmi.spec, nic).replace(/^pod/, "")}-nic`;
    await connectToNode(launcher, podNic, nodeBridge);
    lines.splice(1, 0, `link set ${podNic} master ${bridge}`, `link set ${podNic} up`);
  }
  for (const line of lines) {
    await inNetworkOf(launcher.pid, ["ip", ...line.split(" ")]);
  }
}

/** The other end goes with the pod. */
async function connectToNode({ pid, shimPid }: LauncherProcess, podNic: string, bridge: string): Promise<void> {
  const port = `veth${createHash("sha256").update(`${pid} ${podNic}`).digest("hex").slice(0, 11)}`;
  for (const line of [
    `link add ${port} type veth peer name ${podNic} netns ${pid}`,
    `link set ${port} master ${bridge}`,
    `link set ${port} up`,
  ]) {
    await inNetworkOf(shimPid, ["ip", ...line.split(" ")]);
  }
}

const masqueradeRules = [
  "add table ip nat",
  "add chain ip nat prerouting { type nat hook prerouting priority -100; }",
  "add chain ip nat postrouting { type nat hook postrouting priority 100; }",
  "add rule ip nat prerouting iifname eth0 dnat to 10.0.2.2",
  "add rule ip nat postrouting ip saddr 10.0.2.2 masquerade",
  // The guest has its address from nobody, so it may have no route.
  "add rule ip nat postrouting oifname k6t-eth0 masquerade",
];

async function makeMasquerade(pid: number): Promise<void> {
  await inNetworkOf(pid, ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
  for (const rule of masqueradeRules) {
    await inNetworkOf(pid, ["nft", rule]);
  }
}

/** Programs and files of this machine, networks of that process. */
async function inNetworkOf(pid: number, command: readonly string[]): Promise<void> {
  await run("nsenter", ["--target", String(pid), "--net", ...command]);
}
