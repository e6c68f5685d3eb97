/**
 * Accepts mutually authenticated connections on one port of several of this machine's addresses.
 *
 * Nothing that has not shown a certificate of our CA gets further than the handshake, and those in the handshake are
 * bounded: at most `handshakesMax` at a time (the oldest gives way, for an honest handshake takes milliseconds and only a
 * slow one gets old) and at most `handshakeTimeoutMs` each. Authenticated connections are bounded per peer, again the
 * oldest giving way, because a peer that comes anew after a cut knows better than we which of its connections live.
 *
 * An address that cannot be bound yet (its interface is down, the predecessor still holds the port) is tried again
 * until it can be; `open` rejects only when not one address could be bound.
 */
import { createServer, type Server, type TLSSocket } from "node:tls";
import type { AddressInfo, Socket } from "node:net";
import { NetFailure, parseNetFailure, type Target } from "./net-failure.ts";
import { plainHost } from "./frame-connection.ts";
import { encodePeerUri, type PeerIdentity, type PeerService } from "./peer-identity.ts";
import type { ExpectedPeer } from "./secure-connect.ts";
import { assertPeer, readPeerIdentity, type TlsCredentials } from "./tls.ts";

export type ListenLimits = {
  readonly handshakesMax: number;
  readonly handshakeTimeoutMs: number;
  readonly connectionsMax: number;
  readonly connectionsPerPeerMax: number;
};

export const LISTEN_LIMITS: ListenLimits = {
  handshakesMax: 64,
  handshakeTimeoutMs: 3_000,
  connectionsMax: 4_096,
  connectionsPerPeerMax: 1_024,
};

export type SecureListenerOptions = {
  readonly hosts: readonly string[];
  /** 0 lets the kernel choose; only sensible with one host. */
  readonly port: number;
  readonly credentials: TlsCredentials;
  readonly expected: ExpectedPeer;
  /** Services that are let in too, whatever their name. */
  readonly alsoServices?: readonly PeerService[] | undefined;
  readonly limits?: Partial<ListenLimits> | undefined;
  /** `host` is the listed address the peer came in by. */
  readonly onSocket: (socket: TLSSocket, peer: PeerIdentity, host: string) => void;
  /** Somebody was turned away, or an address cannot be bound. For the log, so bounded in rate there. */
  readonly onProblem: (failure: NetFailure, remote: Target | undefined) => void;
};

const REBIND_MS = 1_000;

export class SecureListener {
  readonly #options: SecureListenerOptions;
  readonly #limits: ListenLimits;
  readonly #servers = new Map<string, Server>();
  readonly #handshakes = new Map<string, Socket>();
  readonly #connections = new Map<string, Set<TLSSocket>>();
  readonly #remotes = new WeakMap<Socket, Target>();
  readonly #stopWatching: () => void;
  #connectionCount = 0;
  #closed = false;

