/**
 * A lab that goes on running for a person: a Kubernetes of three nodes, the stand-in for KubeVirt, Twinrun installed by its chart.
 * `make lab`, `make lab-down`, and what can happen to it.
 *
 * usage: lab-command.ts up        starts it, and says how to use it
 *        lab-command.ts down      nothing of it stays
 *        lab-command.ts help      all that can be done with it, with its names in place
 *
 * The lab belongs to one process of its own, the supervisor (`serve`), which `up` leaves behind. It takes commands on a socket
 * (lab-socket.ts) and ends everything when it is told to, or by SIGTERM; killed with -9 it takes the nodes with it. Beside the
 * socket is what a person needs: `env` to be sourced, `guest.yaml` to be applied.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join, relative, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { stringify } from "yaml";
import { buildProtectedGuest, type GuestWish } from "../../e2e/guest-manifests.ts";
import { type Platform, startPlatform, tenantNamespace } from "../../e2e/platform.ts";
import { removeDeadLabs } from "../hosts.ts";
import { volumeTroubles } from "./faulty-volumes.ts";
import { type KubernetesLab } from "./lab.ts";
import { type Answer, askLab, LabCommandFailure, labDirectory, type LabFacts, socketName } from "./lab-socket.ts";
import { type NetworkName, networkNames } from "./network.ts";
import { requirePrograms } from "./programs.ts";

const checkout = join(import.meta.dirname, "../../..");
const inDirectory = (name: string): string => join(labDirectory, name);

type Command = {
  /** Arguments, as a person writes them. */
  readonly usage: string;
  readonly says: string;
  readonly run: (lab: KubernetesLab, args: readonly string[]) => Promise<string> | string;
};

/** What can be asked of a lab that runs. */
const commands: Readonly<Record<string, Command>> = {
  "power-off": {
    usage: "NODE",
    says: "the node loses power: everything in it is gone at once, its disk stays",
    run: async (lab, [node = ""]) => {
      await lab.powerOff(checkNode(lab, node));
      return `${node} has no power`;
    },
  },
  "power-on": {
    usage: "NODE",
    says: "it boots from its disk",
    run: async (lab, [node = ""]) => {
      await lab.powerOn(checkNode(lab, node));
      return `${node} is ready`;
    },
  },
  "cut-link": {
    usage: `NODE ${networkNames.join("|")} [OTHER-NODE]`,
    says: "silence between the node and a network, or one other node in it",
    run: (lab, args) => {
      lab.cutLink(...checkLink(lab, args));
      return `cut: ${args.join(" ")}`;
    },
  },
  "mend-link": {
    usage: "NODE NETWORK [OTHER-NODE]",
    says: "the same link is whole again",
    run: (lab, args) => {
      lab.mendLink(...checkLink(lab, args));
      return `mended: ${args.join(" ")}`;
    },
  },
  "frail-disks": {
    usage: "",
    says: "volumes that are made from now on are on disks that fail when they are told to",
    run: (lab) => {
      lab.provideFaultyVolumes();
      return "disks of new volumes can fail";
    },
  },
  "fail-disk": {
    usage: `NODE ${volumeTroubles.join("|")}`,
    says: "that is the matter with the node's newest volume; frail-disks has to come first",
    run: async (lab, [node = "", name]) => {
      const trouble = volumeTroubles.find((known) => known === name);
      if (trouble === undefined) {
        const known = volumeTroubles.join(", ");
        throw new LabCommandFailure({ code: "NotUnderstood" }, `there is no trouble ${name ?? ""}: ${known}`);
      }
      await lab.provideFaultyVolumes().begin(checkNode(lab, node), trouble);
      return `a disk of ${node}: ${trouble}`;
    },
  },
  "mend-disk": {
    usage: "NODE",
    says: "they work as they did",
    run: async (lab, [node = ""]) => {
      await lab.provideFaultyVolumes().mend(checkNode(lab, node));
      return `the disks of ${node} work`;
    },
  },
  "stop-api-server": {
    usage: "",
    says: "the API server crashes and is not started again",
    run: async (lab) => {
      await lab.stopApiServer();
      return "there is no API server";
    },
  },
  "start-api-server": {
    usage: "",
    says: "it is",
    run: async (lab) => {
      await lab.startApiServer();
      return "the API server serves";
    },
  },
  "api-outage": {
    usage: "SECONDS",
    says: "both, so long after each other",
    run: async (lab, [seconds = ""]) => {
      if (!(Number(seconds) > 0)) {
        throw new LabCommandFailure({ code: "NotUnderstood" }, `an outage lasts a number of seconds, not "${seconds}"`);
      }
      await lab.stopApiServer();
      await sleep(1000 * Number(seconds));
      await lab.startApiServer();
      return `the API server was away for ${seconds} s`;
    },
  },
  "stop-kubelet": {
    usage: "NODE",
    says: "the node's kubelet is killed and not started again; its pods go on",
    run: async (lab, [node = ""]) => {
      await lab.stopKubelet(checkNode(lab, node));
      return `${node} has no kubelet`;
    },
  },
  "start-kubelet": {
    usage: "NODE",
    says: "it is",
    run: async (lab, [node = ""]) => {
      await lab.startKubelet(checkNode(lab, node));
      return `${node} has its kubelet`;
    },
  },
  import: {
    usage: "ARCHIVE",
    says: "every node gets the images of a docker-archive",
    run: async (lab, [archive = ""]) => {
      await Promise.all(
        lab.nodeNames.filter((node) => lab.isPoweredOn(node)).map((node) => lab.importImage(node, archive)),
      );
      return `every node has ${archive}`;
    },
  },
  exec: {
    usage: "NODE COMMAND...",
    says: "runs a command on the node, as its root",
    run: (lab, [node = "", ...command]) => lab.nodeExec(checkNode(lab, node), command),
  },
  facts: {
    usage: "",
    says: "for programs: the kubeconfig, the nodes and the client's network namespace, as JSON",
    run: (lab) => {
      const { kubeconfigPath, nodeNames } = lab;
      const facts: LabFacts = { kubeconfigPath, nodeNames, clientNamespace: lab.network.clientNamespace };
      return JSON.stringify(facts);
    },
  },
  help: { usage: "", says: "this", run: (lab) => describeLab(lab) },
};

