/**
 * The lab: hosts A and B, a quorum host Q and a client C, each a network namespace of this run, joined by a switch namespace.
 *
 *            guest        10.77.0.0/24   guests, C         (A and B bridge their taps into it; they have no address there)
 *            replication1 10.77.1.0/24   A, B
 *            replication2 10.77.2.0/24   A, B
 *            management   10.77.3.0/24   A, B, Q
 *
 * Every network is a bridge in the switch namespace, so that cutting one is silent: the port stops forwarding, nobody sees a
 * carrier go, no RST and no FIN gets out, exactly like a dead switch in between. Powering a host off cuts its ports first, then
 * kills everything in it and deletes the namespace with all its sockets: the dead host's kernel never sends another byte, and
 * the host that comes back knows nothing of its old connections. What was on its disk directory stays, its run directory goes.
 * (The page cache stays too: a power loss that eats writes not yet synced cannot be played on one machine.)
 *
 * Nothing stays behind. A lab ends with `destroy`, on a signal as well; a lab whose process was killed with -9 is removed by
 * the next one that starts (or `node test/lab/hosts.ts clean`), which finds its state file and sees that its process is gone.
 */
import { spawn, spawnSync, type ChildProcess, type StdioOptions } from "node:child_process";
import {
  existsSync,
  globSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { assert, present } from "../../src/lib/assert.ts";
import { Failure } from "../../src/lib/failure.ts";
import { collectOutput } from "./command-output.ts";

export type HostName = "a" | "b" | "q" | "c";
export type NetworkName = "guest" | "replication1" | "replication2" | "management";

export class LabFailure extends Failure<
  { readonly code: "LabNotPossible" } | { readonly code: "LabCommandFailed"; readonly command: string }
> {}

const hostNames: readonly HostName[] = ["a", "b", "q", "c"];

const members: Readonly<Record<NetworkName, readonly HostName[]>> = {
  guest: ["a", "b", "c"],
  replication1: ["a", "b"],
  replication2: ["a", "b"],
  management: ["a", "b", "q"],
};
const networkNames = Object.keys(members) as readonly NetworkName[];

const subnet: Readonly<Record<NetworkName, number>> = { guest: 0, replication1: 1, replication2: 2, management: 3 };
const hostNumber: Readonly<Record<HostName, number>> = { a: 1, b: 2, q: 3, c: 4 };

/** Names of interfaces have 15 characters; inside a namespace of our own they need no prefix. */
const deviceName: Readonly<Record<NetworkName, string>> = {
  guest: "guest",
  replication1: "repl1",
  replication2: "repl2",
  management: "mgmt",
};
const guestBridge = "br-guest";

/** Where `host` is in `network`. A and B have no address in the guest network. */
export function addressOf(host: HostName, network: NetworkName): string {
  assert(members[network].includes(host), `host ${host} is not in the ${network} network`);
  return `10.77.${subnet[network]}.${hostNumber[host]}`;
}

/** The address of guest number `index` (from 0) in the guest network. */
export const guestAddress = (index: number): string => `10.77.0.${10 + index}`;

/** A locally administered MAC for NIC `nic` of guest number `index`; the same on both hosts. */
export const guestMac = (index: number, nic: number): string => `52:54:00:77:${hexByte(nic)}:${hexByte(10 + index)}`;

const hexByte = (value: number): string => value.toString(16).padStart(2, "0");

// What is left of a run, so that another run can remove it.

/** Network namespaces, with every process in them, directories, and control groups (v1, by their name in every hierarchy). */
type Belongings = {
  readonly namespaces: readonly string[];
  readonly directories: readonly string[];
  readonly controlGroups?: readonly string[];
};

export type LabRecord = Belongings & { readonly id: string; readonly pid: number; readonly startTime: string };

const recordsPath = "/tmp";
const recordPath = (id: string): string => join(recordsPath, `twinrun-lab-${id}.json`);

/** Where the volatile part of a host lives: memory, if the machine has a tmpfs at the usual place. */
export const volatileBase = existsSync("/dev/shm") ? "/dev/shm" : "/tmp";

export type LabOptions = {
  /** Disks of the hosts go here, several GiB (sparse). */
  readonly diskBase?: string;
  readonly say?: (line: string) => void;
};

export type SpawnOptions = {
  readonly stdio?: StdioOptions;
  readonly environment?: Readonly<Record<string, string>>;
};

/**
 * One lab. Create with {@link createLab}, or better run inside {@link withLab}, which destroys it however the body ends.
 */
export class Lab {
  readonly id: string;
  readonly #record: LabRecord;
  readonly #taps = new Map<HostName, Set<string>>();
  readonly #poweredOff = new Set<HostName>();
  #destruction: Promise<void> | undefined;

  constructor(record: LabRecord) {
    this.id = record.id;
    this.#record = record;
  }

  get isDestroyed(): boolean {
    return this.#destruction !== undefined;
  }

  namespaceOf(host: HostName): string {
    return namespaceName(this.id, host);
  }

  /** Survives powerOff: the host's disk. */
  diskDirectory(host: HostName): string {
    return join(present(this.#record.directories[0], "disk directory"), host);
  }

  /** Emptied by powerOff: the host's /run. */
  runDirectory(host: HostName): string {
    return join(present(this.#record.directories[1], "run directory"), host);
  }

  /** For logs and results of the run; removed with the lab unless copied. */
  get logDirectory(): string {
    return join(present(this.#record.directories[0], "disk directory"), "logs");
  }

  isPoweredOn(host: HostName): boolean {
    return !this.#poweredOff.has(host);
  }

  /**
   * Starts a program on a host. It is a session of its own, so that ^C in the terminal reaches only the lab's own process,
   * which then takes everything down in order.
   */
  spawn(host: HostName, command: readonly string[], options: SpawnOptions = {}): ChildProcess {
    assert(!this.isDestroyed, "the lab is destroyed");
    assert(this.isPoweredOn(host), `host ${host} is powered off`);
    return spawn("ip", ["netns", "exec", this.namespaceOf(host), ...command], {
      detached: true,
      stdio: options.stdio ?? ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...options.environment },
    });
  }

  /** Runs a short command on a host to its end; its standard output, or a failure with what it said. */
  run(host: HostName, command: readonly string[]): string {
    return runCommand(["ip", "netns", "exec", this.namespaceOf(host), ...command]);
  }

  /** The same without holding up everything else; for whatever takes longer than a moment. */
  execute(host: HostName, command: readonly string[]): Promise<string> {
    return collectOutput(this.spawn(host, command), command, `host ${host}`);
  }

  /** A tap of `host`, member of the guest network. Made again when the host is powered on. */
  createTap(host: HostName, tap: string): void {
    const taps = this.#taps.get(host) ?? new Set();
    this.#taps.set(host, taps);
    if (!taps.has(tap)) {
      taps.add(tap);
      makeTap(this.namespaceOf(host), tap);
    }
  }

  /** A volume of so many bytes where the host's `directory` is, by a tmpfs: it is really full when it is full. */
  mountVolume(directory: string, bytes: number): void {
    mkdirSync(directory, { recursive: true });
    runCommand(["mount", "-t", "tmpfs", "-o", `size=${bytes}`, "twinrun-lab", directory]);
  }

  /** What is in the volume stays. */
  resizeVolume(directory: string, bytes: number): void {
    runCommand(["mount", "-o", `remount,size=${bytes}`, directory]);
  }

  /** Silence on a network: on the whole of it, or for one host only. */
  cutLink(network: NetworkName, host?: HostName): void {
    this.#setPorts(network, host, "disabled");
  }

  restoreLink(network: NetworkName, host?: HostName): void {
    this.#setPorts(network, host, "forwarding");
  }

  /** From now on the network carries so much each way, and what waits for that waits in front of everything that comes later. */
  narrowLink(network: NetworkName, rate: { readonly mibPerSecond: number; readonly bufferMs: number }): void {
    for (const host of members[network]) {
      this.run(host, [
        ...["tc", "qdisc", "replace", "dev", deviceName[network], "root", "tbf"],
        ...["rate", `${rate.mibPerSecond * 8 * 2 ** 20}bit`, "burst", "64kb", "latency", `${rate.bufferMs}ms`],
      ]);
    }
  }

  /** Connections that the host makes from now on send until a buffer on the way is full, whatever the machine's own do (Reno). */
  fillBuffers(host: HostName): void {
    this.run(host, ["sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=reno"]);
  }

  /** Pulls a host's cable out: unlike a dead switch, the host sees that its card has no carrier any more. */
  pullCable(network: NetworkName, host: HostName): void {
    this.#setCable(network, host, "down");
  }

  plugCable(network: NetworkName, host: HostName): void {
    this.#setCable(network, host, "up");
  }

  #setCable(network: NetworkName, host: HostName, state: "up" | "down"): void {
    runCommand(["ip", "-netns", switchName(this.id), "link", "set", portName(host, network), state]);
  }

  /**
   * Takes the power from a host: silence first, then everything in it is gone. Switches see the carrier of its ports go, and send
   * what was for them to all others from then on.
   */
  async powerOff(host: HostName): Promise<void> {
    if (this.#poweredOff.has(host)) {
      return;
    }
    for (const network of networkNames.filter((name) => members[name].includes(host))) {
      runCommand(["ip", "-netns", switchName(this.id), "link", "set", portName(host, network), "down"]);
    }
    this.#poweredOff.add(host);
    await killNamespace(this.namespaceOf(host));
    runCommand(["ip", "netns", "delete", this.namespaceOf(host)]);
    rmSync(this.runDirectory(host), { recursive: true, force: true });
  }

  /** The host boots: network and disk are there, processes are not. */
  powerOn(host: HostName): void {
    if (!this.#poweredOff.has(host)) {
      return;
    }
    removeSwitchPorts(this.id, host);
    makeHost(this.id, host);
    mkdirSync(this.runDirectory(host), { recursive: true });
    this.#poweredOff.delete(host);
    for (const tap of this.#taps.get(host) ?? []) {
      makeTap(this.namespaceOf(host), tap);
    }
  }

  /** Every process that lives in the namespace of `host`, by pid. */
  listProcesses(host: HostName): number[] {
    return this.isPoweredOn(host) ? listNamespaceProcesses(this.namespaceOf(host)) : [];
  }

  /** Idempotent: whoever calls waits for the same end. */
  destroy(): Promise<void> {
    this.#destruction ??= removeLeftovers(this.#record);
    return this.#destruction;
  }

  #setPorts(network: NetworkName, host: HostName | undefined, state: "disabled" | "forwarding"): void {
    assert(
      host === undefined || members[network].includes(host),
      `host ${host ?? ""} is not in the ${network} network`,
    );
    for (const member of host === undefined ? members[network] : [host]) {
      if (this.isPoweredOn(member)) {
        runCommand([
          ...["bridge", "-netns", switchName(this.id), "link", "set", "dev", portName(member, network)],
          ...["state", state === "disabled" ? "0" : "3"],
        ]);
      }
    }
  }
}

const namespaceName = (id: string, host: HostName): string => `${id}-${host}`;
const switchName = (id: string): string => `${id}-switch`;
const portName = (host: HostName, network: NetworkName): string => `${host}-${deviceName[network]}`;

/** Makes a lab; first removes what dead runs left behind. */
export async function createLab({ diskBase = "/tmp", say }: LabOptions = {}): Promise<Lab> {
  assertLabPossible();
  await removeDeadLabs(say);
  const id = `tr${process.pid.toString(36)}`;
  const record = writeLabRecord(id, {
    namespaces: [...hostNames.map((host) => namespaceName(id, host)), switchName(id)],
    directories: [join(diskBase, `twinrun-lab-${id}`), join(volatileBase, `twinrun-run-${id}`)],
  });
  const lab = new Lab(record);
  try {
    makeSwitch(id);
    for (const host of hostNames) {
      makeHost(id, host);
      mkdirSync(lab.diskDirectory(host), { recursive: true });
      mkdirSync(lab.runDirectory(host), { recursive: true });
    }
    mkdirSync(lab.logDirectory, { recursive: true });
  } catch (cause) {
    await lab.destroy();
    throw cause;
  }
  return lab;
}

/**
 * Runs `body` in a lab of its own and destroys the lab when it ends, fails, or a signal comes. After a signal `body` sees its
 * abort signal and its processes die under it; the process then ends with 128 + the number of the signal.
 */
export async function withLab<T>(options: LabOptions, body: (lab: Lab, signal: AbortSignal) => Promise<T>): Promise<T> {
  const lab = await createLab(options);
  const abort = new AbortController();
  const end = (status: number, why: string): void => {
    if (!abort.signal.aborted) {
      abort.abort(new Error(why));
      void lab.destroy().finally(() => process.exit(status));
    }
  };
  const stops = new Map<string, (cause: unknown) => void>(
    Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }).map(([name, status]) => [
      name,
      (): void => {
        end(status, `stopped by ${name}`);
      },
    ]),
  );
  // A bug in what runs here must not leave a lab behind either.
  stops.set("uncaughtException", (cause) => {
    if (abort.signal.aborted) {
      return; // Whatever fails now fails because everything is being taken away.
    }
    process.stderr.write(`${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}\n`);
    end(1, "a bug");
  });
  for (const [name, stop] of stops) {
    process.on(name, stop);
  }
  try {
    return await body(lab, abort.signal);
  } finally {
    await lab.destroy();
    if (abort.signal.aborted) {
      await new Promise(() => undefined); // The process is about to end; nobody is to take the body's failure for the reason.
    }
    for (const [name, stop] of stops) {
      process.off(name, stop);
    }
  }
}

function assertLabPossible(): void {
  const problem = findLabProblem();
  if (problem !== undefined) {
    throw new LabFailure({ code: "LabNotPossible" }, `the lab cannot be made: ${problem}`);
  }
}

function findLabProblem(): string | undefined {
  if (process.getuid?.() !== 0) {
    return "it makes network namespaces and taps and needs root (sudo make ...)";
  }
  if (!existsSync("/dev/net/tun")) {
    return "/dev/net/tun is missing (modprobe tun, or mknod /dev/net/tun c 10 200; in a container: --device /dev/net/tun)";
  }
  for (const tool of ["ip", "bridge"]) {
    if (spawnSync(tool, ["-Version"]).error !== undefined) {
      return `${tool} is missing (apt-get install iproute2)`;
    }
  }
  const probe = `trprobe${process.pid.toString(36)}`;
  const made = spawnSync("ip", ["netns", "add", probe], { encoding: "utf8" });
  spawnSync("ip", ["netns", "delete", probe]);
  return made.status === 0
    ? undefined
    : `ip netns add fails (${made.stderr.trim()}); it needs CAP_SYS_ADMIN and CAP_NET_ADMIN`;
}

// Making.

function makeSwitch(id: string): void {
  const netns = switchName(id);
  runCommand(["ip", "netns", "add", netns]);
  silenceIpv6(netns);
  runBatch(netns, [
    "link set lo up",
    ...networkNames.flatMap((name) => [
      // No querier and no snooping: a switch that forgets or learns groups would only blur what the tests see.
      `link add ${deviceName[name]} type bridge stp_state 0 mcast_snooping 0`,
      `link set ${deviceName[name]} up`,
    ]),
  ]);
}

function makeHost(id: string, host: HostName): void {
  const netns = namespaceName(id, host);
  const networks = networkNames.filter((name) => members[name].includes(host));
  runCommand(["ip", "netns", "add", netns]);
  silenceIpv6(netns);
  runBatch(
    switchName(id),
    networks.flatMap((name) => [
      `link add ${portName(host, name)} type veth peer name ${deviceName[name]} netns ${netns}`,
      `link set ${portName(host, name)} master ${deviceName[name]}`,
      `link set ${portName(host, name)} up`,
    ]),
  );
  runBatch(netns, ["link set lo up", ...networks.flatMap((name) => listHostCommands(host, name))]);
}

function listHostCommands(host: HostName, network: NetworkName): string[] {
  const device = deviceName[network];
  if (network === "guest" && host !== "c") {
    return [
      `link add ${guestBridge} type bridge stp_state 0 mcast_snooping 0`,
      `link set ${guestBridge} up`,
      `link set ${device} master ${guestBridge}`,
      `link set ${device} up`,
    ];
  }
  return [
    // A card keeps its address when its host is off; with another one the peers would talk to the old for half a minute.
    `link set ${device} address 02:77:00:00:${hexByte(subnet[network])}:${hexByte(hostNumber[host])}`,
    `address add ${addressOf(host, network)}/24 dev ${device}`,
    `link set ${device} up`,
  ];
}

/** Router solicitations and the like would be noise on networks whose silence is part of the tests. */
export function silenceIpv6(netns: string): void {
  const all = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
  if (existsSync(all)) {
    runCommand(["ip", "netns", "exec", netns, "sh", "-c", `echo 1 >${all}; echo 1 >${all.replace("all", "default")}`]);
  }
}

function makeTap(netns: string, tap: string): void {
  runBatch(netns, [`tuntap add ${tap} mode tap`, `link set ${tap} master ${guestBridge}`, `link set ${tap} up`]);
}

/** The other ends of a deleted namespace's veths go with it, but not at once: a name still there cannot be used again. */
function removeSwitchPorts(id: string, host: HostName): void {
  for (const network of networkNames.filter((name) => members[name].includes(host))) {
    spawnSync("ip", ["-netns", switchName(id), "link", "delete", portName(host, network)]);
  }
}

// Removing.

/** Removes every lab whose process is gone. */
export async function removeDeadLabs(say: (line: string) => void = () => undefined): Promise<void> {
  for (const name of readdirSync(recordsPath)) {
    if (/^twinrun-lab-.*[.]json$/.test(name)) {
      const record = readRecord(join(recordsPath, name));
      if (record !== undefined && readStartTime(record.pid) !== record.startTime) {
        say(`removing what run ${record.id} (process ${record.pid}, dead) left behind`);
        await removeLeftovers(record);
      }
    }
  }
}

/** To be written first: whatever is made after that has somebody who can remove it, also when this process is killed. */
export function writeLabRecord(id: string, belongings: Belongings): LabRecord {
  const startTime = present(readStartTime(process.pid), "own start time");
  const record: LabRecord = { id, pid: process.pid, startTime, ...belongings };
  writeFileSync(recordPath(id), JSON.stringify(record));
  return record;
}

function readRecord(path: string): LabRecord | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as LabRecord;
  } catch {
    return undefined; // Being written by a run that starts now, or removed by one that ends.
  }
}

