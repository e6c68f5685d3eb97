/** Starts a client of this folder inside the client host and brings its result home. */
import { type ChildProcess } from "node:child_process";
import { type SpawnOptions } from "../hosts.ts";
import { type BurnOptions } from "./burn.ts";
import { type ClientMessage } from "./client-contract.ts";
import { type ConversationProgress, type ConversationResult } from "./conversation.ts";
import { type CountedOptions } from "./counted.ts";
import { type LedgerOptions } from "./ledger.ts";
import { type RedisOptions } from "./redis.ts";

export type ClientOptions = {
  readonly burn: BurnOptions;
  readonly counted: CountedOptions;
  readonly ledger: LedgerOptions;
  readonly redis: RedisOptions;
};

/** What has a client host: either lab. */
export type ClientLab = {
  spawn(host: "c", command: readonly string[], options?: SpawnOptions): ChildProcess;
};

export class Client {
  readonly kind: keyof ClientOptions;
  readonly #child: ChildProcess;
  readonly #result: Promise<ConversationResult>;
  #progress: ConversationProgress = { repliesCount: 0, faultsCount: 0 };
  #said = "";

  constructor(kind: keyof ClientOptions, child: ChildProcess) {
    this.kind = kind;
    this.#child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#said += text));
    this.#result = new Promise((resolve, reject) => {
      child.on("message", (message) => {
        this.#take(message as ClientMessage, resolve, reject);
      });
      child.on("exit", (status, signal) => {
        reject(new Error(`the ${kind} client ended with ${signal ?? String(status)} and no result\n${this.#said}`));
      });
    });
    // Who waits gets it; who never waits (an aborted run) must not die of it.
    this.#result.catch(() => undefined);
  }

  get progress(): ConversationProgress {
    return this.#progress;
  }

  /** Resolves when the client ends by itself (`requestsMax`), or was stopped. */
  get result(): Promise<ConversationResult> {
    return this.#result;
  }

  stop(): Promise<ConversationResult> {
    if (this.#child.connected) {
      // One that dies just now tells by its exit.
      this.#child.send("stop", () => undefined);
    }
    return this.#result;
  }

  #take(message: ClientMessage, resolve: (result: ConversationResult) => void, reject: (cause: Error) => void): void {
    switch (message.tag) {
      case "progress":
        this.#progress = message.progress;
        return;
      case "result":
        resolve(message.result);
        return;
      case "failed":
        reject(new Error(`the ${this.kind} client: ${message.message}`));
    }
  }
}

export function startClient<Kind extends keyof ClientOptions>(
  lab: ClientLab,
  kind: Kind,
  options: ClientOptions[Kind],
): Client {
  const program = new URL(`${kind}.ts`, import.meta.url).pathname;
  const child = lab.spawn("c", [process.execPath, program, JSON.stringify(options)], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  return new Client(kind, child);
}

/** Runs a client to its end for a time, and returns its result. */
export async function runClient<Kind extends keyof ClientOptions>(
  lab: ClientLab,
  kind: Kind,
  options: ClientOptions[Kind],
  durationMs: number,
): Promise<ConversationResult> {
  const client = startClient(lab, kind, options);
  const timer = setTimeout(() => {
    void client.stop().catch(() => undefined);
  }, durationMs);
  try {
    return await client.result;
  } finally {
    clearTimeout(timer);
  }
}
