/**
 * For tests: starts a process that looks like a QEMU with the shim preloaded (fake-guest-process.ts) and talks to it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync, readdirSync, readlinkSync, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { SHIM_LINK } from "./shim-layout.ts";

export type FakeGuestRequest =
  | { readonly tag: "map"; readonly bytes: number; readonly shared: boolean }
  | { readonly tag: "unmap"; readonly block: number }
  | { readonly tag: "write"; readonly writes: readonly (readonly [block: number, page: number, value: number])[] }
  | { readonly tag: "writeAlways"; readonly block: number; readonly forMs: number; readonly seed: number }
  | { readonly tag: "openTap" }
  | {
      readonly tag: "send";
      readonly from: number;
      readonly count: number;
      readonly bytes: number;
      readonly tap: number;
    }
  | { readonly tag: "sendAlways"; readonly from: number; readonly count: number; readonly tap: number }
  | { readonly tag: "listReceived" }
  | { readonly tag: "startHelper" }
  | { readonly tag: "openMonitor"; readonly path: string }
  | { readonly tag: "sendEvents"; readonly lines: readonly string[] }
  | { readonly tag: "openChannel"; readonly path: string }
  | { readonly tag: "readChannel" };
export type FakeGuestReply =
  | { readonly tag: "mapped"; readonly address: string }
  | { readonly tag: "sent"; readonly results: readonly number[]; readonly refused: number }
  | { readonly tag: "received"; readonly numbers: readonly number[] }
  | { readonly tag: "helper"; readonly hasShim: boolean }
  /** Null: the system had nothing to read. */
  | { readonly tag: "read"; readonly text: string | null }
  | { readonly tag: "done" }
  | { readonly tag: "failed"; readonly message: string };

export const SHIM_PATH = fileURLToPath(new URL("../../build/twinrun-shim.so", import.meta.url));

export class FakeGuest {
  readonly child: ChildProcess;
  readonly #waiting = new Map<number, (reply: FakeGuestReply) => void>();
  #lastId = 0;

  private constructor(child: ChildProcess) {
    this.child = child;
    child.on("message", ({ id, reply }: { id: number; reply: FakeGuestReply }) => {
      this.#waiting.get(id)?.(reply);
      this.#waiting.delete(id);
    });
  }

  /** `shim: false` starts it without the shim; `environment` may set the shim's start mode or ring size. */
  static async start(environment: Readonly<Record<string, string>> = {}, shim = true): Promise<FakeGuest> {
    const preload = shim ? { LD_PRELOAD: SHIM_PATH, TWINRUN_SHIM: "1" } : {};
    const path = fileURLToPath(new URL("fake-guest-process.ts", import.meta.url));
    const guest = new FakeGuest(fork(path, { execArgv: [], env: { ...process.env, ...preload, ...environment } }));
    await new Promise((resolve) => guest.#waiting.set(0, resolve));
    return guest;
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  async ask<Tag extends FakeGuestReply["tag"]>(
    request: FakeGuestRequest,
    expected: Tag,
  ): Promise<Extract<FakeGuestReply, { tag: Tag }>> {
    const id = ++this.#lastId;
    const answered = new Promise<FakeGuestReply>((resolve) => this.#waiting.set(id, resolve));
    this.child.send({ id, request });
    const reply = await answered;
    if (reply.tag !== expected) {
      throw new Error(`the fake guest answered ${JSON.stringify(reply)}`);
    }
    return reply as Extract<FakeGuestReply, { tag: Tag }>;
  }

  /** Writes a word of the shim's header behind the back of whoever has it open. */
  applyWord(word: number, value: number): void {
    const links = `/proc/${this.pid}/fd`;
    const fd = readdirSync(links).find((name) => readlinkSync(`${links}/${name}`) === SHIM_LINK);
    const memory = openSync(`${links}/${fd ?? ""}`, "r+");
    writeSync(memory, Uint32Array.of(value), 0, 4, word * 4);
    closeSync(memory);
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const gone = new Promise((resolve) => this.child.once("exit", resolve));
      this.child.kill("SIGKILL");
      await gone;
    }
  }
}
