import { afterEach, describe, expect, test } from "@jest/globals";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { callHook } from "../../test/build/hook-client.ts";
import { aVmi } from "../../test/build/hooked-vmi.ts";

const SCRIPT = new URL("hook.ts", import.meta.url).pathname;
const domainXML = readFileSync(new URL("../../test/golden/hook/kubevirt.xml", import.meta.url));
const golden = (name: string): string =>
  readFileSync(new URL(`../../test/golden/hook/${name}`, import.meta.url), "utf8");

/** What src/main/hook.ts says about how it has to be started. */
const HEAP_LIMITS = ["--max-semi-space-size=1", "--max-old-space-size=24"];

type Hook = {
  readonly child: ChildProcess;
  readonly directory: string;
  readonly socketPath: string;
  readonly said: () => string;
};
const hooks: Hook[] = [];

afterEach(() => {
  for (const { child, directory } of hooks.splice(0)) {
    child.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  }
});

function spawnHook(args: readonly string[] = [], compileCache?: string): Hook {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-hook-"));
  const shim = join(directory, "given.so");
  writeFileSync(shim, "\x7fELF");
  const command = [...HEAP_LIMITS, SCRIPT, "--socket-directory", directory, "--shim", shim, ...args];
  const cache = compileCache === undefined ? {} : { NODE_COMPILE_CACHE: compileCache };
  const child = spawn(process.execPath, command, {
    env: { ...process.env, ...cache, CONTAINER_NAME: "hook-sidecar-0" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  const take = (chunk: Buffer): void => {
    said += chunk.toString();
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const hook = { child, directory, socketPath: join(directory, "twinrun.sock"), said: () => said };
  hooks.push(hook);
  return hook;
}

async function startHook(args: readonly string[] = [], compileCache?: string): Promise<Hook> {
  const hook = spawnHook(args, compileCache);
  while (!hook.said().includes("hook listens")) {
    expect(hook.child.exitCode).toBeNull();
    await sleep(10);
  }
  return hook;
}

const onDefineDomain = (vmi = aVmi()): object => ({ domainXML, vmi: Buffer.from(vmi) });

describe("what virt-launcher asks", () => {
  test("Info names the hook points and versions", async () => {
    const { socketPath } = await startHook();
    const { message } = await callHook(socketPath, "info.Info", "Info");
    expect(message).toEqual({
      name: "twinrun",
      hookPoints: [
        { name: "OnDefineDomain", priority: -1000 },
        { name: "Shutdown", priority: -1000 },
      ],
      versions: ["v1alpha2", "v1alpha3"],
    });
  });

  test("with --version only that one is offered", async () => {
    const { socketPath } = await startHook(["--version", "v1alpha2"]);
    const { message } = await callHook(socketPath, "info.Info", "Info");
    expect(message).toMatchObject({ hookPoints: [{ name: "OnDefineDomain" }], versions: ["v1alpha2"] });
    expect(await callHook(socketPath, "v1alpha3.Callbacks", "Shutdown")).toMatchObject({ status: 12 });
  });

  test.each(["v1alpha2", "v1alpha3"])(
    "OnDefineDomain of %s gives the edited domain, again and again",
    async (version) => {
      const { socketPath } = await startHook();
      for (const startedAs of ["primary", "standby"]) {
        const answer = await callHook(
          socketPath,
          `${version}.Callbacks`,
          "OnDefineDomain",
          onDefineDomain(aVmi({ startedAs })),
        );
        expect(String(answer.message["domainXML"])).toBe(golden(`kubevirt.${startedAs}.xml`));
      }
    },
  );

  test("after Shutdown it answers and ends, and takes its socket with it", async () => {
    const { child, socketPath } = await startHook();
    const ended = once(child, "exit");
    expect(await callHook(socketPath, "v1alpha3.Callbacks", "Shutdown")).toMatchObject({ status: 0 });
    expect(await ended).toEqual([0, null]);
    expect(existsSync(socketPath)).toBe(false);
  });
});

describe("the folder that virt-launcher sees", () => {
  test("has the shim in a folder, for all to read, and no file but the socket", async () => {
    const { directory } = await startHook();
    const delivered = join(directory, "lib/twinrun-shim.so");
    expect(readFileSync(delivered, "latin1")).toBe("\x7fELF");
    expect([statSync(delivered).mode & 0o777, statSync(join(directory, "lib")).mode & 0o777]).toEqual([0o555, 0o755]);
  });
});

describe("the 64 MB of a sidecar", () => {
  /** What cannot be taken from the process again; of the rest, Node's binary and libraries, the kernel keeps what has room. */
  const readAnonymousMb = (pid: number | undefined): number =>
    (Number(/^RssAnon:\s+([0-9]+) kB/m.exec(readFileSync(`/proc/${pid ?? 0}/status`, "utf8"))?.[1]) * 1024) / 1e6;

  test("have room for it, and for the largest messages one after the other", async () => {
    const cache = mkdtempSync(join(tmpdir(), "twinrun-hook-cache-"));
    try {
      const first = await startHook([], cache);
      await callHook(first.socketPath, "v1alpha3.Callbacks", "Shutdown");
      await once(first.child, "exit");

      const { socketPath, child } = await startHook([], cache);
      expect(readAnonymousMb(child.pid)).toBeLessThan(22); // 16.5 measured.
      const large = onDefineDomain(aVmi() + " ".repeat(1_000_000));
      for (let count = 0; count < 40; count += 1) {
        expect(await callHook(socketPath, "v1alpha3.Callbacks", "OnDefineDomain", large)).toMatchObject({ status: 0 });
      }
      expect(readAnonymousMb(child.pid)).toBeLessThan(45); // 34 measured.
    } finally {
      rmSync(cache, { recursive: true, force: true });
    }
  });
});

describe("what is wrong", () => {
  test("is answered with a status and a sentence, and the process lives on", async () => {
    const { socketPath, child } = await startHook();
    const define = (request: object): Promise<object> =>
      callHook(socketPath, "v1alpha3.Callbacks", "OnDefineDomain", request);
    const says = (text: string): unknown => expect.stringContaining(text);
    const badXml = { ...onDefineDomain(), domainXML: Buffer.from("<domain>\n<a></domain>") };
    expect(await define(badXml)).toMatchObject({ status: 3, says: says("line 2, column 4: </domain> closes <a>") });
    expect(await define({ domainXML })).toMatchObject({ status: 3, says: says("vmi is missing") });
    expect(await define(onDefineDomain("{"))).toMatchObject({ status: 3, says: says("the VMI is no JSON") });
    expect(await define(onDefineDomain("{}"))).toMatchObject({ status: 9, says: says("twinrun.dev/guest") });
    const hostdev = Buffer.from("<domain><devices><hostdev/></devices></domain>");
    expect(await define({ ...onDefineDomain(), domainXML: hostdev })).toMatchObject({
      status: 9,
      says: says("hardware"),
    });
    expect(await define(onDefineDomain(" ".repeat(2 ** 21)))).toMatchObject({ status: 8, says: says("1048576 bytes") });
    expect(await callHook(socketPath, "v1alpha3.Callbacks", "PreCloudInitIso")).toMatchObject({
      status: 12,
      says: says("did not subscribe to PreCloudInitIso"),
    });
    expect(await define(onDefineDomain())).toMatchObject({ status: 0 });
    expect(child.exitCode).toBeNull();
  });

  test.each<[string, Record<string, string>, Buffer, object]>([
    ["no message", {}, Buffer.alloc(0), { "grpc-status": "3" }],
    ["a length that lies", {}, Buffer.from([0, 0, 0, 0, 9, 1]), { "grpc-status": "3" }],
    ["a compressed message", {}, Buffer.from([1, 0, 0, 0, 0]), { "grpc-status": "12" }],
    ["another content", { "content-type": "text/plain" }, Buffer.alloc(0), { ":status": 415 }],
    ["another path", { ":path": "/a.B/C" }, Buffer.from([0, 0, 0, 0, 0]), { "grpc-status": "12" }],
  ])("a raw call with %s is refused", async (_, headers, body, expected) => {
    const { socketPath } = await startHook();
    const session = connectHttp2("http://hook", { createConnection: () => connect(socketPath) });
    const call = session.request({
      ":method": "POST",
      ":path": "/kubevirt.hooks.info.Info/Info",
      "content-type": "application/grpc",
      ...headers,
    });
    call.end(body);
    const [answer] = (await once(call, "response")) as [object];
    expect(answer).toMatchObject(expected);
    session.destroy();
    expect(await callHook(socketPath, "info.Info", "Info")).toMatchObject({ status: 0 });
  });

  test("a client that speaks no HTTP/2, or goes away in the middle, does no harm", async () => {
    const { socketPath } = await startHook();
    for (const start of ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0".repeat(100)]) {
      const socket = connect(socketPath).on("error", () => undefined);
      await once(socket, "connect");
      socket.write(start);
      await sleep(20);
      socket.destroy();
    }
    expect(await callHook(socketPath, "info.Info", "Info")).toMatchObject({ status: 0 });
  });

  test.each([
    [["--version", "v1beta1"], 2, "is none of v1alpha2, v1alpha3"],
    [["--verbose"], 2, "usage: node src/main/hook.ts"],
    [["--shim", "/nowhere/shim.so"], 1, "build it"],
  ])("started with %j it ends with status %i", async (args, status, says) => {
    const hook = spawnHook(args);
    expect(await once(hook.child, "close")).toEqual([status, null]);
    expect(hook.said()).toContain(says);
  });
});
