/**
 * Heartbeats with the agents of the peer nodes, over every replication link any guest uses: what `links` in the status
 * and twinrun_node_link_* show.
 *
 * Of two nodes the one whose name sorts first dials, the other listens; both ask and answer on the one connection per
 * link. One heartbeat a second and link costs next to nothing and finds a silent link in 3 s, soon enough for people
 * and alerts; engines, who decide, have their own and faster ones.
 */
import {
  encodeNodeHeartbeat,
  type NodeHeartbeat as Heartbeat,
  NodeHeartbeatDecoder,
} from "../protocol/node-heartbeat.ts";
import { type ClosedReason, FrameConnection } from "../net/frame-connection.ts";
import { type NetFailure } from "../net/net-failure.ts";
import { PeerDialer } from "../net/peer-links.ts";
import { SecureListener } from "../net/secure-listener.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { type DurationFigures, type GuestAssignment, type Link } from "../protocol/assignment.ts";
import { monotonicMs } from "../telemetry/clock.ts";
import { type SeenPeer } from "../decide/peer-watch.ts";
import { type Log } from "../telemetry/log.ts";
import { SampleWindow } from "../telemetry/sample-window.ts";

export type PeerLinkStatus = {
  readonly peer: string;
  readonly link: string;
  readonly alive: boolean;
  readonly rtt: DurationFigures;
  /** Why the link is not alive, as a sentence, where that is known. */
  readonly problem: string | null;
};

export type NodeHeartbeatsOptions = {
  readonly node: string;
  readonly port: number;
  readonly credentials: TlsCredentials;
  readonly log: Log;
};

const INTERVAL_MS = 1_000;
const SILENCE_MS_MAX = 3_000;
const WINDOW_SAMPLES = 60;
const LISTEN_AGAIN_MS = 1_000;

type Connection = FrameConnection<Heartbeat>;

/** One link to one peer, with the connection it has at the moment. */
class PeerLink {
  readonly peer: string;
  readonly link: Link;
  connection: Connection | undefined;
  problem: string | undefined;
  problemCode: string | undefined;
  heardAtMs = -Infinity;
  /** The peer ended the last connection itself. */
  wasClosed = false;
  peerUplinksUp = false;
  readonly rttMs = new SampleWindow(WINDOW_SAMPLES);

  constructor(peer: string, link: Link) {
    this.peer = peer;
    this.link = link;
  }

  isAlive(nowMs: number): boolean {
    return this.connection !== undefined && nowMs - this.heardAtMs <= SILENCE_MS_MAX;
  }
}

export class NodeHeartbeats {
  /** Told to every peer with every heartbeat. */
  ownUplinksUp = true;

  readonly #options: NodeHeartbeatsOptions;
  readonly #links = new Map<string, PeerLink>();
  readonly #dialers = new Map<string, PeerDialer<Heartbeat>>();
  readonly #timer: NodeJS.Timeout;
  #listener: SecureListener | undefined;
  #hosts = "";
  #listening: Promise<void> = Promise.resolve();
  #listenTimer: NodeJS.Timeout | undefined;
  #sequence = 0;

