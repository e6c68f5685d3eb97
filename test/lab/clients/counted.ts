/**
 * The counted client: numbered requests with a synced write (the guests' service on ports 7000+). The guest answers
 * "N COUNT LAST": COUNT and LAST live in its memory only, so an answer also tells whether that memory was ever set back or a
 * request was executed twice. In the end every acknowledged number must stand on the guest's disk, read through the guest.
 */
import { guestPorts } from "../guests.ts";
import { Conversation, defaultConversation, type ConversationOptions, type Verdict } from "./conversation.ts";
import { runClientProcess } from "./client-contract.ts";
import { connectToGuest, ReplyConnection, takeLine } from "./reply-connection.ts";
import { findMissingNumber, syncedRange } from "./synced-disk.ts";

export type CountedOptions = Partial<ConversationOptions> & {
  readonly host: string;
  /** First of the ports of the guest's service; the memory-only echo when `memoryOnly`. */
  readonly memoryOnly?: boolean;
  readonly disksCount?: number;
  readonly connectTimeoutMs?: number;
  /** Connections are numbered from here; two clients of one guest must not share a number. */
  readonly firstConnection?: number;
};

export function planCounted(options: CountedOptions): Conversation<string> {
  const { host, memoryOnly = false, disksCount = 1, connectTimeoutMs = 60_000, firstConnection = 0 } = options;
  const open = async (connection: number): Promise<ReplyConnection<string>> => {
    const port = (memoryOnly ? guestPorts.echo : guestPorts.synced) + firstConnection + connection;
    return new ReplyConnection(await connectToGuest(host, port, connectTimeoutMs), takeLine);
  };
  const verify = async (connection: number, acknowledged: number): Promise<Verdict | undefined> => {
    const range = syncedRange(firstConnection + connection, acknowledged, disksCount);
    const sectors = await readGuestSectors(host, range.disk, range.firstSector, range.sectorsCount);
    return findMissingNumber(sectors, firstConnection + connection, acknowledged);
  };
  return new Conversation(
    {
      open,
      phrase: (_, number) => `${number}\n`,
      judge: (_, number, reply) => judgeReply(number, reply, memoryOnly),
      ...(memoryOnly ? {} : { verify }),
    },
    { ...defaultConversation, ...options },
  );
}

/** Exported for its test. */
export function judgeReply(number: number, reply: string, memoryOnly: boolean): Verdict | undefined {
  const expected = memoryOnly ? String(number) : `${number} ${number} ${number === 1 ? "-" : number - 1}`;
  if (reply === expected) {
    return undefined;
  }
  const detail = `expected "${expected}", got "${reply}"`;
  const [answered, count] = reply.split(" ").map(Number);
  if (answered === undefined || Number.isNaN(answered)) {
    return { kind: "wrong", detail };
  }
  if (answered !== number) {
    return { kind: answered < number ? "duplicated" : "reordered", detail };
  }
  return { kind: (count ?? number) > number ? "duplicated" : "lost", detail };
}

/** Sectors of a disk as the guest itself reads them, past its page cache. */
async function readGuestSectors(host: string, disk: string, first: number, count: number): Promise<Buffer> {
  if (count === 0) {
    return Buffer.alloc(0);
  }
  const socket = await connectToGuest(host, guestPorts.sectors, 60_000);
  const parts: Buffer[] = [];
  socket.write(`${disk} ${first} ${count}\n`);
  for await (const part of socket) {
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts);
}

if (import.meta.main) {
  await runClientProcess((options) => planCounted(options as CountedOptions));
}