/** Takes away all that the record names, and then the record. */
export async function removeLeftovers(record: LabRecord): Promise<void> {
  const present = record.namespaces.filter((name) => existsSync(`/run/netns/${name}`));
  await Promise.all(present.map(killNamespace));
  for (const name of present) {
    spawnSync("ip", ["netns", "delete", name]);
  }
  for (const directory of record.directories) {
    unmountVolumes(directory);
    detachLoops(listVolumes(directory));
    rmSync(directory, { recursive: true, force: true });
  }
  await Promise.all((record.controlGroups ?? []).map(removeControlGroup));
  rmSync(recordPath(record.id), { force: true });
  removeEmptyNamespaceMount();
}

/** The processes that used them are gone; whoever still looks into one does not keep it. */
function unmountVolumes(directory: string): void {
  const points = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "");
  for (const point of points.filter((path) => path.startsWith(`${directory}/`))) {
    spawnSync("umount", ["--lazy", point], { stdio: "ignore" });
  }
}

/** Of a lab of Kubernetes nodes (kubernetes/storage.ts). */
function listVolumes(directory: string): string[] {
  return globSync(join(directory, "*/var-lib/lab-volumes/*"));
}

type Loop = { readonly name: string; readonly "back-maj:min": string; readonly "back-ino": number };

