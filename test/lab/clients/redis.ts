/**
 * The redis client: a minimal RESP speaker, one request under way on each connection.
 *
 * - `increment` proves: INCR of a key per connection must answer exactly one more than the time before, so an increment that
 *   was lost with a set-back memory or executed twice shows in the next answer.
 * - `set` measures: SET of a short value, the answer must be OK; and in the end GET must give the value of the last one.
 */
import { guestPorts } from "../guests.ts";
import { Conversation, defaultConversation, type ConversationOptions, type Verdict } from "./conversation.ts";
import { runClientProcess } from "./client-contract.ts";
import { connectToGuest, ReplyConnection, type TakeReply } from "./reply-connection.ts";

export type RedisOptions = Partial<ConversationOptions> & {
  readonly host: string;
  readonly mode: "increment" | "set";
  /** Names this client's keys; they must be new to the server. */
  readonly session: string;
  readonly connectTimeoutMs?: number;
};

export function planRedis(options: RedisOptions): Conversation<string> {
  const { host, mode, session, connectTimeoutMs = 60_000 } = options;
  const key = (connection: number): string => `twinrun:${session}:${connection}`;
  const open = async (): Promise<ReplyConnection<string>> =>
    new ReplyConnection(await connectToGuest(host, guestPorts.redis, connectTimeoutMs), takeResp);
  return new Conversation(
    {
      open,
      phrase: (connection, number) =>
        encodeCommand(mode === "increment" ? ["INCR", key(connection)] : ["SET", key(connection), String(number)]),
      judge: (_, number, reply) => (mode === "increment" ? judgeIncrement(number, reply) : judgeSet(reply)),
      verify: async (connection, acknowledged): Promise<Verdict | undefined> => {
        const opened = await open();
        const result = await opened.exchange(encodeCommand(["GET", key(connection)]), 60_000);
        opened.close();
        return judgeFinal(acknowledged, result.tag === "reply" ? result.reply : result.tag);
      },
    },
    { ...defaultConversation, ...options },
  );
}

function judgeIncrement(number: number, reply: string): Verdict | undefined {
  if (reply === `:${number}`) {
    return undefined;
  }
  const detail = `INCR number ${number} answered ${JSON.stringify(reply)}`;
  const value = Number(reply.slice(1));
  if (!reply.startsWith(":") || Number.isNaN(value)) {
    return { kind: "wrong", detail };
  }
  return { kind: value < number ? "lost" : "duplicated", detail };
}

const judgeSet = (reply: string): Verdict | undefined =>
  reply === "+OK" ? undefined : { kind: "wrong", detail: `SET answered ${JSON.stringify(reply)}` };

/** The request under way when the client stopped is finished, so the value is exactly the last acknowledged number. */
function judgeFinal(acknowledged: number, reply: string): Verdict | undefined {
  const expected = acknowledged === 0 ? "$-1" : `$${acknowledged}`;
  return reply === expected
    ? undefined
    : { kind: "lost", detail: `in the end ${JSON.stringify(reply)} instead of ${JSON.stringify(expected)}` };
}

/** Exported for its test. */
export function encodeCommand(words: readonly string[]): string {
  return `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`;
}

/** One reply: its first line, or "$" and the value of a bulk string. Arrays are never asked for. */
export const takeResp: TakeReply<string> = (received) => {
  const end = received.indexOf("\r\n");
  if (end === -1) {
    return undefined;
  }
  const line = received.toString("latin1", 0, end);
  if (!line.startsWith("$") || line === "$-1") {
    return { reply: line, lengthBytes: end + 2 };
  }
  const valueEnd = end + 2 + Number(line.slice(1));
  return received.length < valueEnd + 2
    ? undefined
    : { reply: `$${received.toString("latin1", end + 2, valueEnd)}`, lengthBytes: valueEnd + 2 };
};

if (import.meta.main) {
  await runClientProcess((options) => planRedis(options as RedisOptions));
}