function checkNode(lab: KubernetesLab, node: string): string {
  if (!lab.nodeNames.includes(node)) {
    throw new LabCommandFailure({ code: "NotUnderstood" }, `there is no node ${node}: ${lab.nodeNames.join(", ")}`);
  }
  return node;
}

function checkLink(lab: KubernetesLab, [node = "", name, peer]: readonly string[]): [string, NetworkName, string?] {
  const network = networkNames.find((known) => known === name);
  if (network === undefined) {
    throw new LabCommandFailure(
      { code: "NotUnderstood" },
      `there is no network ${name ?? ""}: ${networkNames.join(", ")}`,
    );
  }
  return peer === undefined ? [checkNode(lab, node), network] : [checkNode(lab, node), network, checkNode(lab, peer)];
}

function describeLab(lab: KubernetesLab): string {
  const script = "node_modules/.bin/node test/lab/kubernetes/lab-command.ts";
  const [node = "", other = ""] = lab.nodeNames;
  const path = (name: string): string => relative(checkout, inDirectory(name));
  const client = `ip netns exec ${lab.network.clientNamespace}`;
  return [
    "The lab runs, with Twinrun on it. In this directory:",
    "",
    `  ${`. ${path("env")}`.padEnd(30)} # kubectl, kubectl twinrun and helm for this lab`,
    `  kubectl apply --filename ${path("guest.yaml")}`,
    `  kubectl wait --namespace ${tenantNamespace} protectedvm/${guest.name} --for condition=Ready --timeout 5m`,
    "  kubectl twinrun status --all-namespaces",
    `  ${client} psql --host ${guest.address} --username lab lab    # half a minute later its PostgreSQL answers`,
    "",
    `  make lab-power-off NODE=${node}            make lab-power-on NODE=${node}`,
    `  make lab-cut-link NODE=${node} NETWORK=replication PEER=${other}     make lab-mend-link, with the same`,
    "  make lab-api-outage SECONDS=60",
    "  make lab-down",
    "",
    `KUBECONFIG is ${lab.kubeconfigPath}. A program on a computer in the guests' network (10.77.0.0/24): ${client} COMMAND`,
    `More, each by: ${script} COMMAND`,
    "",
    ...Object.entries(commands).map(([name, { usage, says }]) => `  ${`${name} ${usage}`.padEnd(60)} ${says}`),
  ].join("\n");
}

const guest: GuestWish = {
  ...{ name: "web", kind: "debian", address: "10.77.0.60" },
  placement: { nodes: ["node-a", "node-b"] },
};

/** What a person needs beside the lab: an environment for the shell, a guest that works here. */
function writeConveniences(lab: KubernetesLab): void {
  const programs = inDirectory("bin");
  rmSync(programs, { recursive: true, force: true });
  mkdirSync(programs);
  for (const [name, path] of requirePrograms(["kubectl", "helm"])) {
    symlinkSync(path, join(programs, name));
  }
  symlinkSync(join(checkout, "src/main/kubectl-twinrun.sh"), join(programs, "kubectl-twinrun"));
  writeFileSync(inDirectory("env"), `export KUBECONFIG=${lab.kubeconfigPath}\nexport PATH=${programs}:$PATH\n`);
  writeFileSync(inDirectory("guest.yaml"), stringify(buildProtectedGuest(guest)));
}

