/** The service and its client over real mutual TLS; the store is real, or a small one that can be told to misbehave. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeDisk } from "../../test/quorum/fake-disk.ts";
import { FakeLeases } from "../../test/quorum/fake-leases.ts";
import { aRecord, aRequest } from "../../test/quorum/records.ts";
import { createAuthority, filesOf, issueCertificate } from "../net/pki.ts";
import { QuorumConnection, type QuorumConnectionOptions } from "../net/quorum-connection.ts";
import { encodeQuorumMessage, QuorumMessageDecoder } from "../net/quorum-wire.ts";
import { connectSecurely } from "../net/secure-connect.ts";
import { TlsCredentials } from "../net/tls.ts";
import { type Cluster } from "../kube/cluster.ts";
import { QuorumRecords } from "../operator/quorum-records.ts";
import type { QuorumRequest } from "../protocol/quorum-record.ts";
import { silentLog } from "../telemetry/log.ts";
import { FileStore } from "./file-store.ts";
import { LeaseStore } from "./lease-store.ts";
import { QuorumServer, type QuorumServerOptions } from "./quorum-server.ts";
import { StoreFailure, type RecordStore } from "./record-store.ts";

let directory = "";
const credentials = new Map<string, TlsCredentials>();
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "quorum-test-"));
  await createAuthority(directory);
  const identities = [
    { service: "node", name: "a" },
    { service: "node", name: "b" },
    { service: "quorum", name: "q" },
    { service: "operator", name: "o" },
  ] as const;
  for (const identity of identities) {
    await issueCertificate(directory, { identity });
    credentials.set(identity.name, await TlsCredentials.open(filesOf(directory, identity)));
  }
});

afterAll(async () => {
  credentials.forEach((entry) => {
    entry.close();
  });
  await rm(directory, { recursive: true, force: true });
});

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) {
    await close();
  }
});

function credentialsOf(name: string): TlsCredentials {
  const found = credentials.get(name);
  if (found === undefined) {
    throw new Error(`no certificate for ${name}`);
  }
  return found;
}

async function serve(store: RecordStore, change: Partial<QuorumServerOptions> = {}): Promise<QuorumServer> {
  const server = await QuorumServer.open({
    hosts: ["127.0.0.1"],
    port: 0,
    credentials: credentialsOf("q"),
    store,
    log: silentLog,
    ...change,
  });
  closing.push(() => server.close());
  return server;
}

function ask(name: string, ports: readonly number[], change: Partial<QuorumConnectionOptions> = {}): QuorumConnection {
  const connection = new QuorumConnection({
    endpoints: ports.map((port) => ({ host: "127.0.0.1", port })),
    credentials: credentialsOf(name),
    ...change,
  });
  closing.push(() => {
    connection.close();
  });
  return connection;
}

const newStore = (): Promise<FileStore> => FileStore.load(new FakeDisk());
const reading = (connection: QuorumConnection, guest = "guest"): Promise<unknown> =>
  connection.read(guest).then((result) => (result.tag === "read" ? result.record : result.failure.detail));
const request = (
  by: string,
  requestId: string,
  expectedVersion: number,
  change: QuorumRequest["change"],
): QuorumRequest => aRequest({ by, requestId, expectedVersion, change });

async function until(condition: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + 5_000;
  while (!condition()) {
    if (performance.now() > endMs) {
      throw new Error(`timed out waiting until ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("the rules over the wire", () => {
  test("a pair's life: created, in sync, taken over; the old owner is told who owns the guest now", async () => {
    const { port } = await serve(await newStore());
    const [a, b] = [ask("a", [port]), ask("b", [port])];
    expect(await reading(a)).toBeUndefined();
    const created = await a.ask(request("a", "a1", 0, { tag: "create", peer: "b" }));
    expect(created).toEqual({ tag: "granted", changed: true, record: aRecord({ lastRequestId: "a1" }) });
    expect(await b.ask(request("b", "b1", 1, { tag: "takeOver" }))).toMatchObject({
      tag: "refused",
      reason: "PeerStale",
    });
    expect(await a.ask(request("a", "a2", 1, { tag: "declareInSync", epoch: 7 }))).toMatchObject({ tag: "granted" });
    const taken = await b.ask(request("b", "b2", 2, { tag: "takeOver" }));
    expect(taken).toMatchObject({
      tag: "granted",
      record: { version: 3, term: 2, owner: "b", peer: "a", peerState: "Stale", epoch: 7 },
    });
    const late = await a.ask(request("a", "a3", 2, { tag: "runAlone" }));
    expect(late).toMatchObject({ tag: "refused", reason: "VersionMismatch", record: { owner: "b", term: 2 } });
    expect(await reading(a)).toEqual(taken.tag === "granted" ? taken.record : undefined);
  });

  test("of both sides asking at once on one version exactly one is granted", async () => {
    const { port } = await serve(await newStore());
    const [a, b] = [ask("a", [port]), ask("b", [port])];
    await a.ask(request("a", "create", 0, { tag: "create", peer: "b" }));
    let version = 1;
    for (let round = 0; round < 20; round += 1) {
      const owner = round % 2 === 0 ? "a" : "b";
      const [own, other] = owner === "a" ? [a, b] : [b, a];
      const peer = owner === "a" ? "b" : "a";
      await own.ask(request(owner, `sync ${round}`, version, { tag: "declareInSync", epoch: round }));
      const outcomes = await Promise.all([
        own.ask(request(owner, `alone ${round}`, version + 1, { tag: "runAlone" })),
        other.ask(request(peer, `take ${round}`, version + 1, { tag: "takeOver" })),
      ]);
      expect(outcomes.map(({ tag }) => tag).sort()).toEqual(["granted", "refused"]);
      version += 2;
      if (outcomes[0].tag === "granted") {
        await own.ask(request(owner, `sync again ${round}`, version, { tag: "declareInSync", epoch: round }));
        await other.ask(request(peer, `take again ${round}`, version + 1, { tag: "takeOver" }));
        version += 2;
      }
    }
  });

  test("a repeated request is done once; a replayed one of an old version not at all", async () => {
    const { port } = await serve(await newStore());
    const a = ask("a", [port]);
    const create = request("a", "a1", 0, { tag: "create", peer: "b" });
    await a.ask(create);
    expect(await a.ask(create)).toMatchObject({ tag: "granted", changed: false, record: { version: 1 } });
    const sync = request("a", "a2", 1, { tag: "declareInSync", epoch: 1 });
    await a.ask(sync);
    await a.ask(request("a", "a3", 2, { tag: "runAlone" }));
    expect(await a.ask(sync)).toMatchObject({
      tag: "refused",
      reason: "VersionMismatch",
      record: { version: 3, peerState: "Stale" },
    });
    expect(await a.ask(create)).toMatchObject({ tag: "refused", reason: "RecordExists" });
  });
});

describe("who may ask", () => {
  test("a node cannot speak for another one", async () => {
    const { port } = await serve(await newStore());
    const [a, b] = [ask("a", [port]), ask("b", [port])];
    await a.ask(request("a", "a1", 0, { tag: "create", peer: "b" }));
    const outcome = await b.ask(request("a", "a2", 1, { tag: "declareInSync", epoch: 1 }));
    expect(outcome).toMatchObject({ tag: "unreachable", failure: { detail: { code: "ForeignNode" } } });
    expect(outcome.tag === "unreachable" ? outcome.failure.message : "").toContain("node b asks in the name of node a");
    expect(await reading(a)).toMatchObject({ version: 1, peerState: "Stale" });
  });

  test("the operator removes the record of a guest that is gone, and nobody else does", async () => {
    const { port } = await serve(await newStore());
    const a = ask("a", [port]);
    await a.ask(request("a", "a1", 0, { tag: "create", peer: "b" }));
    await expect(a.remove("guest")).rejects.toMatchObject({ detail: { code: "ForeignNode" } });
    expect(await reading(a)).toMatchObject({ version: 1 });
    const operator = ask("o", [port]);
    await operator.remove("guest");
    expect(await reading(a)).toBeUndefined();
    await operator.remove("guest");
    // It removes and looks, and asks for nothing else.
    expect(await operator.ask(request("a", "o1", 0, { tag: "create", peer: "b" }))).toMatchObject({
      tag: "unreachable",
      failure: { detail: { code: "ForeignNode" } },
    });
  });

  test("the operator finds it by its Service's EndpointSlices", async () => {
    const { port } = await serve(await newStore());
    const a = ask("a", [port]);
    await a.ask(request("a", "a1", 0, { tag: "create", peer: "b" }));
    const slice = { addressType: "IPv4", endpoints: [{ addresses: ["127.0.0.1"] }], ports: [{ name: "quorum", port }] };
    const asked: unknown[] = [];
    const list = (kind: { readonly kind: string }, scope: unknown): Promise<unknown> => {
      asked.push(kind.kind, scope);
      return Promise.resolve({ items: [slice], resourceVersion: "1" });
    };
    const records = new QuorumRecords({
      cluster: { list } as unknown as Pick<Cluster, "list">,
      ...{ namespace: "twinrun", service: "twinrun-quorum", endpoints: [] },
      openCredentials: () => Promise.resolve(credentialsOf("o")),
    });
    expect(records.isInLeases).toBe(false);
    await records.remove("guest");
    expect(await reading(a)).toBeUndefined();
    expect(asked).toEqual([
      "EndpointSlice",
      { namespace: "twinrun", labelSelector: "kubernetes.io/service-name=twinrun-quorum" },
    ]);
  });

  test("where records are objects of the API server the operator is told so", async () => {
    const { port } = await serve(new LeaseStore({ leases: new FakeLeases() }));
    await expect(ask("o", [port]).remove("guest")).rejects.toThrow("objects of the API server");
  });

  test("a quorum's certificate is none of a node, and a node's none of a quorum", async () => {
    const { port } = await serve(await newStore());
    const outcome = await ask("q", [port], { timing: { askTimeoutMs: 400 } }).ask(
      request("q", "r", 0, { tag: "create", peer: "b" }),
    );
    expect(outcome.tag).toBe("unreachable");
    const impostor = await serve(await newStore(), { credentials: credentialsOf("b") });
    const refused = await ask("a", [impostor.port], { timing: { askTimeoutMs: 400 } }).read("guest");
    expect(refused.tag === "unreachable" ? refused.failure.message : "").toContain("expected any twinrun://quorum/");
  });
});

describe("bad input", () => {
  async function connectRaw(
    port: number,
  ): Promise<{ write(bytes: Uint8Array): void; answers: unknown[]; isClosed(): boolean }> {
    const expected = { service: "quorum" } as const;
    const target = { host: "127.0.0.1", port };
    const { socket } = await connectSecurely({ target, credentials: credentialsOf("a"), expected, timeoutMs: 2_000 });
    const decoder = new QuorumMessageDecoder();
    const answers: unknown[] = [];
    socket.on("data", (chunk: Buffer) => answers.push(...decoder.push(chunk)));
    socket.on("error", () => undefined);
    closing.push(() => socket.destroy());
    return { write: (bytes) => socket.write(bytes), answers, isClosed: () => socket.destroyed };
  }
  const framed = (text: string): Uint8Array => {
    const bytes = Buffer.alloc(4 + Buffer.byteLength(text));
    bytes.writeUInt32BE(bytes.length - 4);
    bytes.write(text, 4);
    return bytes;
  };

  test.each([
    { what: "a length of 2 GiB", bytes: Buffer.from([0x7f, 255, 255, 255]) },
    { what: "HTTP", bytes: Buffer.from("POST /v3/kv/txn HTTP/1.1\r\n\r\n") },
    { what: "text that is no JSON", bytes: framed("{") },
    { what: "an unknown call", bytes: framed('{"version":1,"id":1,"call":{"tag":"erase"}}') },
    {
      what: "a guest that leads out of the directory",
      bytes: framed('{"version":1,"id":1,"call":{"tag":"read","guest":"../x"}}'),
    },
    { what: "a fraction as version", bytes: framed(JSON.stringify({ version: 1, id: 1, call: { tag: "change", request: { ...aRequest(), expectedVersion: 0.5 } } })) }, // prettier-ignore
    { what: "null", bytes: framed("null") },
  ])("$what ends that connection and nothing else", async ({ bytes }) => {
    const { port } = await serve(await newStore());
    const raw = await connectRaw(port);
    raw.write(bytes);
    await until(() => raw.isClosed(), "closed");
    expect(await reading(ask("a", [port]))).toBeUndefined();
  });

  test("a call of another version is refused with both named, and the connection stays", async () => {
    const { port } = await serve(await newStore());
    const raw = await connectRaw(port);
    raw.write(encodeQuorumMessage({ version: 2, id: 9, call: { tag: "read", guest: "guest" } }));
    raw.write(encodeQuorumMessage({ version: 1, id: 10, call: { tag: "read", guest: "guest" } }));
    await until(() => raw.answers.length === 2, "answered");
    expect(raw.answers).toMatchObject([
      {
        id: 9,
        answer: {
          tag: "notDone",
          code: "PeerVersionMismatch",
          why: expect.stringMatching(/version 2 .*service 1/) as unknown,
        },
      },
      { id: 10, answer: { tag: "record" } },
    ]);
  });

  test("a node that asks without end is slowed down, and others are not", async () => {
    const { port } = await serve(await newStore());
    const raw = await connectRaw(port);
    const calls = Array.from({ length: 5_000 }, (_, id) =>
      encodeQuorumMessage({ version: 1, id, call: { tag: "read", guest: "guest" } }),
    );
    raw.write(Buffer.concat(calls));
    await until(() => raw.answers.length >= 100, "the burst is answered");
    const b = ask("b", [port]);
    await b.read("guest");
    const startedMs = performance.now();
    await b.read("guest");
    expect(performance.now() - startedMs).toBeLessThan(200);
    expect(raw.answers.length).toBeLessThan(1_000);
  });

  test("a connection that says nothing is closed", async () => {
    const { port } = await serve(await newStore(), { silenceMs: 100 });
    const raw = await connectRaw(port);
    await until(() => raw.isClosed(), "closed");
  });
});

/** A store whose answers can be held back or spoiled. */
class WilfulStore implements RecordStore {
  readonly #inner: RecordStore;
  beforeRead: () => Promise<void> = () => Promise.resolve();
  beforeSet: () => Promise<void> = () => Promise.resolve();
  afterSet: () => Promise<void> = () => Promise.resolve();
  sets = 0;

