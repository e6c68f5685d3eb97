/**
 * The ledger client: every request is a transaction that inserts the row (connection, number) with PostgreSQL's simple
 * protocol. In the end each acknowledged row must be there exactly once; the primary key makes the server itself refuse a
 * transaction that was executed twice.
 */
import { guestPorts } from "../guests.ts";
import { Conversation, defaultConversation, type ConversationOptions, type Verdict } from "./conversation.ts";
import { runClientProcess } from "./client-contract.ts";
import { connectToGuest, ReplyConnection, type TakeReply } from "./reply-connection.ts";

export type LedgerOptions = Partial<ConversationOptions> & {
  readonly host: string;
  /** Rows carry firstConnection + connection; new to the table. Below 2^31 - 1000. */
  readonly firstConnection: number;
  readonly connectTimeoutMs?: number;
};

/** The backend messages up to and with ReadyForQuery: type letters, the rows, and the error if there was one. */
export type PgReply = {
  readonly types: string;
  readonly rows: readonly (readonly string[])[];
  readonly error: string;
};

export function planLedger(options: LedgerOptions): Conversation<PgReply> {
  const { host, firstConnection, connectTimeoutMs = 120_000 } = options;
  const open = (): Promise<ReplyConnection<PgReply>> => openPostgres(host, connectTimeoutMs);
  return new Conversation(
    {
      open,
      phrase: (connection, number) =>
        encodeQuery(`insert into ledger values (${firstConnection + connection}, ${number})`),
      judge: (_, number, reply) => judgeInsert(number, reply),
      verify: async (connection, acknowledged): Promise<Verdict | undefined> => {
        const opened = await open();
        const query = `select number from ledger where connection = ${firstConnection + connection} order by number`;
        const result = await opened.exchange(encodeQuery(query), 120_000);
        opened.close();
        return result.tag === "reply"
          ? findMissingRow(result.reply, acknowledged)
          : { kind: "broken", detail: `the rows could not be read: ${result.tag}` };
      },
    },
    { ...defaultConversation, ...options },
  );
}

async function openPostgres(host: string, timeoutMs: number): Promise<ReplyConnection<PgReply>> {
  // While it starts PostgreSQL takes connections and refuses them in words.
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    const socket = await connectToGuest(host, guestPorts.postgres, Math.max(1, deadlineMs - Date.now()));
    const opened = new ReplyConnection(socket, takePgReply);
    const result = await opened.exchange(encodeStartup("lab", "lab"), timeoutMs);
    if (result.tag === "reply" && result.reply.error === "") {
      return opened;
    }
    opened.close();
    if (Date.now() >= deadlineMs) {
      throw new Error(`PostgreSQL on ${host} does not take us: ${JSON.stringify(result)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

function judgeInsert(number: number, { types, error }: PgReply): Verdict | undefined {
  if (error === "") {
    return types === "CZ" ? undefined : { kind: "wrong", detail: `number ${number} answered by messages ${types}` };
  }
  return { kind: error.startsWith("23505") ? "duplicated" : "wrong", detail: `number ${number}: ${error}` };
}

function findMissingRow({ rows, error }: PgReply, acknowledged: number): Verdict | undefined {
  if (error !== "") {
    return { kind: "wrong", detail: error };
  }
  const numbers = rows.map(([number]) => Number(number));
  const wrong = numbers.findIndex((number, index) => number !== index + 1);
  if (wrong !== -1) {
    return { kind: "lost", detail: `row ${wrong + 1} of the ledger is number ${numbers[wrong] ?? "?"}` };
  }
  // One whose answer never came may have been carried out.
  return numbers.length === acknowledged || numbers.length === acknowledged + 1
    ? undefined
    : { kind: "lost", detail: `${acknowledged} transactions were acknowledged, ${numbers.length} are there` };
}

function encodeStartup(user: string, database: string): Buffer {
  const body = Buffer.from(`user\0${user}\0database\0${database}\0\0`, "latin1");
  const head = Buffer.alloc(8);
  head.writeInt32BE(body.length + 8, 0);
  head.writeInt32BE(196_608, 4); // Protocol 3.0.
  return Buffer.concat([head, body]);
}

function encodeQuery(text: string): Buffer {
  const body = Buffer.from(`${text}\0`, "utf8");
  const head = Buffer.alloc(5);
  head.write("Q", 0, "latin1");
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

/** Everything up to ReadyForQuery; an error during start-up ends without one, because the server closes. */
export const takePgReply: TakeReply<PgReply> = (received) => {
  let at = 0;
  let types = "";
  let error = "";
  const rows: string[][] = [];
  while (received.length >= at + 5) {
    const end = at + 1 + received.readInt32BE(at + 1);
    if (received.length < end) {
      return undefined;
    }
    const type = received.toString("latin1", at, at + 1);
    const body = received.subarray(at + 5, end);
    types += type;
    at = end;
    if (type === "D") {
      rows.push(decodeRow(body));
    } else if (type === "E") {
      error = decodeError(body);
    }
    if (type === "Z" || (type === "E" && isFatal(body))) {
      return { reply: { types, rows, error }, lengthBytes: at };
    }
  }
  return undefined;
};

function decodeRow(body: Buffer): string[] {
  const columns: string[] = [];
  let at = 2;
  for (let left = body.readInt16BE(0); left > 0; left -= 1) {
    const lengthBytes = body.readInt32BE(at);
    const start = at + 4;
    at = start + Math.max(0, lengthBytes);
    columns.push(body.toString("utf8", start, at));
  }
  return columns;
}

const listErrorFields = (body: Buffer): string[] => body.toString("utf8").split("\0");
const findErrorField = (body: Buffer, letter: string): string =>
  listErrorFields(body)
    .find((field) => field.startsWith(letter))
    ?.slice(1) ?? "";
const decodeError = (body: Buffer): string => `${findErrorField(body, "C")} ${findErrorField(body, "M")}`;
const isFatal = (body: Buffer): boolean => ["FATAL", "PANIC"].includes(findErrorField(body, "V"));

if (import.meta.main) {
  await runClientProcess((options) => planLedger(options as LedgerOptions));
}
