/**
 * The replication links of one engine: connections, heartbeats, and what of them the machine has to know.
 *
 * A link is up while it has a connection on which the peer was heard lately. A silent one is closed here, which the machine
 * learns as `linkDown` by "silent". While reading from a link is paused by ourselves its silence proves nothing.
 */
import { type Link } from "../protocol/assignment.ts";
import { encodeMessage, type Frame } from "../protocol/frames.ts";
import { FrameDecoder } from "../protocol/frame-decoder.ts";
import {
  addLink,
  echoedAtMs,
  excuse,
  type Liveness,
  noteHeard,
  noteHeartbeat,
  removeLink,
  silenceInMs,
  stepLiveness,
} from "../protocol/liveness.ts";
import { type Message } from "../protocol/messages.ts";
import { type LostBy } from "../protocol/side-state.ts";
import { type ClosedReason, type FrameConnection } from "../net/frame-connection.ts";
import { type NetFailure } from "../net/net-failure.ts";
import { startLateTimer } from "../net/late-timer.ts";
import { PeerDialer, PeerListener, type PeerLinksOptions } from "../net/peer-links.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { monotonicMs } from "../telemetry/clock.ts";

export type LinksOptions = {
  readonly links: readonly Link[];
  readonly port: number;
  readonly peerNode: string;
  readonly credentials: TlsCredentials;
  readonly onUp: (link: string) => void;
  readonly onDown: (link: string, by: LostBy) => void;
  /** The peer was certainly there after `sinceMs`. */
  readonly onEchoed: (sinceMs: number) => void;
  readonly onMessage: (link: string, message: Message) => void;
  readonly onData: (link: string, frame: Frame) => void;
  readonly onProblem: (link: string | undefined, failure: NetFailure) => void;
  /** Called once a heartbeat interval for as long as the peer is heard. */
  readonly onHeard: () => void;
};