  private constructor(options: SecureListenerOptions) {
    this.#options = options;
    this.#limits = { ...LISTEN_LIMITS, ...options.limits };
    this.#stopWatching = options.credentials.onReloaded((failure) => {
      if (failure !== undefined) {
        options.onProblem(failure, undefined);
        return;
      }
      for (const server of this.#servers.values()) {
        server.setSecureContext(options.credentials.material());
      }
    });
  }

  static async open(options: SecureListenerOptions): Promise<SecureListener> {
    const listener = new SecureListener(options);
    const outcomes = await Promise.all(options.hosts.map((host) => listener.#bind(host)));
    const failure = outcomes.find((outcome) => outcome !== undefined);
    if (listener.#servers.size === 0 && failure !== undefined) {
      await listener.close();
      throw failure;
    }
    return listener;
  }

  /** The addresses that are bound now. */
  get hosts(): readonly string[] {
    return [...this.#servers.keys()];
  }

  get port(): number {
    const [server] = this.#servers.values();
    return (server?.address() as AddressInfo | null | undefined)?.port ?? this.#options.port;
  }

  get connectionCount(): number {
    return this.#connectionCount;
  }

  /** Stops listening and ends every connection. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#stopWatching();
    const closing = [...this.#servers.values()].map((server) => new Promise((resolve) => server.close(resolve)));
    for (const socket of [
      ...this.#handshakes.values(),
      ...[...this.#connections.values()].flatMap((set) => [...set]),
    ]) {
      socket.destroy();
    }
    this.#servers.clear();
    await Promise.all(closing);
  }

  async #bind(host: string): Promise<NetFailure | undefined> {
    const { port, credentials, onProblem } = this.#options;
    const server = createServer({
      ...credentials.material(),
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: this.#limits.handshakeTimeoutMs,
      noDelay: true,
    });
    this.#watch(server, host);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen({ host, port }, resolve);
      });
    } catch (error) {
      const failure = parseNetFailure(error, { host, port });
      onProblem(failure, undefined);
      this.#bindLater(host);
      return failure;
    }
    if (this.#closed) {
      server.close();
      return undefined;
    }
    server.on("error", (error) => {
      onProblem(parseNetFailure(error, { host, port }), undefined);
    });
    this.#servers.set(host, server);
    return undefined;
  }

  #bindLater(host: string): void {
    setTimeout(() => {
      if (!this.#closed) {
        void this.#bind(host);
      }
    }, REBIND_MS).unref();
  }

  #watch(server: Server, host: string): void {
    server.on("connection", (socket: Socket) => {
      this.#admit(socket);
    });
    server.on("tlsClientError", (error, socket) => {
      const remote = this.#remoteOf(socket);
      const failure = this.#handshakeFailure(error, socket, remote);
      socket.destroy(); // Node leaves that to us, even after its own timeout.
      if (failure !== undefined) {
        this.#options.onProblem(failure, remote);
      }
    });
    server.on("secureConnection", (socket) => {
      this.#handshakes.delete(keyOf(socket));
      this.#welcome(socket, host);
    });
  }

  /** A raw connection, before any byte was read. */
  #admit(socket: Socket): void {
    const key = keyOf(socket);
    this.#handshakes.set(key, socket);
    this.#remotes.set(socket, remoteOf(socket));
    socket.once("close", () => this.#handshakes.delete(key));
    const [oldest] = this.#handshakes.values();
    if (this.#handshakes.size > this.#limits.handshakesMax && oldest !== undefined) {
      const limit = this.#limits.handshakesMax;
      this.#handshakes.delete(keyOf(oldest));
      this.#options.onProblem(tooMany(limit, `${limit} handshakes are under way`), remoteOf(oldest));
      oldest.destroy();
    }
  }

  #welcome(socket: TLSSocket, host: string): void {
    socket.on("error", () => undefined); // Until the owner listens.
    const remote = remoteOf(socket);
    try {
      const peer = readPeerIdentity(socket);
      if (this.#options.alsoServices?.includes(peer.service) !== true) {
        assertPeer(peer, this.#options.expected.service, this.#options.expected.name);
      }
      if (this.#connectionCount >= this.#limits.connectionsMax) {
        const limit = this.#limits.connectionsMax;
        throw tooMany(limit, `${limit} connections are open`);
      }
      this.#count(socket, encodePeerUri(peer), remote);
      this.#options.onSocket(socket, peer, host);
    } catch (error) {
      if (!(error instanceof NetFailure)) {
        throw error;
      }
      this.#options.onProblem(error, remote);
      socket.destroy();
    }
  }

  #count(socket: TLSSocket, peer: string, remote: Target): void {
    const sockets = this.#connections.get(peer) ?? new Set<TLSSocket>();
    this.#connections.set(peer, sockets.add(socket));
    this.#connectionCount += 1;
    socket.once("close", () => {
      this.#connectionCount -= 1;
      sockets.delete(socket);
      if (sockets.size === 0 && this.#connections.get(peer) === sockets) {
        this.#connections.delete(peer);
      }
    });
    const [oldest] = sockets;
    if (sockets.size > this.#limits.connectionsPerPeerMax && oldest !== undefined) {
      sockets.delete(oldest);
      const limit = this.#limits.connectionsPerPeerMax;
      this.#options.onProblem(tooMany(limit, `${peer} has ${limit} connections open`), remote);
      oldest.destroy();
    }
  }

  /** Undefined when somebody merely connected and left: a port probe, or one whom we ended ourselves. */
  #handshakeFailure(error: Error, socket: TLSSocket, remote: Target): NetFailure | undefined {
    const code = (error as { code?: unknown }).code;
    if (code === "ERR_TLS_HANDSHAKE_TIMEOUT") {
      const afterMs = this.#limits.handshakeTimeoutMs;
      return new NetFailure(
        { code: "HandshakeTimedOut", afterMs },
        `${remote.host} connected but did not finish the TLS handshake within ${afterMs} ms: it is no peer of ours, or overloaded`,
        { cause: error },
      );
    }
    if (code !== "ECONNRESET") {
      return parseNetFailure(error, remote);
    }
    // Node ends a socket whose certificate it does not trust as if the peer had hung up; the verdict is kept here.
    const untrusted = socket.authorizationError as unknown;
    return typeof untrusted === "string"
      ? parseNetFailure(Object.assign(new Error(untrusted, { cause: error }), { code: untrusted }), remote)
      : undefined;
  }

  /** Also of a socket that is gone; `_parent` is the raw one below it, and only the log depends on it. */
  #remoteOf(socket: TLSSocket): Target {
    const raw = (socket as { _parent?: Socket })._parent;
    return (raw === undefined ? undefined : this.#remotes.get(raw)) ?? remoteOf(socket);
  }
}

function tooMany(limit: number, why: string): NetFailure {
  return new NetFailure(
    { code: "TooManyConnections", limit },
    `connection turned away because ${why}: look for who opens them`,
  );
}

function remoteOf(socket: Socket): Target {
  return { host: plainHost(socket.remoteAddress), port: socket.remotePort ?? 0 };
}

function keyOf(socket: Socket): string {
  return `${socket.remoteAddress ?? ""} ${socket.remotePort ?? 0} ${socket.localAddress ?? ""}`;
}
