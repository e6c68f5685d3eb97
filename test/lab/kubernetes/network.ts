/**
 * The networks of a lab of Kubernetes nodes. As those of the hosts in test/lab/hosts.ts, each is a bridge in a switch namespace,
 * so that cutting one is silent: nobody sees a carrier go.
 *
 *   management    10.78.N.0/24   this machine .1, the control plane .2, nodes from .11 on; the first link of replication as well
 *   replication   10.76.1.0/24   nodes from .11 on: the second link of replication
 *   lan           10.77.0.0/24   the client .1, guests; nodes have no address in it but a bridge `lan` for whom it is to be given
 *
 * A node may be far away: then its ports of management and replication are behind wires that take their time (long-line.ts).
 *
 * N is free on this machine: the name of the interface by which the machine reaches the lab is taken by whoever makes it first.
 * Pods of the node with number K have 10.79.K.0/24, and everybody has routes to them; addresses of services are kube-proxy's.
 */
import { spawnSync } from "node:child_process";
import { farPortOf, LongLine, yardOf } from "./long-line.ts";
import { LabFailure, runBatch, runCommand, silenceIpv6 } from "../hosts.ts";

export type NetworkName = "management" | "replication" | "lan";
export const networkNames: readonly NetworkName[] = ["management", "replication", "lan"];

export const serviceRange = "10.96.0.0/16";
const podRangeOf = (number: number): string => `10.79.${number}.0/24`;
/** The range of all pods. */
export const podRange = "10.79.0.0/16";
export const clientAddress = "10.77.0.1";
/** The bridge of every node that is a part of the network `lan`. */
export const lanBridge = "lan";

const deviceName: Readonly<Record<NetworkName, string>> = { management: "mgmt", replication: "repl", lan: "lan" };
const firstNodeNumber = 11;
/** Computers that are no nodes, on the management network from .101 on. */
const computerNames = ["third-1", "third-2"] as const;
export type ComputerName = (typeof computerNames)[number];
const firstComputerNumber = 101;
const longNetworks: readonly NetworkName[] = ["management", "replication"];

export type NodePlace = {
  readonly namespace: string;
  readonly address: string;
  readonly podRange: string;
  /** Where its second link of replication is; the first one is at `address`. */
  readonly replicationAddress: string;
};

export class LabNetwork {
  readonly #id: string;
  readonly #nodes: readonly string[];
  readonly #subnet: string;
  readonly #cutPairs = new Set<string>();
  /** By the name of the port in the switch. */
  readonly #longLines = new Map<string, LongLine>();

  private constructor(id: string, nodes: readonly string[], subnet: string) {
    this.#id = id;
    this.#nodes = nodes;
    this.#subnet = subnet;
  }

  /** Names of all namespaces that {@link create} and {@link addNode} make: for the record of what is to be removed. */
  static listNamespaces(id: string, nodes: readonly string[]): string[] {
    return ["switch", "plane", "client", ...computerNames, ...nodes].map((name) => `${id}-${name}`);
  }

