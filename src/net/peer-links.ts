/**
 * The replication links between the two engines of a guest: the primary dials every link, the standby listens on all.
 *
 * A link is a pair of addresses; it has at most one connection that we dialled, and a lost one is dialled again with
 * growing pauses, from 50 ms to 1 s. A connection that lived for a second resets the pause; one that ended sooner was
 * refused, and trying that again quickly would only cost both sides handshakes. The dialling side binds its end to the
 * link's own address, so that two links never share a path by accident of routing.
 *
 * An attempt that gets no answer is given up after a second and begun anew, because the kernel's own retries come at 1,
 * 3 and 7 s and a healed link has to be found sooner.
 */
import { FrameConnection, type ClosedReason, type FrameSource } from "./frame-connection.ts";
import { parseNetFailure, type NetFailure } from "./net-failure.ts";
import { connectSecurely } from "./secure-connect.ts";
import { SecureListener, type ListenLimits } from "./secure-listener.ts";
import { sleep } from "../telemetry/sleep.ts";
import type { TlsCredentials } from "./tls.ts";
import type { Link } from "../protocol/assignment.ts";

export type PeerLinksOptions<Frame> = {
  readonly links: readonly Link[];
  readonly port: number;
  readonly credentials: TlsCredentials;
  /** Only certificates of this node are let in. */
  readonly peerNode: string;
  readonly createDecoder: () => FrameSource<Frame>;
  /** Set `onFrame` and `onClosed` of the connection before returning. */
  readonly onConnected: (link: Link, connection: FrameConnection<Frame>) => void;
  /** An attempt failed, or somebody was turned away. For the log and for the link's condition. */
  readonly onProblem: (link: Link | undefined, failure: NetFailure) => void;
  readonly timing?: DialTiming | undefined;
  readonly limits?: Partial<ListenLimits> | undefined;
};

export type DialTiming = {
  readonly firstPauseMs: number;
  readonly lastPauseMs: number;
  readonly attemptTimeoutMs: number;
};

const DIAL_TIMING: DialTiming = { firstPauseMs: 50, lastPauseMs: 1_000, attemptTimeoutMs: 1_000 };
const SETTLED_AFTER_MS = 1_000;
const LISTEN_LIMITS: Partial<ListenLimits> = { handshakesMax: 16, connectionsMax: 16, connectionsPerPeerMax: 8 };

/** Dials every link until closed. */
export class PeerDialer<Frame> {
  readonly #options: PeerLinksOptions<Frame>;
  readonly #stop = new AbortController();
  readonly #connections = new Set<FrameConnection<Frame>>();

  constructor(options: PeerLinksOptions<Frame>) {
    this.#options = options;
    for (const link of options.links) {
      void this.#keep(link);
    }
  }

  /** Ends every connection and dials no more. */
  close(): void {
    this.#stop.abort();
    for (const connection of this.#connections) {
      connection.close();
    }
  }

  async #keep(link: Link): Promise<void> {
    const { firstPauseMs, lastPauseMs } = this.#options.timing ?? DIAL_TIMING;
    let pauseMs = firstPauseMs;
    while (!this.#stop.signal.aborted) {
      const livedMs = await this.#dial(link);
      pauseMs = livedMs >= SETTLED_AFTER_MS ? firstPauseMs : Math.min(pauseMs * 2, lastPauseMs);
      await sleep(pauseMs, this.#stop.signal);
    }
  }

  /** One attempt; resolves when it failed or its connection ended, with how long that lived. */
  async #dial(link: Link): Promise<number> {
    const { port, credentials, peerNode, timing = DIAL_TIMING } = this.#options;
    try {
      const { socket, peer } = await connectSecurely({
        target: { host: link.peerHost, port },
        credentials,
        expected: { service: "node", name: peerNode },
        timeoutMs: timing.attemptTimeoutMs,
        localHost: link.localHost,
        signal: this.#stop.signal,
      });
      return await this.#carry(link, new FrameConnection({ socket, peer, decoder: this.#options.createDecoder() }));
    } catch (error) {
      if (!this.#stop.signal.aborted) {
        this.#options.onProblem(link, parseNetFailure(error, { host: link.peerHost, port }));
      }
      return 0;
    }
  }

  async #carry(link: Link, connection: FrameConnection<Frame>): Promise<number> {
    const startedMs = performance.now();
    this.#connections.add(connection);
    const ended = new Promise<ClosedReason>((resolve) => {
      connection.whenClosed(resolve);
    });
    this.#options.onConnected(link, connection);
    await ended;
    this.#connections.delete(connection);
    return performance.now() - startedMs;
  }
}

/** Listens on the link's own addresses. */
export class PeerListener {
  readonly #listener: SecureListener;

  private constructor(listener: SecureListener) {
    this.#listener = listener;
  }

  /** Rejects with a NetFailure only when not one link's address can be bound; the others are tried again. */
  static async open<Frame>(options: PeerLinksOptions<Frame>): Promise<PeerListener> {
    const { links, port, credentials, createDecoder } = options;
    const linkOf = (host: string | undefined): Link | undefined => links.find((link) => link.localHost === host);
    const listener = await SecureListener.open({
      hosts: [...new Set(links.map((link) => link.localHost))],
      port,
      credentials,
      expected: { service: "node", name: options.peerNode },
      limits: { ...LISTEN_LIMITS, ...options.limits },
      onSocket: (socket, peer, host) => {
        const link = linkOf(host);
        if (link !== undefined) {
          options.onConnected(link, new FrameConnection({ socket, peer, decoder: createDecoder() }));
        }
      },
      onProblem: (failure) => {
        options.onProblem(undefined, failure);
      },
    });
    return new PeerListener(listener);
  }

  /** The addresses that are bound now. */
  get hosts(): readonly string[] {
    return this.#listener.hosts;
  }

  get port(): number {
    return this.#listener.port;
  }

  /** Stops listening and ends every connection that came in. */
  close(): Promise<void> {
    return this.#listener.close();
  }
}
