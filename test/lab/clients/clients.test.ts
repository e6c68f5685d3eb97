/** The clients against guests that lie: a checker that cannot fail proves nothing. */
import { afterEach, describe, expect, test } from "@jest/globals";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { Conversation, defaultConversation, type ConversationResult, type Speaker } from "./conversation.ts";
import { judgeReply } from "./counted.ts";
import { summarizeLatencies } from "./figures.ts";
import { takePgReply } from "./ledger.ts";
import { encodeCommand, takeResp } from "./redis.ts";
import { connectToGuest, ReplyConnection, takeLine } from "./reply-connection.ts";
import { findMissingNumber, syncedRange } from "./synced-disk.ts";

let server: Server | undefined;
afterEach(() => {
  server?.close();
});

/** A guest that answers line `number` (from 1) of a connection as told. */
async function listenAs(answer: (number: number, socket: Socket) => void): Promise<number> {
  const opened = createServer((socket) => {
    let number = 0;
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      data
        .toString()
        .trim()
        .split("\n")
        .forEach(() => {
          number += 1;
          answer(number, socket);
        });
    });
  });
  server = opened;
  await new Promise<void>((resolve) => {
    opened.listen(0, "127.0.0.1", resolve);
  });
  return (opened.address() as AddressInfo).port;
}

const honest = (number: number): string => `${number} ${number} ${number === 1 ? "-" : number - 1}\n`;

async function converse(
  answer: (number: number, socket: Socket) => void,
  requestsMax = 5,
): Promise<ConversationResult> {
  const port = await listenAs(answer);
  const speaker: Speaker<string> = {
    open: async () => new ReplyConnection(await connectToGuest("127.0.0.1", port, 1000), takeLine),
    phrase: (_, number) => `${number}\n`,
    judge: (_, number, reply) => judgeReply(number, reply, false),
  };
  return new Conversation(speaker, { ...defaultConversation, requestsMax, stallMs: 300 }).run();
}

describe("the counted client", () => {
  test("believes an honest guest", async () => {
    const result = await converse((number, socket) => socket.write(honest(number)));
    expect(result).toMatchObject({ repliesCount: 5, acknowledged: [5], connectionsSurvived: 1, faults: [] });
  });

  test.each([
    { lie: "never answers number 3", kind: "lost", at: (number: number) => (number === 3 ? "" : honest(number)) },
    {
      lie: "answers number 3 with 2 again",
      kind: "duplicated",
      at: (number: number) => honest(number === 3 ? 2 : number),
    },
    { lie: "answers number 3 with 4", kind: "reordered", at: (number: number) => honest(number === 3 ? 4 : number) },
    {
      lie: "executed number 2 twice",
      kind: "duplicated",
      at: (number: number) => (number === 3 ? "3 4 2\n" : honest(number)),
    },
    { lie: "forgot number 2", kind: "lost", at: (number: number) => (number === 3 ? "3 2 1\n" : honest(number)) },
    { lie: "says nonsense", kind: "wrong", at: (number: number) => (number === 3 ? "error: write\n" : honest(number)) },
    {
      lie: "says the last reply twice",
      kind: "duplicated",
      at: (number: number) => honest(number).repeat(number === 5 ? 2 : 1),
    },
  ])("finds a guest out that $lie", async ({ kind, at }) => {
    const result = await converse((number, socket) => socket.write(at(number)));
    expect(result.faults.map((fault) => fault.kind)).toEqual([kind]);
    expect(result.connectionsSurvived).toBe(0);
  });

  test("does not reconnect: a connection that broke is a fault", async () => {
    const result = await converse((number, socket) => {
      if (number === 3) {
        socket.resetAndDestroy();
      } else {
        socket.write(honest(number));
      }
    });
    expect(result.faults).toMatchObject([{ kind: "broken", number: 3 }]);
    expect(result.repliesCount).toBe(2);
  });

  test("lists a wait that was long, and only that", async () => {
    const result = await converse((number, socket) => {
      setTimeout(() => socket.write(honest(number)), number === 4 ? 150 : 0);
    });
    expect(result.gaps).toHaveLength(1);
    expect(result.gaps[0]?.ms).toBeGreaterThan(140);
    expect(result.longestGap).toEqual(result.gaps[0]);
  });
});

