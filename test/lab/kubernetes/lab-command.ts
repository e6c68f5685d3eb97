/**
 * A lab of Kubernetes nodes that goes on running for a person: `make lab`, `make lab-down`, and what can happen to it.
 *
 * usage: lab-command.ts up [ARCHIVE...]      starts it; every node gets these images (docker-archives)
 *        lab-command.ts down                 nothing of it stays
 *        lab-command.ts help                 all that can be done with it, with its names in place
 *
 * The lab belongs to one process of its own, the supervisor (`serve`), which `up` leaves behind. It takes commands on a socket
 * in build/lab (or TWINRUN_LAB, for another lab beside it) and ends everything when it is told to, or by SIGTERM; killed with
 * -9 it takes the nodes with it.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { Failure } from "../../../src/lib/failure.ts";
import { removeDeadLabs } from "../hosts.ts";
import { type KubernetesLab, startLab } from "./lab.ts";
import { type NetworkName, networkNames } from "./network.ts";

class CommandFailure extends Failure<{ readonly code: "NoLab" | "NotUnderstood" | "NotDone" }> {}

/** One lab for each directory. */
const directory = resolve(process.env["TWINRUN_LAB"] ?? join(import.meta.dirname, "../../../build/lab"));
/** A socket's path may have no more than a hundred characters, so both ends go to its directory first. */
const socketName = "socket";
const logPath = join(directory, "log");

type Answer = { readonly tag: "done"; readonly text: string } | { readonly tag: "failed"; readonly message: string };

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
  help: { usage: "", says: "this", run: (lab) => describeLab(lab) },
};

function checkNode(lab: KubernetesLab, node: string): string {
  if (!lab.nodeNames.includes(node)) {
    throw new CommandFailure({ code: "NotUnderstood" }, `there is no node ${node}: ${lab.nodeNames.join(", ")}`);
  }
  return node;
}

function checkLink(lab: KubernetesLab, [node = "", name, peer]: readonly string[]): [string, NetworkName, string?] {
  const network = networkNames.find((known) => known === name);
  if (network === undefined) {
    throw new CommandFailure(
      { code: "NotUnderstood" },
      `there is no network ${name ?? ""}: ${networkNames.join(", ")}`,
    );
  }
  return peer === undefined ? [checkNode(lab, node), network] : [checkNode(lab, node), network, checkNode(lab, peer)];
}

function describeLab(lab: KubernetesLab): string {
  const script = "node_modules/.bin/node test/lab/kubernetes/lab-command.ts";
  const [node = ""] = lab.nodeNames;
  return [
    "The lab runs. For kubectl:",
    "",
    `  export KUBECONFIG=${lab.kubeconfigPath}`,
    "",
    `  make lab-power-off NODE=${node}`,
    `  make lab-power-on NODE=${node}`,
    "  make lab-down",
    "",
    `A program on a computer in the guests' network (10.77.0.0/24): ip netns exec ${lab.network.clientNamespace} COMMAND`,
    `More, each by: ${script} COMMAND`,
    "",
    ...Object.entries(commands).map(([name, { usage, says }]) => `  ${`${name} ${usage}`.padEnd(60)} ${says}`),
  ].join("\n");
}

// The supervisor.

/** Runs until it is told to go down. Its parent is told how the start goes, and does not wait for anything after it. */
async function serve(images: readonly string[]): Promise<void> {
  const starting = startLab({ images, say: (line) => process.send?.({ tag: "said", line }) });
  const end = (status: number): void => {
    const stopped = starting.then((lab) => lab.stop()).catch(() => undefined);
    void stopped.finally(() => {
      rmSync(join(directory, socketName), { force: true });
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
  const lab = await starting;
  process.chdir(directory);
  rmSync(socketName, { force: true });
  const server = createServer((socket) => {
    void answer(lab, socket, end);
  });
  await new Promise<void>((resolve) => server.listen(socketName, resolve));
  process.send?.({ tag: "ready", text: describeLab(lab) });
  process.disconnect();
}

/** One command a connection: a line of JSON there, and one back. */
async function answer(lab: KubernetesLab, socket: Socket, end: (status: number) => void): Promise<void> {
  socket.on("error", () => undefined); // Who asked did not wait.
  const [name = "", ...args] = JSON.parse(await readLine(socket)) as string[];
  if (name === "down") {
    await lab.stop();
  }
  socket.end(JSON.stringify(name === "down" ? { tag: "done", text: "" } : await run(lab, name, args)), () => {
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
async function up(images: readonly string[]): Promise<void> {
  mkdirSync(directory, { recursive: true });
  const running = await ask(["help"]).catch(() => undefined);
  if (running !== undefined) {
    print(running);
    return;
  }
  const log = openSync(logPath, "w");
  const paths = images.map((path) => resolve(path));
  const supervisor = spawn(process.execPath, [import.meta.filename, "serve", ...paths], {
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
      reject(new CommandFailure({ code: "NotDone" }, `the lab did not start:\n${said}`));
    });
  });
  supervisor.unref();
}

async function down(): Promise<void> {
  try {
    await ask(["down"]);
    print("the lab is gone");
  } catch {
    await removeDeadLabs(print);
    print("no lab runs");
  }
}

/** The answer of the lab that runs. */
async function ask(command: readonly string[]): Promise<string> {
  const socket = await connectToLab();
  socket.write(`${JSON.stringify(command)}\n`);
  let text = "";
  for await (const part of socket.setEncoding("utf8")) {
    text += part as string;
  }
  const given = JSON.parse(text) as Answer;
  if (given.tag === "failed") {
    throw new CommandFailure({ code: "NotDone" }, given.message);
  }
  return given.text;
}

function connectToLab(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    try {
      process.chdir(directory);
    } catch {
      reject(new CommandFailure({ code: "NoLab" }, "no lab runs: make lab"));
      return;
    }
    const socket = connect(socketName, () => {
      resolve(socket);
    });
    socket.on("error", () => {
      reject(new CommandFailure({ code: "NoLab" }, "no lab runs: make lab"));
    });
  });
}

const print = (line: string): void => {
  process.stdout.write(`${line.trimEnd()}\n`);
};

const [name = "help", ...args] = process.argv.slice(2);
try {
  switch (name) {
    case "serve":
      await serve(args);
      break;
    case "up":
      await up(args);
      break;
    case "down":
      await down();
      break;
    default:
      // The supervisor is elsewhere.
      print(await ask(name === "import" ? [name, ...args.map((path) => resolve(path))] : [name, ...args]));
  }
} catch (cause) {
  process.stderr.write(`lab: ${cause instanceof Error ? cause.message : String(cause)}\n`);
  process.exit(1);
}
