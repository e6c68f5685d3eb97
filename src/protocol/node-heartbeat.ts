/**
 * Heartbeats between the agents of two nodes, over every replication link. They tell how the links and the other node are;
 * no takeover hangs on them (engines have their own), only a planned hand-over.
 *
 * Each message is 16 bytes, big-endian, inside the TLS connection:
 *
 *    0       2         3      4             8                    16
 *   +-------+---------+------+-------------+--------------------+
 *   | magic | version | type | sequence    | sentAtMs (float64) |
 *   +-------+---------+------+-------------+--------------------+
 *
 * magic 0x5448. type 1 ping, 2 pong; 16 is added while an uplink of the sender is down. The answer to a ping is a pong with
 * the same sequence and the same sentAtMs, a time of the asker's own clock, so that nobody keeps a table and clocks of two
 * hosts never meet. Another version is refused with both named.
 */
import { Failure } from "../lib/failure.ts";

export const NODE_HEARTBEAT_VERSION = 1;
export const NODE_HEARTBEAT_BYTES = 16;
const MAGIC = 0x5448;
const TYPES = ["ping", "pong"] as const;
const UPLINK_DOWN = 16;

export type NodeHeartbeat = {
  readonly tag: (typeof TYPES)[number];
  readonly uplinksUp: boolean;
  readonly sequence: number;
  readonly sentAtMs: number;
};

export type NodeHeartbeatFailureDetail =
  | { readonly code: "NotAHeartbeat" }
  | { readonly code: "HeartbeatVersionMismatch"; readonly found: number; readonly wanted: number };
export class NodeHeartbeatFailure extends Failure<NodeHeartbeatFailureDetail> {}

export function encodeNodeHeartbeat({ tag, uplinksUp, sequence, sentAtMs }: NodeHeartbeat): Uint8Array {
  const bytes = new Uint8Array(NODE_HEARTBEAT_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, MAGIC);
  view.setUint8(2, NODE_HEARTBEAT_VERSION);
  view.setUint8(3, TYPES.indexOf(tag) + 1 + (uplinksUp ? 0 : UPLINK_DOWN));
  view.setUint32(4, sequence);
  view.setFloat64(8, sentAtMs);
  return bytes;
}

/** Turns a stream of bytes into heartbeats, however it is cut. Throws {@link NodeHeartbeatFailure}. */
export class NodeHeartbeatDecoder {
  readonly #pending = new Uint8Array(NODE_HEARTBEAT_BYTES);
  #pendingBytes = 0;

  push(chunk: Uint8Array): readonly NodeHeartbeat[] {
    const heartbeats: NodeHeartbeat[] = [];
    let offset = 0;
    while (offset < chunk.byteLength) {
      const taken = Math.min(NODE_HEARTBEAT_BYTES - this.#pendingBytes, chunk.byteLength - offset);
      this.#pending.set(chunk.subarray(offset, offset + taken), this.#pendingBytes);
      this.#pendingBytes += taken;
      offset += taken;
      if (this.#pendingBytes === NODE_HEARTBEAT_BYTES) {
        heartbeats.push(decodeNodeHeartbeat(this.#pending));
        this.#pendingBytes = 0;
      }
    }
    return heartbeats;
  }
}

function decodeNodeHeartbeat(bytes: Uint8Array): NodeHeartbeat {
  const view = new DataView(bytes.buffer, bytes.byteOffset, NODE_HEARTBEAT_BYTES);
  const version = view.getUint8(2);
  const type = view.getUint8(3);
  const tag = TYPES[(type & ~UPLINK_DOWN) - 1];
  if (view.getUint16(0) !== MAGIC) {
    throw new NodeHeartbeatFailure({ code: "NotAHeartbeat" }, "this is no agent's heartbeat: check the heartbeatPort");
  }
  if (version !== NODE_HEARTBEAT_VERSION) {
    throw new NodeHeartbeatFailure(
      { code: "HeartbeatVersionMismatch", found: version, wanted: NODE_HEARTBEAT_VERSION },
      `the peer's agent speaks heartbeat version ${version}, this one ${NODE_HEARTBEAT_VERSION}: upgrade the older one`,
    );
  }
  const sentAtMs = view.getFloat64(8);
  if (tag === undefined || !Number.isFinite(sentAtMs)) {
    throw new NodeHeartbeatFailure({ code: "NotAHeartbeat" }, "a heartbeat of no known type: upgrade the older agent");
  }
  return { tag, uplinksUp: (type & UPLINK_DOWN) === 0, sequence: view.getUint32(4), sentAtMs };
}