/** Loop devices on files, and those that a kubelet has on the devices of such; they go when nobody uses them any more. */
export function detachLoops(paths: readonly string[]): void {
  const files = paths.flatMap((path) => {
    const { dev, ino } = lstatSync(path, { throwIfNoEntry: false }) ?? {};
    return dev === undefined ? [] : [`${dev >> 8}:${dev & 0xff} ${ino}`];
  });
  if (files.length === 0) {
    return;
  }
  const listed = runCommand(["losetup", "--list", "--json", "--output", "NAME,BACK-MAJ:MIN,BACK-INO"]);
  const loops = listed === "" ? [] : (JSON.parse(listed) as { readonly loopdevices: readonly Loop[] }).loopdevices;
  for (const loop of loops.filter((each) => files.includes(`${each["back-maj:min"].trim()} ${each["back-ino"]}`))) {
    spawnSync("losetup", ["--detach", loop.name], { stdio: "ignore" });
  }
}

/** Of every hierarchy. What was killed in it a moment ago keeps it busy for another. */
async function removeControlGroup(name: string): Promise<void> {
  const base = "/sys/fs/cgroup";
  // Itself is the only one of cgroup v2.
  const paths = ["", ...readdirSync(base)].map((hierarchy) => join(base, hierarchy, name));
  for (let round = 0; round < 200 && paths.some((path) => existsSync(path)); round += 1) {
    paths.forEach(removeEmptyDirectories);
    await sleep(round < 20 ? 5 : 50);
  }
  const busy = paths.filter((path) => existsSync(path));
  if (busy.length > 0) {
    throw new LabFailure({ code: "LabCommandFailed", command: `rmdir ${name}` }, `still in use: ${busy.join(" ")}`);
  }
}