  constructor(inner: RecordStore) {
    this.#inner = inner;
  }
  async read(guest: string): ReturnType<RecordStore["read"]> {
    await this.beforeRead();
    return await this.#inner.read(guest);
  }
  async compareAndSet(...args: Parameters<RecordStore["compareAndSet"]>): ReturnType<RecordStore["compareAndSet"]> {
    await this.beforeSet();
    const outcome = await this.#inner.compareAndSet(...args);
    this.sets += outcome.tag === "stored" ? 1 : 0;
    await this.afterSet();
    return outcome;
  }
  close(): Promise<void> {
    return this.#inner.close();
  }
}

const never = (): Promise<void> => new Promise(() => undefined);
const create = request("a", "a1", 0, { tag: "create", peer: "b" });

describe("what the client makes of faults", () => {
  const timing = { askTimeoutMs: 600, answerTimeoutMs: 150, healthEveryMs: 50 };

  test("the store does not take it: unreachable, with the reason", async () => {
    const store = new WilfulStore(await newStore());
    store.beforeSet = () =>
      Promise.reject(new StoreFailure({ code: "StoreUnavailable", why: "full" }, "the disk is full"));
    const { port } = await serve(store);
    const outcome = await ask("a", [port], { timing }).ask(create);
    expect(outcome).toMatchObject({ tag: "unreachable", failure: { detail: { code: "StoreUnavailable" } } });
    expect(outcome.tag === "unreachable" ? outcome.failure.message : "").toContain("the disk is full");
  });

  test("no answer ever: unknown, though it was carried out", async () => {
    const store = new WilfulStore(await newStore());
    store.afterSet = () => {
      store.beforeRead = never;
      return never();
    };
    const { port } = await serve(store);
    const a = ask("a", [port], { timing });
    expect((await a.ask(create)).tag).toBe("unknown");
    store.beforeRead = () => Promise.resolve();
    expect(await reading(a)).toMatchObject({ owner: "a", version: 1 });
    expect(store.sets).toBe(1);
  });

  test("no answer the first time: repeated over a new connection, carried out once", async () => {
    const store = new WilfulStore(await newStore());
    store.afterSet = () => {
      store.afterSet = () => Promise.resolve();
      return never();
    };
    const { port } = await serve(store);
    expect(await ask("a", [port], { timing }).ask(create)).toMatchObject({ tag: "granted", changed: false });
    expect(store.sets).toBe(1);
  });

  test("the first replica hangs: the second is asked after a moment, and the request is carried out once", async () => {
    const store = new WilfulStore(await newStore());
    const hanging = new WilfulStore(store);
    hanging.beforeSet = never;
    const [first, second] = [await serve(hanging), await serve(store)];
    const a = ask("a", [first.port, second.port]);
    await until(() => a.reachable, "connected");
    await a.read("guest");
    await new Promise((resolve) => setTimeout(resolve, 50)); // Both connections are warm.
    const startedMs = performance.now();
    expect(await a.ask(create)).toMatchObject({ tag: "granted", changed: true });
    expect(performance.now() - startedMs).toBeLessThan(400);
    expect(store.sets).toBe(1);
  });

  test("nothing listens: unreachable, soon, naming the endpoint; asked again once it is there", async () => {
    const probe = await new Promise<Server>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        resolve(server);
      });
    });
    const { port } = probe.address() as AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    const seen: boolean[] = [];
    const a = ask("a", [port], { onReachable: (reachable) => seen.push(reachable) });
    const startedMs = performance.now();
    const outcome = await a.ask(create);
    expect(performance.now() - startedMs).toBeLessThan(1_000);
    expect(outcome).toMatchObject({ tag: "unreachable", failure: { detail: { code: "QuorumUnreachable" } } });
    expect(outcome.tag === "unreachable" ? outcome.failure.message : "").toContain(
      `nothing listens on 127.0.0.1 port ${port}`,
    );
    const server = await serve(await newStore(), { port });
    await until(() => a.reachable, "reachable");
    expect((await a.ask(create)).tag).toBe("granted");
    await server.close();
    await until(() => !a.reachable, "lost");
    expect(seen).toEqual([true, false]);
  });

  test("something accepts and never answers: unreachable, for nothing was sent", async () => {
    const silent = createServer((socket) => socket.on("error", () => undefined));
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    closing.push(() => silent.close());
    const { port } = silent.address() as AddressInfo;
    const a = ask("a", [port], { timing: { ...timing, connectTimeoutMs: 100 } });
    expect((await a.ask(create)).tag).toBe("unreachable");
    a.close();
  });

  test("the quorum is reachable only while its store answers", async () => {
    const store = await newStore();
    let isDown = false;
    const read: RecordStore["read"] = (guest) =>
      isDown ? Promise.reject(new StoreFailure({ code: "StoreUnavailable", why: "" }, "no leader")) : store.read(guest);
    const { port } = await serve({ read, compareAndSet: store.compareAndSet.bind(store), close: () => store.close() });
    const a = ask("a", [port], { timing });
    await until(() => a.reachable, "reachable");
    isDown = true;
    await until(() => !a.reachable, "the store's silence is seen");
    isDown = false;
    await until(() => a.reachable, "reachable again");
  });

  test("a replica that owes an answer is not asked first", async () => {
    const store = await newStore();
    let isHung = false;
    let hungCount = 0;
    const read: RecordStore["read"] = (guest) => {
      if (!isHung) {
        return store.read(guest);
      }
      hungCount += guest === "guest" ? 1 : 0;
      return new Promise(() => undefined);
    };
    const hung = await serve({ read, compareAndSet: store.compareAndSet.bind(store), close: () => store.close() });
    const good = await serve(store);
    const slowly = { hedgeMs: 300, answerTimeoutMs: 60_000, healthEveryMs: 60_000 };
    const a = ask("a", [hung.port, good.port], { timing: slowly });
    await until(() => a.latencyMs !== undefined, "reachable");
    expect(await reading(a)).toBeUndefined();
    isHung = true;
    expect(await reading(a)).toBeUndefined();
    expect(await reading(a)).toBeUndefined();
    expect(hungCount).toBe(1);
  });

  test("stopping: what was asked is answered, then the connection ends", async () => {
    const store = new WilfulStore(await newStore());
    store.beforeSet = () => new Promise((resolve) => setTimeout(resolve, 100));
    const server = await serve(store);
    const a = ask("a", [server.port]);
    await until(() => a.reachable, "reachable");
    const asking = a.ask(create);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await server.close();
    expect((await asking).tag).toBe("granted");
  });
});

