/**
 * Stands in for main/engine.ts in tests of the agent. It speaks the real channel and does what files in the guest's run
 * directory tell it:
 *
 *   fake-engine.json    read at the start: {wants?, fresh?, leaves?: {reason, afterMs}, ignoresStop?, staysWhenAlone?}
 *   fake-say.json       sent to the agent as it stands, then removed, whenever it appears
 *   fake-engine.jsonl   written: every message from the agent, with the process id
 */
import { appendFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  type AgentMessage,
  type EngineConfig,
  type EngineExitReason,
  type EngineMessage,
  type GuestShape,
} from "../../src/protocol/assignment.ts";

export type FakeEngineScript = {
  readonly wants?: GuestShape;
  readonly fresh?: boolean;
  readonly leaves?: { readonly reason: EngineExitReason; readonly afterMs: number };
  readonly ignoresStop?: boolean;
  readonly staysWhenAlone?: boolean;
};

function send(message: EngineMessage): void {
  process.send?.(message);
}

function leave(reason: EngineExitReason): void {
  send({ tag: "exiting", reason, message: `fake engine leaves: ${reason}` });
  process.disconnect();
  process.exit(0);
}

function configure(config: EngineConfig): void {
  const file = join(config.runDirectory, "fake-engine.json");
  const script = (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {}) as FakeEngineScript;
  const said = join(config.runDirectory, "fake-say.json");
  process.on("message", (message: AgentMessage) => {
    note(config, message);
    if (message.tag === "stop" && script.ignoresStop !== true) {
      leave("stopped");
    }
    if (message.tag === "switchover") {
      send({ tag: "switchoverAnswered", requestId: message.requestId, accepted: true, message: "handing over" });
    }
  });
  process.on("disconnect", () => {
    if (script.staysWhenAlone !== true) {
      process.exit(1);
    }
  });
  setInterval(() => {
    if (existsSync(said)) {
      const message = JSON.parse(readFileSync(said, "utf8")) as EngineMessage;
      rmSync(said);
      if (message.tag === "exiting") {
        leave(message.reason);
      }
      send(message);
    }
  }, 20);
  if (script.wants !== undefined) {
    send({ tag: "guestWanted", as: script.wants, fresh: script.fresh ?? false });
  }
  const { leaves } = script;
  if (leaves !== undefined) {
    setTimeout(() => {
      leave(leaves.reason);
    }, leaves.afterMs);
  }
}

function note(config: EngineConfig, message: AgentMessage): void {
  const line = JSON.stringify({ enginePid: process.pid, message });
  appendFileSync(join(config.runDirectory, "fake-engine.jsonl"), `${line}\n`);
}

if (process.send === undefined) {
  process.exit(2); // The warm-up: everything is loaded, there is nobody to talk to.
}
process.once("message", (first: AgentMessage) => {
  if (first.tag !== "configure") {
    throw new Error(`the first message is ${first.tag}`);
  }
  note(first.config, first);
  configure(first.config);
});