// The supervisor.

/** Runs until it is told to go down. Its parent is told how the start goes, and does not wait for anything after it. */
async function serve(): Promise<void> {
  const say = (line: string): void => {
    if (process.connected) {
      process.send?.({ tag: "said", line });
    } else {
      process.stdout.write(`${line}\n`);
    }
  };
  const starting = startPlatform({ store: "etcd", kinds: ["busybox", "debian"], say });
  const end = (status: number): void => {
    const stopped = starting.then((platform) => platform.stop()).catch(() => undefined);
    void stopped.finally(() => {
      rmSync(inDirectory(socketName), { force: true });
      process.exit(status);
    });
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.once(signal, () => {
      end(0);
    });
  }
  process.once("uncaughtException", (cause) => {
    process.stderr.write(`${cause.stack ?? cause.message}\n`);
    end(1);
  });
  // Whoever wanted it was ended before it was there.
  const abandon = (): void => {
    end(1);
  };
  process.once("disconnect", abandon);
  const platform = await starting;
  writeConveniences(platform.lab);
  process.chdir(labDirectory);
  rmSync(socketName, { force: true });
  const server = createServer((socket) => {
    void answer(platform, socket, end);
  });
  await new Promise<void>((resolve) => server.listen(socketName, resolve));
  process.send?.({ tag: "ready", text: describeLab(platform.lab) });
  process.off("disconnect", abandon);
  process.disconnect();
}

/** One command a connection: a line of JSON there, and one back. */
async function answer(platform: Platform, socket: Socket, end: (status: number) => void): Promise<void> {
  socket.on("error", () => undefined); // Who asked did not wait.
  const [name = "", ...args] = JSON.parse(await readLine(socket)) as string[];
  if (name === "down") {
    await platform.stop();
  }
  socket.end(JSON.stringify(name === "down" ? { tag: "done", text: "" } : await run(platform.lab, name, args)), () => {
    if (name === "down") {
      end(0);
    }
  });
}

async function run(lab: KubernetesLab, name: string, args: readonly string[]): Promise<Answer> {
  const command = commands[name];
  if (command === undefined) {
    return { tag: "failed", message: `there is no command ${name}: ${Object.keys(commands).join(", ")}` };
  }
  try {
    return { tag: "done", text: await command.run(lab, args) };
  } catch (cause) {
    return { tag: "failed", message: cause instanceof Error ? cause.message : String(cause) };
  }
}

async function readLine(socket: Socket): Promise<string> {
  let text = "";
  for await (const part of socket.setEncoding("utf8").iterator({ destroyOnReturn: false })) {
    text += part as string;
    if (text.includes("\n")) {
      break;
    }
  }
  return text;
}

// Whoever asks.

/** Starts the supervisor and leaves it behind. */
async function up(): Promise<void> {
  mkdirSync(labDirectory, { recursive: true });
  const running = await askLab(["help"]).catch(() => undefined);
  if (running !== undefined) {
    print(running);
    return;
  }
  const logPath = inDirectory("log");
  const log = openSync(logPath, "w");
  const supervisor = spawn(process.execPath, [import.meta.filename, "serve"], {
    detached: true,
    stdio: ["ignore", log, log, "ipc"],
  });
  closeSync(log);
  await new Promise<void>((resolve, reject) => {
    supervisor.on("message", (message: { tag: string; line?: string; text?: string }) => {
      print(message.line === undefined ? `\n${message.text ?? ""}` : `lab: ${message.line}`);
      if (message.tag === "ready") {
        resolve();
      }
    });
    supervisor.on("exit", () => {
      const said = readFileSync(logPath, "utf8").trim();
      reject(new LabCommandFailure({ code: "NotDone" }, `the lab did not start:\n${said}`));
    });
  });
  supervisor.unref();
}

async function down(): Promise<void> {
  try {
    await askLab(["down"]);
    print("the lab is gone");
  } catch {
    await removeDeadLabs(print);
    print("no lab runs");
  }
}

const print = (line: string): void => {
  process.stdout.write(`${line.trimEnd()}\n`);
};

const [name = "help", ...args] = process.argv.slice(2);
try {
  switch (name) {
    case "serve":
      await serve();
      break;
    case "up":
      await up();
      break;
    case "down":
      await down();
      break;
    default:
      // The supervisor is elsewhere.
      print(await askLab(name === "import" ? [name, ...args.map((path) => resolve(path))] : [name, ...args]));
  }
} catch (cause) {
  process.stderr.write(`lab: ${cause instanceof Error ? cause.message : String(cause)}\n`);
  process.exit(1);
}