describe("endpoints that change while connections are up", () => {
  test("a replica that stays keeps its connection, one that comes is asked, one that goes is not", async () => {
    const store = await newStore();
    const [first, second] = [await serve(store), await serve(store)];
    const changes: boolean[] = [];
    const onReachable = (reachable: boolean): void => {
      changes.push(reachable);
    };
    const a = ask("a", [first.port], { onReachable });
    await until(() => a.reachable, "the first replica is reachable");
    const endpoint = ({ port }: QuorumServer): { host: string; port: number } => ({
      host: "127.0.0.1",
      port,
    });
    a.setEndpoints([endpoint(second), endpoint(first)]);
    expect(a.reachable).toBe(true);
    await first.close();
    await until(() => a.reachable, "the second replica is reachable");
    expect(await reading(a)).toBeUndefined();
    a.setEndpoints([endpoint(second)]);
    expect(await reading(a)).toBeUndefined();
    a.setEndpoints([]);
    expect(a.reachable).toBe(false);
    a.setEndpoints([endpoint(second)]);
    await until(() => a.reachable, "the second replica is reachable again");
    expect(changes.at(-1)).toBe(true);
  });

  test("a question under way at a replica that goes is asked of one that stays", async () => {
    const store = await newStore();
    const silent: RecordStore = {
      read: () => new Promise(() => undefined),
      compareAndSet: () => new Promise(() => undefined),
      close: () => Promise.resolve(),
    };
    const slow = await serve(silent);
    const good = await serve(store);
    const a = ask("a", [slow.port], { timing: { hedgeMs: 5_000 } });
    const asked = reading(a);
    a.setEndpoints([{ host: "127.0.0.1", port: good.port }]);
    expect(await asked).toBeUndefined();
  });
});
