/**
 * The engine process of one guest. Started by the agent with an IPC channel; the first message configures it. It ends when the
 * channel does, for then its agent is gone and the next one starts a new engine.
 */
import { randomBytes } from "node:crypto";
import { setPriority } from "node:os";
import { type AgentMessage, type EngineMessage } from "../protocol/assignment.ts";
import { Engine } from "../engine/engine.ts";
import { TlsCredentials } from "../net/tls.ts";
import { createLog } from "../telemetry/log.ts";

/** Before the guests: a heartbeat that waits for a busy guest looks like a dead host. */
const ENGINE_NICE = -15;

async function start(message: Extract<AgentMessage, { tag: "configure" }>): Promise<Engine> {
  const { config, found } = message;
  const level = process.env["TWINRUN_LOG_LEVEL"] === "debug" ? "debug" : "info";
  const log = createLog({ level, role: "engine", node: config.node, guest: config.guest });
  process.on("uncaughtException", (error) => {
    log.error({ error }, "the engine dies of a bug; its guest's output stays held");
    log.flush();
    process.exit(70);
  });
  try {
    setPriority(ENGINE_NICE);
  } catch (error) {
    log.warn({ error }, "the engine runs at ordinary priority: under load its pauses and its heartbeats suffer");
  }
  const credentials = await TlsCredentials.open(config.tls);
  const engine = new Engine({
    config,
    found,
    credentials,
    nonce: randomBytes(6).toString("hex"),
    log,
    sendToAgent: (out: EngineMessage) => {
      process.send?.(out);
    },
    exit: () => {
      log.flush();
      process.exit(0);
    },
  });
  await engine.start();
  return engine;
}

if (process.send === undefined) {
  process.stderr.write("the engine is started by the agent: run src/main/agent.ts\n");
  process.exit(2);
}
process.on("disconnect", () => {
  process.exit(0);
});
process.on("SIGTERM", () => undefined); // The agent's word counts, and its end.
let engine: Promise<Engine> | undefined;
process.on("message", (message: AgentMessage) => {
  if (engine === undefined && message.tag === "configure") {
    engine = start(message);
    return;
  }
  void engine?.then((running) => {
    running.takeAgentMessage(message);
  });
});