/** From the leaves on; the files of a control group cannot be removed and need not be. */
function removeEmptyDirectories(path: string): void {
  try {
    const entries = readdirSync(path, { withFileTypes: true });
    entries.filter((entry) => entry.isDirectory()).forEach((entry) => removeEmptyDirectories(join(path, entry.name)));
    rmdirSync(path);
  } catch {
    // Busy, or gone already.
  }
}

/** `ip netns add` makes /run/netns a mount of its own; the last one who leaves takes it away. */
function removeEmptyNamespaceMount(): void {
  if (existsSync("/run/netns") && readdirSync("/run/netns").length === 0) {
    spawnSync("umount", ["/run/netns"], { stdio: "ignore" });
  }
}

/** Kills until nobody is left: a process that was being forked while we looked is found in the next round. */
async function killNamespace(netns: string): Promise<void> {
  for (let round = 0; round < 200; round += 1) {
    const pids = listNamespaceProcesses(netns);
    if (pids.length === 0) {
      return;
    }
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // Gone already.
      }
    }
    await sleep(round < 20 ? 5 : 50);
  }
  throw new LabFailure(
    { code: "LabCommandFailed", command: `kill ${netns}` },
    `processes in ${netns} do not die: ${listNamespaceProcesses(netns).join(" ")} (look at them in /proc; state D waits for a device)`,
  );
}