  constructor(options: NodeHeartbeatsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => {
      this.#beat();
    }, INTERVAL_MS);
    this.#timer.unref();
  }

  /** Takes over whom there is to talk to. Links that stay are not disturbed. */
  setPeers(assignments: readonly GuestAssignment[]): void {
    const wanted = new Map<string, PeerLink>();
    for (const { peerNode, links } of assignments) {
      for (const link of links) {
        const key = [peerNode, link.localHost, link.peerHost].join(" ");
        wanted.set(key, this.#links.get(key) ?? wanted.get(key) ?? new PeerLink(peerNode, link));
      }
    }
    for (const key of [...this.#links.keys()].filter((each) => !wanted.has(each))) {
      this.#drop(key);
    }
    for (const [key, added] of [...wanted].filter(([each]) => !this.#links.has(each))) {
      this.#links.set(key, added);
      this.#dial(key, added);
    }
    this.#listen();
  }

  #drop(key: string): void {
    this.#dialers.get(key)?.close();
    this.#dialers.delete(key);
    this.#links.get(key)?.connection?.close();
    this.#links.delete(key);
  }

  listLinks(): readonly PeerLinkStatus[] {
    const nowMs = monotonicMs();
    return [...this.#links.values()].map((each) => {
      const { p50, p99, max, sum, count } = each.rttMs.figures();
      const alive = each.isAlive(nowMs);
      return {
        peer: each.peer,
        link: each.link.name,
        alive,
        rtt: { p50Ms: p50, p99Ms: p99, maxMs: max, sumMs: sum, count },
        problem: alive ? null : (each.problem ?? "no heartbeat arrives"),
      };
    });
  }

  /** The links by peer, for whoever judges what of them has failed. */
  listPeers(): readonly SeenPeer[] {
    const nowMs = monotonicMs();
    const links = [...this.#links.values()];
    return [...new Set(links.map(({ peer }) => peer))].map((peer) => ({
      peer,
      links: links
        .filter((each) => each.peer === peer)
        .map((each) => ({ name: each.link.name, alive: each.isAlive(nowMs), wasClosed: each.wasClosed })),
    }));
  }

  /** What the peer's agent says of its own uplinks; undefined while no link to it is alive. */
  readPeerUplinks(peer: string): boolean | undefined {
    const nowMs = monotonicMs();
    const alive = [...this.#links.values()].filter((each) => each.peer === peer && each.isAlive(nowMs));
    const [newest] = alive.sort((left, right) => right.heardAtMs - left.heardAtMs);
    return newest?.peerUplinksUp;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    clearTimeout(this.#listenTimer);
    this.#links.forEach((_, key) => {
      this.#drop(key);
    });
    this.#hosts = "";
    await this.#listening;
    await this.#listener?.close();
  }

  #dial(key: string, peerLink: PeerLink): void {
    const { node, port, credentials } = this.#options;
    if (node > peerLink.peer) {
      return;
    }
    this.#dialers.set(
      key,
      new PeerDialer<Heartbeat>({
        links: [peerLink.link],
        port,
        credentials,
        peerNode: peerLink.peer,
        createDecoder: () => new NodeHeartbeatDecoder(),
        onConnected: (_, connection) => {
          this.#use(peerLink, connection);
        },
        onProblem: (_, failure) => {
          this.#note(peerLink, failure);
        },
      }),
    );
  }

  /** Listens anew when the set of own addresses has changed. */
  #listen(): void {
    const { node, port, credentials, log } = this.#options;
    const listening = [...this.#links.values()].filter(({ peer }) => node > peer);
    const hosts = [...new Set(listening.map(({ link }) => link.localHost))].sort();
    if (hosts.join() === this.#hosts) {
      return;
    }
    this.#hosts = hosts.join();
    clearTimeout(this.#listenTimer);
    this.#listening = this.#listening
      .then(async () => {
        await this.#listener?.close();
        this.#listener = undefined;
        if (hosts.length === 0 || hosts.join() !== this.#hosts) {
          return;
        }
        this.#listener = await SecureListener.open({
          hosts,
          port,
          credentials,
          expected: { service: "node" },
          onSocket: (socket, peer, host) => {
            const connection = new FrameConnection<Heartbeat>({ socket, peer, decoder: new NodeHeartbeatDecoder() });
            this.#welcome(connection, host);
          },
          onProblem: (failure) => {
            log.debug({ error: failure }, "turned a heartbeat connection away");
          },
        });
      })
      .catch((error: unknown) => {
        log.error(
          { error, hosts, port },
          "cannot listen for heartbeats: free the port, or correct localHost of the links",
        );
        for (const each of listening) {
          each.problem = error instanceof Error ? error.message : String(error);
        }
        this.#hosts = "";
        this.#listenTimer = setTimeout(() => {
          this.#listen();
        }, LISTEN_AGAIN_MS);
      });
  }

  #welcome(connection: Connection, host: string): void {
    const peerLink = [...this.#links.values()].find(
      ({ peer, link }) =>
        peer === connection.peer.name && link.localHost === host && link.peerHost === connection.remote.host,
    );
    // A link given by host names cannot be compared with the address: any free one of that peer and host will do.
    const fallback = [...this.#links.values()].find(
      ({ peer, link }) => peer === connection.peer.name && link.localHost === host,
    );
    const found = peerLink ?? fallback;
    if (found === undefined) {
      connection.close();
      return;
    }
    this.#use(found, connection);
  }

  #use(peerLink: PeerLink, connection: Connection): void {
    peerLink.connection?.destroy();
    peerLink.connection = connection;
    peerLink.wasClosed = false;
    connection.onFrame = (heartbeat) => {
      this.#take(peerLink, connection, heartbeat);
    };
    connection.whenClosed((reason) => {
      if (peerLink.connection === connection) {
        peerLink.connection = undefined;
        peerLink.wasClosed = wasClosedByPeer(reason);
        peerLink.problem =
          reason.tag === "failed" ? reason.failure.message : `the agent of ${peerLink.peer} closed the connection`;
        this.#options.log.warn({ peer: peerLink.peer, link: peerLink.link.name, reason: reason.tag }, "link lost");
      }
    });
    this.#options.log.info({ peer: peerLink.peer, link: peerLink.link.name }, "link connected");
    peerLink.problemCode = undefined;
    this.#ask(peerLink);
  }

  #take(peerLink: PeerLink, connection: Connection, heartbeat: Heartbeat): void {
    peerLink.heardAtMs = monotonicMs();
    peerLink.peerUplinksUp = heartbeat.uplinksUp;
    if (heartbeat.tag === "ping") {
      connection.sendUrgent([encodeNodeHeartbeat({ ...heartbeat, tag: "pong", uplinksUp: this.ownUplinksUp })]);
    } else {
      peerLink.rttMs.add(Math.max(0, peerLink.heardAtMs - heartbeat.sentAtMs));
    }
  }

  #beat(): void {
    for (const peerLink of this.#links.values()) {
      this.#ask(peerLink);
    }
  }

  #ask({ connection }: PeerLink): void {
    this.#sequence = (this.#sequence + 1) >>> 0;
    connection?.sendUrgent([
      encodeNodeHeartbeat({
        tag: "ping",
        uplinksUp: this.ownUplinksUp,
        sequence: this.#sequence,
        sentAtMs: monotonicMs(),
      }),
    ]);
  }

  /** Every attempt on a dead link fails alike: only news is logged. */
  #note(peerLink: PeerLink, failure: NetFailure): void {
    peerLink.problem = failure.message;
    if (peerLink.problemCode !== failure.detail.code) {
      peerLink.problemCode = failure.detail.code;
      this.#options.log.warn(
        { peer: peerLink.peer, link: peerLink.link.name, code: failure.detail.code },
        failure.message,
      );
    }
  }
}

/** A host that lives ends the connections of a process that died; one that died ends none. */
function wasClosedByPeer(reason: ClosedReason): boolean {
  if (reason.tag !== "failed") {
    return reason.tag === "closedByPeer";
  }
  const { detail } = reason.failure;
  return detail.code === "ConnectionLost" && /ECONNRESET|EPIPE/.test(detail.reason);
}