export class Links {
  readonly #options: LinksOptions;
  readonly #connections = new Map<string, FrameConnection<Frame>>();
  readonly #paused = new Set<string>();
  #as: "dial" | "listen" | undefined;
  #dialer: PeerDialer<Frame> | undefined;
  #listener: Promise<PeerListener> | undefined;
  #liveness: Liveness = {};
  #timer: NodeJS.Timeout | undefined;
  #stopSilenceTimer = (): void => undefined;
  #limits = { heartbeatMs: 60, silenceMs: 500 };
  #tickedAtMs = 0;

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  /** Heartbeats and detection from now on; also changes them. */
  setLimits(limits: { readonly heartbeatMs: number; readonly silenceMs: number }): void {
    const isSame = this.#timer !== undefined && limits.heartbeatMs === this.#limits.heartbeatMs;
    this.#limits = limits;
    if (isSame) {
      return;
    }
    clearInterval(this.#timer);
    this.#tickedAtMs = monotonicMs();
    this.#timer = setInterval(() => {
      // What arrived while this process was busy is read first: timers come before sockets in a turn of the event loop.
      setImmediate(() => {
        this.#tick();
      });
    }, limits.heartbeatMs);
  }

  open(as: "dial" | "listen"): void {
    if (this.#as === as) {
      return;
    }
    this.#closeOpeners();
    this.#as = as;
    const options = this.#peerOptions();
    if (as === "dial") {
      this.#dialer = new PeerDialer(options);
      return;
    }
    this.#listener = PeerListener.open(options);
    this.#listener.catch((error: unknown) => {
      // The address may be late, or the port still be held by the engine before us.
      this.#options.onProblem(undefined, error as NetFailure);
      setTimeout(() => {
        if (this.#as === as) {
          this.#as = undefined;
          this.open(as);
        }
      }, 250).unref();
    });
  }

  connection(link: string): FrameConnection<Frame> | undefined {
    return this.#connections.get(link);
  }

  send(link: string, message: Message): void {
    const parts = encodeMessage(message);
    const connection = this.#connections.get(link);
    if (message.tag === "heartbeat" || message.tag === "ack" || message.tag === "guestDied") {
      connection?.sendUrgent(parts);
    } else {
      connection?.send(parts);
    }
  }

  /** Ends the connection of a link; `onDown` follows. */
  closeLink(link: string): void {
    const connection = this.#connections.get(link);
    if (connection !== undefined) {
      // What was sent just before, a refusal for one, should still arrive.
      connection.close();
    }
  }

  /** Stops or resumes reading of bulk data. */
  setPaused(link: string, paused: boolean): void {
    const connection = this.#connections.get(link);
    if (paused) {
      this.#paused.add(link);
      connection?.pause();
    } else if (this.#paused.delete(link)) {
      this.#liveness = noteHeard(this.#liveness, link, monotonicMs());
      connection?.resume();
    }
  }

  figures(): { readonly name: string; readonly alive: boolean; readonly rttMs: number | null }[] {
    return this.#options.links.map(({ name }) => ({
      name,
      alive: this.#connections.has(name),
      rttMs: this.#liveness[name]?.rttMs ?? null,
    }));
  }

  close(): void {
    clearInterval(this.#timer);
    this.#stopSilenceTimer();
    this.#closeOpeners();
  }

  #closeOpeners(): void {
    this.#as = undefined;
    this.#dialer?.close();
    this.#dialer = undefined;
    void this.#listener?.then((listener) => listener.close()).catch(() => undefined);
    this.#listener = undefined;
    for (const connection of this.#connections.values()) {
      connection.close();
    }
  }

  #peerOptions(): PeerLinksOptions<Frame> {
    const { links, port, credentials, peerNode } = this.#options;
    return {
      links,
      port,
      credentials,
      peerNode,
      createDecoder: () => new FrameDecoder((bytes) => Buffer.allocUnsafeSlow(bytes)),
      onConnected: (link, connection) => {
        this.#take(link.name, connection);
      },
      onProblem: (link, failure) => {
        this.#options.onProblem(link?.name, failure);
      },
    };
  }

  #take(link: string, connection: FrameConnection<Frame>): void {
    const before = this.#connections.get(link);
    if (before !== undefined) {
      this.#forget(link, before, "closed");
      before.destroy();
    }
    this.#connections.set(link, connection);
    this.#liveness = addLink(this.#liveness, link, monotonicMs());
    connection.onFrame = (frame) => {
      this.#receive(link, connection, frame);
    };
    connection.onClosed = (reason) => {
      this.#forget(link, connection, lostBy(reason));
    };
    this.#options.onUp(link);
  }

  #receive(link: string, connection: FrameConnection<Frame>, frame: Frame): void {
    if (this.#connections.get(link) !== connection) {
      return;
    }
    if (frame.tag !== "message") {
      this.#liveness = noteHeard(this.#liveness, link, monotonicMs());
      this.#options.onData(link, frame);
      return;
    }
    if (frame.message.tag === "heartbeat") {
      const sinceMs = echoedAtMs(this.#liveness, link, frame.message);
      this.#liveness = noteHeartbeat(this.#liveness, link, frame.message, monotonicMs());
      if (sinceMs !== undefined) {
        this.#options.onEchoed(sinceMs);
      }
      return;
    }
    this.#liveness = noteHeard(this.#liveness, link, monotonicMs());
    this.#options.onMessage(link, frame.message);
  }

  #forget(link: string, connection: FrameConnection<Frame>, by: LostBy): void {
    if (this.#connections.get(link) !== connection) {
      return;
    }
    this.#connections.delete(link);
    this.#paused.delete(link);
    this.#liveness = removeLink(this.#liveness, link);
    this.#options.onDown(link, by);
  }

  #tick(): void {
    const nowMs = monotonicMs();
    const { heartbeatMs, silenceMs } = this.#limits;
    const lateMs = nowMs - this.#tickedAtMs - 1.5 * heartbeatMs;
    this.#tickedAtMs = nowMs;
    if (lateMs > 0) {
      // This process stood still (an overloaded host, a debugger): that is no silence of the peer's.
      this.#liveness = excuse(this.#liveness, lateMs);
    }
    if (Object.values(this.#liveness).some(({ heardAtMs }) => nowMs - heardAtMs <= 1.5 * heartbeatMs)) {
      this.#options.onHeard();
    }
    // Every tick is due: a timer that fires a millisecond early must not leave one out.
    this.#step(nowMs, { heartbeatMs: heartbeatMs / 2, silenceMs });
    const inMs = silenceInMs(this.#liveness, nowMs, silenceMs);
    if (inMs !== undefined && inMs < heartbeatMs) {
      this.#lookForSilenceAt(nowMs + inMs + 1);
    }
  }

  /** Between two ticks, to the millisecond: of the time until a takeover it would else be half a heartbeat interval. */
  #lookForSilenceAt(atMs: number): void {
    this.#stopSilenceTimer();
    this.#stopSilenceTimer = startLateTimer(Math.ceil(atMs - monotonicMs()), () => {
      const nowMs = monotonicMs();
      // When we stood still ourselves the next tick says how long.
      if (nowMs - atMs < this.#limits.heartbeatMs / 2) {
        this.#step(nowMs, { heartbeatMs: Infinity, silenceMs: this.#limits.silenceMs });
      }
    });
  }

  #step(nowMs: number, limits: Parameters<typeof stepLiveness>[2]): void {
    for (const link of this.#paused) {
      this.#liveness = noteHeard(this.#liveness, link, nowMs);
    }
    const { liveness, actions } = stepLiveness(this.#liveness, nowMs, limits);
    this.#liveness = liveness;
    for (const action of actions) {
      const connection = this.#connections.get(action.link);
      if (connection === undefined) {
        continue;
      }
      if (action.tag === "giveUp") {
        this.#forget(action.link, connection, "silent");
        connection.destroy();
      } else {
        const { sequence, echo } = action;
        connection.sendUrgent(encodeMessage({ tag: "heartbeat", sequence, echo }));
      }
    }
  }
}

/** A reset or an end comes from a living host: its process is gone or it closed the link. Anything else is silence. */
function lostBy(reason: ClosedReason): LostBy {
  if (reason.tag !== "failed") {
    return "closed";
  }
  const { detail } = reason.failure;
  return detail.code === "ConnectionLost" && /ECONNRESET|EPIPE/.test(detail.reason) ? "closed" : "silent";
}