  /** Everything but the nodes. */
  static create(id: string, nodes: readonly string[]): LabNetwork {
    const switchName = `${id}-switch`;
    for (const name of ["switch", "plane", "client"]) {
      runCommand(["ip", "netns", "add", `${id}-${name}`]);
      silenceIpv6(`${id}-${name}`);
      runBatch(`${id}-${name}`, ["link set lo up"]);
    }
    runBatch(
      switchName,
      networkNames.flatMap((name) => [
        `link add ${deviceName[name]} type bridge stp_state 0 mcast_snooping 0`,
        `link set ${deviceName[name]} up`,
      ]),
    );
    runCommand(["ip", "netns", "exec", switchName, "nft", "-f", "-"], pairRules);
    const network = new LabNetwork(id, nodes, connectMachine(switchName));
    network.#connect("plane", "management", "mgmt");
    network.#connect("client", "lan", "lan");
    runBatch(network.clientNamespace, [`address add ${clientAddress}/24 dev lan`]);
    runBatch(network.planeNamespace, [`address add ${network.planeAddress}/24 dev mgmt`, ...network.#podRoutes]);
    return network;
  }

  /** Of who is no node: to every node's pods. */
  get #podRoutes(): readonly string[] {
    return this.#nodes.map((node) => `route add ${this.placeOf(node).podRange} via ${this.placeOf(node).address}`);
  }

  get planeNamespace(): string {
    return `${this.#id}-plane`;
  }

  get planeAddress(): string {
    return `${this.#subnet}.2`;
  }

  /** This machine's in the network of nodes: whoever is to be reached by the API server may listen there. */
  get machineAddress(): string {
    return `${this.#subnet}.1`;
  }

  /** Where clients of guests run: a computer that is in the network `lan` and in no other. */
  get clientNamespace(): string {
    return `${this.#id}-client`;
  }

  placeOf(node: string): NodePlace {
    const number = this.#nodes.indexOf(node) + firstNodeNumber;
    const address = `${this.#subnet}.${number}`;
    return {
      namespace: `${this.#id}-${node}`,
      address,
      podRange: podRangeOf(number),
      replicationAddress: `10.76.1.${number}`,
    };
  }

  /** One more computer on the management network, without anything of Kubernetes. */
  addComputer(name: ComputerName): { readonly namespace: string; readonly address: string } {
    const namespace = `${this.#id}-${name}`;
    const address = `${this.#subnet}.${firstComputerNumber + computerNames.indexOf(name)}`;
    runCommand(["ip", "netns", "add", namespace]);
    silenceIpv6(namespace);
    runBatch(namespace, ["link set lo up"]);
    this.#connect(name, "management", "mgmt");
    runBatch(namespace, [`address add ${address}/24 dev mgmt`, ...this.#podRoutes]);
    return { namespace, address };
  }

  /** How long it takes from the node to everybody else and back, in both networks of replication; also if it boots again. */
  async setDistance(node: string, roundTripMs: number): Promise<void> {
    for (const network of longNetworks) {
      const port = portOf(node, network);
      const line = this.#longLines.get(port) ?? (await LongLine.open(`${this.#id}-switch`, port, deviceName[network]));
      this.#longLines.set(port, line);
      line.setDelay(roundTripMs / 2);
    }
  }

  close(): void {
    this.#longLines.forEach((line) => {
      line.close();
    });
  }

  /** The node's namespace with its links, for it to boot in. */
  addNode(node: string): void {
    const place = this.placeOf(node);
    // The other ends of a namespace that is gone go with it, but not at once.
    for (const name of networkNames) {
      spawnSync("ip", ["-netns", `${this.#id}-switch`, "link", "delete", this.#findEnd(node, name).port]);
    }
    runCommand(["ip", "netns", "add", place.namespace]);
    silenceIpv6(place.namespace);
    runCommand(["ip", "netns", "exec", place.namespace, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
    runBatch(place.namespace, ["link set lo up"]);
    this.#connect(node, "management", "mgmt");
    this.#connect(node, "replication", "repl");
    this.#connect(node, "lan", "lan-port");
    runBatch(place.namespace, [
      `address add ${place.address}/24 dev mgmt`,
      `address add ${place.replicationAddress}/24 dev repl`,
      // A program must have a route before kube-proxy can send its packets elsewhere.
      `route add ${serviceRange} dev mgmt`,
      ...this.#nodes
        .filter((other) => other !== node)
        .map((other) => `route add ${this.placeOf(other).podRange} via ${this.placeOf(other).address}`),
      `link add ${lanBridge} type bridge stp_state 0 mcast_snooping 0`,
      `link set ${lanBridge} up`,
      `link set lan-port master ${lanBridge}`,
    ]);
  }

  /** Whether the cables of the node are plugged in, as both of their ends see it. */
  setCarriers(node: string, names: readonly NetworkName[], state: "up" | "down"): void {
    runBatch(
      `${this.#id}-switch`,
      names.map((name) => `link set ${this.#findEnd(node, name).port} ${state}`),
    );
  }

  /** As when the node loses power: silence, and switches see the carrier of its ports go. */
  dropCarrier(node: string): void {
    this.setCarriers(node, networkNames, "down");
  }

  /** Silence between the node and a network, or the other node in it only. */
  cutLink(node: string, network: NetworkName, peer?: string): void {
    if (peer === undefined) {
      this.#setPort(node, network, "0");
    } else {
      this.#cutPairs.add(encodePair(node, network, peer));
      this.#writePairs();
    }
  }

  mendLink(node: string, network: NetworkName, peer?: string): void {
    if (peer === undefined) {
      this.#setPort(node, network, "3");
    } else {
      this.#cutPairs.delete(encodePair(node, network, peer));
      this.#writePairs();
    }
  }

  #setPort(node: string, network: NetworkName, state: "0" | "3"): void {
    const port = portOf(node, network);
    runCommand(["bridge", "-netns", `${this.#id}-switch`, "link", "set", "dev", port, "state", state]);
  }

  /** By names of ports: it also holds for a node that is powered on later. */
  #writePairs(): void {
    const elements = [...this.#cutPairs].map((pair) => `add element bridge lab cut { ${pair} }`);
    const rules = ["flush set bridge lab cut", ...elements].join("\n");
    runCommand(["ip", "netns", "exec", `${this.#id}-switch`, "nft", "-f", "-"], `${rules}\n`);
  }

  /** Where the node's cable ends: in the network, or at the far end of a wire to it. */
  #findEnd(who: string, network: NetworkName): { readonly port: string; readonly bridge: string } {
    const port = portOf(who, network);
    return this.#longLines.has(port)
      ? { port: farPortOf(port), bridge: yardOf(port) }
      : { port, bridge: deviceName[network] };
  }

  /** A veth from the switch into a namespace. */
  #connect(who: string, network: NetworkName, device: string): void {
    const { port, bridge } = this.#findEnd(who, network);
    const namespace = `${this.#id}-${who}`;
    runBatch(`${this.#id}-switch`, [
      `link add ${port} type veth peer name ${device} netns ${namespace}`,
      `link set ${port} master ${bridge}`,
      `link set ${port} up`,
    ]);
    const number = this.#nodes.indexOf(who) + firstNodeNumber;
    const mac = `02:78:00:00:0${networkNames.indexOf(network)}:${number.toString(16).padStart(2, "0")}`;
    runBatch(namespace, [
      // A card keeps its address when its node is off: with another one its peers would talk to the old for half a minute.
      ...(this.#nodes.includes(who) ? [`link set ${device} address ${mac}`] : []),
      `link set ${device} up`,
    ]);
  }
}

const portOf = (who: string, network: NetworkName): string => `${who}-${deviceName[network]}`;

/** For either direction. */
function encodePair(node: string, network: NetworkName, peer: string): string {
  const [one = "", other = ""] = [node, peer].sort().map((name) => portOf(name, network));
  return `"${one}" . "${other}", "${other}" . "${one}"`;
}

const pairRules = `table bridge lab {
  set cut { type ifname . ifname; }
  chain forward {
    type filter hook forward priority 0;
    iifname . oifname @cut drop
  }
}
`;

/** Takes the first subnet that no other lab has; its first three numbers. */
function connectMachine(switchName: string): string {
  for (let number = 1; number < 250; number += 1) {
    const device = `twinrun${number}`;
    const command = ["link", "add", device, "type", "veth", "peer", "name", "machine", "netns", switchName];
    const { status, stderr } = spawnSync("ip", command, { encoding: "utf8" });
    if (status === 0) {
      runBatch(switchName, ["link set machine master mgmt", "link set machine up"]);
      runCommand(["ip", "address", "add", `10.78.${number}.1/24`, "dev", device]);
      runCommand(["ip", "link", "set", device, "up"]);
      return `10.78.${number}`;
    }
    if (!stderr.includes("File exists")) {
      throw new LabFailure({ code: "LabCommandFailed", command: `ip ${command.join(" ")}` }, stderr.trim());
    }
  }
  throw new LabFailure({ code: "LabNotPossible" }, "250 labs have taken all addresses: node test/lab/hosts.ts clean");
}
