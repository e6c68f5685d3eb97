import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import { copyFile, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import {
  createServer as createTcpServer,
  connect as connectTcp,
  type AddressInfo,
  type Server,
  type Socket,
} from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { present } from "../lib/assert.ts";
import { type ClosedReason, type FrameConnection, type FrameSource } from "./frame-connection.ts";
import { NetFailure } from "./net-failure.ts";
import { PeerDialer, PeerListener, type PeerLinksOptions } from "./peer-links.ts";
import { createAuthority, filesOf, issueCertificate } from "./pki.ts";
import { connectSecurely } from "./secure-connect.ts";
import { SecureListener, type SecureListenerOptions } from "./secure-listener.ts";
import { TlsCredentials } from "./tls.ts";

const node = (name: string) => ({ service: "node", name }) as const;

let directory = "";
let foreign = "";
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "net-test-"));
  foreign = join(directory, "foreign");
  await Promise.all([createAuthority(directory), createAuthority(foreign)]);
  await Promise.all([
    issueCertificate(directory, { identity: node("a") }),
    issueCertificate(directory, { identity: node("b") }),
    issueCertificate(directory, { identity: node("c") }),
    issueCertificate(directory, { identity: { service: "quorum", name: "q" } }),
    issueCertificate(foreign, { identity: node("a") }),
    issueCertificate(foreign, { identity: node("b") }),
  ]);
});

afterAll(() => rm(directory, { recursive: true, force: true }));

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) {
    await close();
  }
});

async function credentialsOf(name: string, from = directory): Promise<TlsCredentials> {
  const credentials = await TlsCredentials.open(filesOf(from, node(name)), 60_000);
  closing.push(() => {
    credentials.close();
  });
  return credentials;
}

/** One byte of length, then that many bytes; a length of 255 is no frame. */
function textDecoder(): FrameSource<string> {
  let rest = Buffer.alloc(0);
  return {
    push(chunk) {
      rest = Buffer.concat([rest, chunk]);
      const frames: string[] = [];
      while (rest.length > 0 && rest.length > (rest[0] ?? 0)) {
        if (rest[0] === 255) {
          throw new Error("length 255");
        }
        frames.push(rest.toString("latin1", 1, 1 + (rest[0] ?? 0)));
        rest = rest.subarray(1 + (rest[0] ?? 0));
      }
      return frames;
    },
  };
}
const encode = (text: string): Uint8Array => Buffer.from(String.fromCharCode(text.length) + text, "latin1");

class Bytes implements FrameSource<number> {
  push(chunk: Uint8Array): readonly number[] {
    return [chunk.byteLength];
  }
}

