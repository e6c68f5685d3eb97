import { expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  encodeNodeHeartbeat,
  NodeHeartbeatDecoder,
  NodeHeartbeatFailure,
  type NodeHeartbeat,
} from "./node-heartbeat.ts";

const heartbeat: fc.Arbitrary<NodeHeartbeat> = fc.record({
  tag: fc.constantFrom("ping", "pong"),
  uplinksUp: fc.boolean(),
  sequence: fc.nat(0xffff_ffff),
  sentAtMs: fc.double({ noNaN: true, noDefaultInfinity: true }),
});

test("heartbeats come out as they went in, however the stream is cut", () => {
  fc.assert(
    fc.property(fc.array(heartbeat), fc.integer({ min: 1, max: 40 }), (sent, cut) => {
      const stream = Buffer.concat(sent.map(encodeNodeHeartbeat));
      const decoder = new NodeHeartbeatDecoder();
      const got: NodeHeartbeat[] = [];
      for (let at = 0; at < stream.length; at += cut) {
        got.push(...decoder.push(stream.subarray(at, at + cut)));
      }
      expect(got).toEqual(sent);
    }),
  );
});

test("whatever bytes come, the decoder throws nothing but its own failure", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        new NodeHeartbeatDecoder().push(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(NodeHeartbeatFailure);
      }
    }),
  );
});

test("another version is refused with both named", () => {
  const bytes = encodeNodeHeartbeat({ tag: "ping", uplinksUp: true, sequence: 1, sentAtMs: 1 });
  bytes[2] = 9;
  expect(() => new NodeHeartbeatDecoder().push(bytes)).toThrow(/version 9, this one 1/);
});
