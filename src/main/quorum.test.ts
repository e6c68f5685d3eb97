import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { aRequest } from "../../test/quorum/records.ts";
import { createAuthority, issueCertificate } from "../net/pki.ts";
import { QuorumConnection } from "../net/quorum-connection.ts";
import { TlsCredentials } from "../net/tls.ts";
import type { TlsFiles } from "../protocol/assignment.ts";

const SCRIPT = new URL("quorum.ts", import.meta.url).pathname;
let directory = "";
let tls: readonly string[] = [];
let node: TlsFiles;
const children: ChildProcess[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "quorum-main-"));
  await createAuthority(directory);
  const files = await issueCertificate(directory, { identity: { service: "quorum", name: "q" } });
  node = await issueCertificate(directory, { identity: { service: "node", name: "a" } });
  tls = ["--cert", files.certPath, "--key", files.keyPath, "--ca", files.caPath];
});

afterEach(() => {
  children.splice(0).forEach((child) => child.kill("SIGKILL"));
});

afterAll(() => rm(directory, { recursive: true, force: true }));

type Run = {
  readonly child: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly said: string }>;
};

function start(args: readonly string[]): Run & { readonly port: Promise<number> } {
  const child = spawn(process.execPath, [SCRIPT, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  let said = "";
  const ended = new Promise<{ status: number | null; said: string }>((resolve) => {
    child.once("close", (status) => {
      resolve({ status, said });
    });
  });
  const port = new Promise<number>((resolve, reject) => {
    const take = (chunk: Buffer): void => {
      said += chunk.toString();
      const found = /"port":([0-9]+),"msg":"quorum listens"/.exec(said)?.[1];
      if (found !== undefined) {
        resolve(Number(found));
      }
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    void ended.then(() => {
      reject(new Error(said));
    });
  });
  port.catch(() => undefined);
  return { child, ended, port };
}

const listen = ["--listen", "127.0.0.1:0"] as const;

describe("the process", () => {
  test("wrong flags: status 2, what is wrong, and the usage", async () => {
    const { status, said } = await start(["--lisen", "a:1"]).ended;
    expect(status).toBe(2);
    expect(said).toContain("Unknown option '--lisen'");
    expect(said).toContain("usage: node src/main/quorum.ts --listen");
  });

  test("serves, keeps its records over kill -9, refuses a second one on its store, ends cleanly on SIGTERM", async () => {
    const args = [...listen, "--store", `file:${join(directory, "store")}`, ...tls];
    const first = start(args);
    const credentials = await TlsCredentials.open(node);
    const ask = async (port: number, act: (quorum: QuorumConnection) => Promise<unknown>): Promise<unknown> => {
      const quorum = new QuorumConnection({ endpoints: [{ host: "127.0.0.1", port }], credentials });
      const result = await act(quorum);
      quorum.close();
      return result;
    };
    expect(await ask(await first.port, (quorum) => quorum.ask(aRequest()))).toMatchObject({ tag: "granted" });

    const second = await start(args).ended;
    expect(second.status).toBe(1);
    expect(second.said).toContain("in use by another quorum process");

    first.child.kill("SIGKILL");
    await first.ended;
    const third = start(args);
    expect(await ask(await third.port, (quorum) => quorum.read("guest"))).toMatchObject({
      tag: "read",
      record: { owner: "a" },
    });

    third.child.kill("SIGTERM");
    const { status, said } = await third.ended;
    expect(status).toBe(0);
    expect(said).toContain('"msg":"quorum stops"');
    credentials.close();
  });

  test("a missing certificate: status 1 and the file's name", async () => {
    const args = [
      ...listen,
      "--store",
      `file:${join(directory, "other")}`,
      "--cert",
      "/nowhere.crt",
      "--key",
      "/k",
      "--ca",
      "/c",
    ];
    const { status, said } = await start(args).ended;
    expect(status).toBe(1);
    expect(said).toContain("/nowhere.crt cannot be read");
  });
});