async function until(condition: () => boolean, what: string, timeoutMs = 5_000): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > end) {
      throw new Error(`timed out waiting until ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** A port of loopback nobody listens on. */
async function closedPort(): Promise<number> {
  const taken = await new Promise<Server>((resolve) => {
    const server = createTcpServer().listen(0, "127.0.0.1", () => {
      resolve(server);
    });
  });
  const { port } = taken.address() as AddressInfo;
  await new Promise((resolve) => taken.close(resolve));
  return port;
}

type Pair<Frame> = {
  readonly dialled: FrameConnection<Frame>[];
  readonly accepted: FrameConnection<Frame>[];
  readonly problems: NetFailure[];
  readonly listener: PeerListener;
  readonly dialer: PeerDialer<Frame>;
};

async function openPair<Frame>(
  createDecoder: () => FrameSource<Frame>,
  change: Partial<PeerLinksOptions<Frame>> = {},
): Promise<Pair<Frame>> {
  const dialled: FrameConnection<Frame>[] = [];
  const accepted: FrameConnection<Frame>[] = [];
  const problems: NetFailure[] = [];
  const link = { name: "r0", localHost: "127.0.0.1", peerHost: "127.0.0.1" };
  const base = {
    links: [link],
    createDecoder,
    onProblem: (_link: unknown, failure: NetFailure) => problems.push(failure),
  };
  const listener = await PeerListener.open<Frame>({
    ...base,
    port: 0,
    credentials: await credentialsOf("b"),
    peerNode: "a",
    onConnected: (_link, connection) => accepted.push(connection),
  });
  closing.push(() => listener.close());
  const dialer = new PeerDialer<Frame>({
    ...base,
    port: listener.port,
    credentials: await credentialsOf("a"),
    peerNode: "b",
    onConnected: (_link, connection) => dialled.push(connection),
    ...change,
  });
  closing.push(() => {
    dialer.close();
  });
  return { dialled, accepted, problems, listener, dialer };
}

async function listen(
  change: Partial<SecureListenerOptions> = {},
): Promise<{ port: number; peers: string[]; problems: string[] }> {
  const peers: string[] = [];
  const problems: string[] = [];
  const listener = await SecureListener.open({
    hosts: ["127.0.0.1"],
    port: 0,
    credentials: await credentialsOf("b"),
    expected: { service: "node" },
    onSocket: (_socket, peer) => peers.push(peer.name),
    onProblem: (failure) => problems.push(failure.detail.code),
    ...change,
  });
  closing.push(() => listener.close());
  return { port: listener.port, peers, problems };
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "connected",
    (error: unknown) => (error instanceof NetFailure ? error.detail.code : String(error)),
  );

describe("peer links", () => {
  test("frames arrive whole and in order, both ways, and the peer is known", async () => {
    const pair = await openPair(textDecoder);
    await until(() => pair.dialled.length === 1 && pair.accepted.length === 1, "connected");
    const [near, far] = [present(pair.dialled[0], "near"), present(pair.accepted[0], "far")];
    expect([near.peer.name, far.peer.name, far.remote.host]).toEqual(["b", "a", "127.0.0.1"]);
    expect([near.fileDescriptor, far.fileDescriptor]).toEqual([expect.any(Number), expect.any(Number)]);
    const got: string[] = [];
    far.onFrame = (frame) => {
      got.push(frame);
      far.send([encode(`re ${frame}`)]);
    };
    const answers: string[] = [];
    near.onFrame = (frame) => answers.push(frame);
    const sent = Array.from({ length: 500 }, (_, index) => `frame ${index}`);
    for (const text of sent) {
      const bytes = encode(text);
      near.send([bytes.subarray(0, 1), bytes.subarray(1)]);
    }
    await until(() => answers.length === 500, "answered");
    expect(got).toEqual(sent);
    expect(answers).toEqual(sent.map((text) => `re ${text}`));
    expect(near.backlogBytes).toBe(0);
  });

  test("bulk arrives whole, onSent comes when the bytes may be reused, an urgent frame overtakes what waits", async () => {
    const pair = await openPair(() => new Bytes());
    await until(() => pair.accepted.length === 1, "connected");
    const [near, far] = [present(pair.dialled[0], "near"), present(pair.accepted[0], "far")];
    let received = 0;
    far.onFrame = (bytes) => (received += bytes);
    const order: string[] = [];
    const part = Buffer.alloc(3_000_000, 1);
    expect(near.send([Buffer.alloc(16), part], () => order.push("bulk 1"))).toBe(false);
    near.send([Buffer.alloc(16), part], () => order.push("bulk 2"));
    near.sendUrgent([Buffer.alloc(7)], () => order.push("urgent"));
    expect(near.backlogBytes).toBeGreaterThan(5_000_000);
    await near.drained();
    await until(() => received === 6_000_039, "everything received");
    await until(() => order.length === 3, "everything reported as sent");
    expect(order).toEqual(["bulk 1", "urgent", "bulk 2"]);
  });

  test("a lost connection is dialled again; a closed dialer dials no more; onClosed comes once", async () => {
    const pair = await openPair(textDecoder);
    await until(() => pair.accepted.length === 1, "connected");
    const closed: ClosedReason[] = [];
    const near = present(pair.dialled[0], "near");
    near.send([encode("hello")]);
    present(pair.accepted[0], "far").send([encode("hello")]);
    await until(() => near.receivedBytes > 0, "greeted");
    near.onClosed = (reason) => closed.push(reason);
    present(pair.accepted[0], "far").close();
    await until(() => pair.dialled.length === 2, "dialled again");
    near.destroy();
    near.close();
    expect(closed).toEqual([{ tag: "closedByPeer" }]);
    pair.dialer.close();
    present(pair.dialled[1], "second").onClosed = (reason) => closed.push(reason);
    await until(() => closed.length === 2, "closed");
    expect(closed[1]).toEqual({ tag: "closedHere" });
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(pair.dialled.length).toBe(2);
  });
});

describe("peer links that misbehave", () => {
  test("bytes that are no frames end the connection with BadFrame", async () => {
    const pair = await openPair(textDecoder);
    await until(() => pair.accepted.length === 1, "connected");
    const closed: ClosedReason[] = [];
    present(pair.accepted[0], "far").onClosed = (reason) => closed.push(reason);
    present(pair.dialled[0], "near").send([Buffer.alloc(256, 255)]);
    await until(() => closed.length === 1, "closed");
    expect(closed[0]).toMatchObject({ tag: "failed", failure: { detail: { code: "BadFrame" } } });
  });

  test("a backlog beyond the limit ends the connection instead of the process", async () => {
    const pair = await openPair(textDecoder);
    await until(() => pair.accepted.length === 1, "connected");
    const closed: ClosedReason[] = [];
    const near = present(pair.dialled[0], "near");
    near.onClosed = (reason) => closed.push(reason);
    present(pair.accepted[0], "far").pause();
    const part = Buffer.alloc(64 * 1024 * 1024);
    for (let index = 0; index < 9; index += 1) {
      near.send([part]);
    }
    expect(near.send([part])).toBe(false);
    await until(() => closed.length === 1, "closed");
    expect(closed[0]).toMatchObject({ tag: "failed", failure: { detail: { code: "BacklogExceeded" } } });
  });

  test("a peer without a listener is dialled again and again, with the reason reported", async () => {
    const port = await closedPort();
    const pair = await openPair(textDecoder, {
      port,
      timing: { firstPauseMs: 5, lastPauseMs: 10, attemptTimeoutMs: 10_000 },
    });
    await until(() => pair.problems.length >= 3, "tried three times");
    expect(pair.problems[0]?.detail).toEqual({ code: "ConnectRefused", host: "127.0.0.1", port });
  });

  test("an answer that came in time counts, also when we are held up until the time is over", async () => {
    const attempt = connectSecurely({
      target: { host: "127.0.0.1", port: await closedPort() },
      credentials: await credentialsOf("a"),
      expected: node("b"),
      timeoutMs: 50,
    });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    await expect(attempt).rejects.toMatchObject({ detail: { code: "ConnectRefused" } });
  });
});

describe("who is let in", () => {
  test.each([
    { who: "node a", from: "own", name: "a", code: "connected" },
    { who: "node c where b is expected", from: "own", name: "c", code: "WrongCertificate" },
    { who: "a server of a foreign CA", from: "foreign", name: "b", code: "UntrustedCertificate" },
  ])("dialling: $who => $code", async ({ from, name, code }) => {
    const server = await credentialsOf(name, from === "own" ? directory : foreign);
    const { port } = await listen({ credentials: server });
    const attempt = connectSecurely({
      target: { host: "127.0.0.1", port },
      credentials: await credentialsOf("a"),
      expected: { service: "node", name: name === "c" ? "b" : name },
      timeoutMs: 2_000,
    });
    attempt.then(({ socket }) => socket.destroy(), () => undefined); // prettier-ignore
    expect(await codeOf(attempt)).toBe(code);
  });

  test("a client of a foreign CA gets in nowhere and no byte is read from it", async () => {
    const server = await listen();
    const socket = connectTls({
      host: "127.0.0.1",
      port: server.port,
      ...(await credentialsOf("a", foreign)).options(),
      rejectUnauthorized: false,
    });
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("close", resolve));
    await until(() => server.problems.length > 0, "reported");
    expect(server).toMatchObject({ peers: [], problems: ["UntrustedCertificate"] });
  });

  test("a client without a certificate gets in nowhere", async () => {
    const server = await listen();
    const socket = connectTls({ host: "127.0.0.1", port: server.port, rejectUnauthorized: false });
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("close", resolve));
    await until(() => server.problems.length > 0, "reported");
    expect(server).toMatchObject({ peers: [], problems: ["UntrustedCertificate"] });
  });

  test("a certificate of our CA for another node or service gets in nowhere", async () => {
    const server = await listen({ expected: { service: "node", name: "a" } });
    const quorum = await TlsCredentials.open(filesOf(directory, { service: "quorum", name: "q" }));
    closing.push(() => {
      quorum.close();
    });
    for (const credentials of [await credentialsOf("c"), quorum]) {
      const { socket } = await connectSecurely({
        target: { host: "127.0.0.1", port: server.port },
        credentials,
        expected: { service: "node", name: "b" },
        timeoutMs: 2_000,
      });
      await new Promise((resolve) => socket.once("close", resolve));
    }
    expect(server).toMatchObject({ peers: [], problems: ["WrongCertificate", "WrongCertificate"] });
  });

  test("TLS 1.2 is refused", async () => {
    const server = await listen();
    const credentials = await credentialsOf("a");
    const { cert, key, ca } = credentials.material();
    const socket = connectTls({ host: "127.0.0.1", port: server.port, cert, key, ca, maxVersion: "TLSv1.2" });
    const error = await new Promise<Error>((resolve) => socket.once("error", resolve));
    expect((error as { code?: string }).code).toContain("PROTOCOL_VERSION");
  });
});

describe("limits before a certificate was shown", () => {
  const halfOpen = (port: number): Promise<Socket> =>
    new Promise((resolve) => {
      const socket = connectTcp({ host: "127.0.0.1", port }, () => {
        resolve(socket);
      });
      socket.on("error", () => undefined);
      socket.resume();
      closing.push(() => socket.destroy());
    });

  test("a handshake that never ends is ended for it", async () => {
    const server = await listen({ limits: { handshakeTimeoutMs: 100 } });
    const socket = await halfOpen(server.port);
    await new Promise((resolve) => socket.once("close", resolve));
    expect(server.problems).toEqual(["HandshakeTimedOut"]);
  });

  test("many half-open handshakes cost the oldest of them, not the honest peer", async () => {
    const server = await listen({ limits: { handshakesMax: 4 } });
    const sockets = await Promise.all(Array.from({ length: 12 }, () => halfOpen(server.port)));
    await until(() => server.problems.length === 8, "the oldest are gone");
    const { socket } = await connectSecurely({
      target: { host: "127.0.0.1", port: server.port },
      credentials: await credentialsOf("a"),
      expected: { service: "node", name: "b" },
      timeoutMs: 2_000,
    });
    await until(() => server.peers.length === 1, "the honest peer is in");
    expect(sockets.filter(({ destroyed }) => !destroyed).length).toBeLessThanOrEqual(4);
    socket.destroy();
  });

  test("garbage instead of a handshake ends that connection only", async () => {
    const server = await listen();
    const socket = await halfOpen(server.port);
    socket.write("GET / HTTP/1.1\r\n\r\n");
    await new Promise((resolve) => socket.once("close", resolve));
    expect(server.problems).toEqual(["NotTls"]);
  });
});

describe("addresses", () => {
  test("a taken port is named", async () => {
    const first = await listen();
    expect(await codeOf(listen({ port: first.port }))).toBe("PortTaken");
  });

  test("an address that is missing does not keep the others from being bound", async () => {
    const problems: string[] = [];
    const listener = await SecureListener.open({
      hosts: ["192.0.2.1", "127.0.0.1"],
      port: 0,
      credentials: await credentialsOf("b"),
      expected: { service: "node" },
      onSocket: () => undefined,
      onProblem: (failure) => problems.push(failure.detail.code),
    });
    closing.push(() => listener.close());
    expect(listener.hosts).toEqual(["127.0.0.1"]);
    expect(problems).toEqual(["LocalAddressMissing"]);
  });
});

describe("certificate files", () => {
  test("a listener shows the new certificate to whoever connects after the change, and keeps older connections", async () => {
    const paths = filesOf(directory, node("renewed"));
    await issueCertificate(directory, { identity: node("renewed"), days: 1 });
    const credentials = await TlsCredentials.open(paths, 60_000);
    closing.push(() => {
      credentials.close();
    });
    const server = await listen({ credentials });
    const options = {
      target: { host: "127.0.0.1", port: server.port },
      credentials: await credentialsOf("a"),
      expected: { service: "node", name: "renewed" },
      timeoutMs: 2_000,
    } as const;
    const before = await connectSecurely(options);
    closing.push(() => before.socket.destroy());
    const firstExpiryMs = credentials.expiresAtMs;
    await issueCertificate(directory, { identity: node("renewed"), days: 9 });
    await credentials.reload();
    const after = await connectSecurely(options);
    closing.push(() => after.socket.destroy());
    const shown = (socket: TLSSocket): number => Date.parse(socket.getPeerCertificate().valid_to);
    expect(shown(before.socket)).toBe(firstExpiryMs);
    expect(shown(after.socket)).toBe(credentials.expiresAtMs);
    expect(credentials.expiresAtMs).toBeGreaterThan(firstExpiryMs);
    expect(before.socket.destroyed).toBe(false);
  });

  test("a missing file is named", async () => {
    await expect(TlsCredentials.open({ ...filesOf(directory, node("a")), keyPath: "/nowhere/key" })).rejects.toThrow(
      "/nowhere/key",
    );
  });

  test("a key of another certificate is refused", async () => {
    const files = { ...filesOf(directory, node("a")), keyPath: filesOf(directory, node("c")).keyPath };
    expect(await codeOf(TlsCredentials.open(files))).toBe("CertificateUnusable");
  });

  test("new files are used for new connections, half-replaced ones are not", async () => {
    const files = {
      certPath: join(directory, "x.crt"),
      keyPath: join(directory, "x.key"),
      caPath: join(directory, "ca.crt"),
    };
    const put = async (name: string, what: "certPath" | "keyPath"): Promise<void> => {
      await copyFile(filesOf(directory, node(name))[what], files[what]);
      await utimes(files[what], new Date(), new Date());
    };
    await put("a", "certPath");
    await put("a", "keyPath");
    const credentials = await TlsCredentials.open(files, 60_000);
    const reloads: (string | undefined)[] = [];
    credentials.onReloaded((failure) => reloads.push(failure?.detail.code));
    closing.push(() => {
      credentials.close();
    });
    await put("c", "keyPath");
    await credentials.reload();
    expect([credentials.identity.name, ...reloads]).toEqual(["a", "CertificateUnusable"]);
    await put("c", "certPath");
    await credentials.reload();
    await credentials.reload();
    expect([credentials.identity.name, ...reloads]).toEqual(["c", "CertificateUnusable", undefined]);
    await writeFile(files.certPath, "");
    await credentials.reload();
    expect(credentials.identity.name).toBe("c");
  });
});