function listNamespaceProcesses(netns: string): number[] {
  const path = `/run/netns/${netns}`;
  if (!existsSync(path)) {
    return []; // Two runs may be removing the same dead one.
  }
  const wanted = `net:[${statSync(path).ino}]`;
  return readdirSync("/proc")
    .filter((name) => /^[0-9]+$/.test(name) && readNamespace(name) === wanted)
    .map(Number);
}

function readNamespace(pid: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return undefined; // Gone, or a zombie: those have no namespace any more.
  }
}

/** Field 22 of /proc/PID/stat: tells a process from a later one with the same id. */
export function readStartTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

// Commands.

/** Lines for `ip`, in a network namespace. */
export function runBatch(netns: string, lines: readonly string[]): void {
  runCommand(["ip", "-netns", netns, "-batch", "-"], lines.join("\n"));
}

/** Runs a short command to its end; its standard output, or a failure with what it said. */
export function runCommand(command: readonly string[], input = ""): string {
  const [program, ...args] = command;
  const done = spawnSync(present(program, "a program"), args, { input, encoding: "utf8" });
  if (done.status !== 0) {
    const said = done.error?.message ?? done.stderr.trim();
    throw new LabFailure(
      { code: "LabCommandFailed", command: command.join(" ") },
      `${command.join(" ")} failed: ${said}${input === "" ? "" : `\n${input}`}`,
    );
  }
  return done.stdout;
}

if (import.meta.main) {
  const say = (line: string): void => {
    process.stdout.write(`${line}\n`);
  };
  assert(process.argv[2] === "clean", "usage: node test/lab/hosts.ts clean");
  assertLabPossible();
  await removeDeadLabs(say);
}