describe("what is on the disk", () => {
  const sectorsOf = (numbers: readonly number[]): Buffer => {
    const sectors = Buffer.alloc(512 * 16_384);
    for (const number of numbers) {
      sectors.write(`3 ${number}\n`, (number % 16_384) * 512, "latin1");
    }
    return sectors;
  };
  const upTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);

  test("is complete when every acknowledged number is there, one more included", () => {
    expect(findMissingNumber(sectorsOf(upTo(10)), 3, 10)).toBeUndefined();
    expect(findMissingNumber(sectorsOf(upTo(11)), 3, 10)).toBeUndefined();
    expect(findMissingNumber(sectorsOf(upTo(20_001)), 3, 20_000)).toBeUndefined();
  });

  test("is not when one is missing, or is another connection's", () => {
    expect(findMissingNumber(sectorsOf(upTo(9)), 3, 10)?.kind).toBe("lost");
    expect(findMissingNumber(sectorsOf(upTo(10).filter((number) => number !== 4)), 3, 10)?.detail).toContain(
      "number 4",
    );
    expect(findMissingNumber(sectorsOf(upTo(19_999)), 3, 20_000)?.kind).toBe("lost");
    expect(findMissingNumber(sectorsOf(upTo(10)), 2, 10)?.kind).toBe("lost");
  });

  test("is on the second disk for odd connections of a guest that has one", () => {
    expect(syncedRange(3, 10, 1)).toEqual({ disk: "vda", firstSector: 3 * 16_384, sectorsCount: 11 });
    expect(syncedRange(3, 10, 2).disk).toBe("vdb");
    expect(syncedRange(2, 50_000, 2)).toEqual({ disk: "vda", firstSector: 2 * 16_384, sectorsCount: 16_384 });
  });
});

describe("RESP", () => {
  test.each([
    { received: "+OK\r\n", reply: "+OK", lengthBytes: 5 },
    { received: ":42\r\n:43\r\n", reply: ":42", lengthBytes: 5 },
    { received: "$3\r\nabc\r\n", reply: "$abc", lengthBytes: 9 },
    { received: "$-1\r\n", reply: "$-1", lengthBytes: 5 },
  ])("$reply", ({ received, reply, lengthBytes }) => {
    expect(takeResp(Buffer.from(received))).toEqual({ reply, lengthBytes });
    for (let cut = 0; cut < lengthBytes; cut += 1) {
      expect(takeResp(Buffer.from(received).subarray(0, cut))).toBeUndefined();
    }
  });

  test("a command is an array of bulk strings", () => {
    expect(encodeCommand(["SET", "k", "é"])).toBe("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\né\r\n");
  });
});

describe("PostgreSQL's replies", () => {
  const message = (type: string, body: Buffer): Buffer => {
    const head = Buffer.alloc(5);
    head.write(type, 0, "latin1");
    head.writeInt32BE(body.length + 4, 1);
    return Buffer.concat([head, body]);
  };
  const ready = message("Z", Buffer.from("I"));
  const row = message("D", Buffer.concat([Buffer.from([0, 1, 0, 0, 0, 2]), Buffer.from("17")]));
  const error = (severity: string): Buffer =>
    message("E", Buffer.from(`S${severity}\0V${severity}\0C23505\0Mdouble\0\0`));

  test("end with ReadyForQuery, wherever the stream is cut", () => {
    const reply = Buffer.concat([row, message("C", Buffer.from("SELECT 1\0")), ready]);
    expect(takePgReply(reply)).toEqual({
      reply: { types: "DCZ", rows: [["17"]], error: "" },
      lengthBytes: reply.length,
    });
    for (let cut = 0; cut < reply.length; cut += 1) {
      expect(takePgReply(reply.subarray(0, cut))).toBeUndefined();
    }
  });

  test("carry the error, and end with it when the server leaves", () => {
    expect(takePgReply(Buffer.concat([error("ERROR"), ready]))?.reply).toMatchObject({
      types: "EZ",
      error: "23505 double",
    });
    expect(takePgReply(error("ERROR"))).toBeUndefined();
    expect(takePgReply(error("FATAL"))?.reply.types).toBe("E");
  });
});

test("quantiles are of the samples themselves", () => {
  const samples = Array.from({ length: 100 }, (_, index) => 100 - index);
  expect(summarizeLatencies(samples)).toEqual({ count: 100, p50Ms: 50, p99Ms: 99, maxMs: 100, meanMs: 50.5 });
  expect(summarizeLatencies([])).toEqual({ count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0, meanMs: 0 });
});
