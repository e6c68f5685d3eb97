/**
 * Work in the guest that needs only the processor: the guest turns a loop N times for each request, the client holds the watch.
 * A request is one long piece of work, so that the checkpoints, not the replies, are what disturbs it. The result's
 * `perSecond` are requests; times `turns` they are loops.
 */
import { guestPorts } from "../guests.ts";
import { Conversation, defaultConversation, type ConversationOptions } from "./conversation.ts";
import { runClientProcess } from "./client-contract.ts";
import { connectToGuest, ReplyConnection, takeLine } from "./reply-connection.ts";

export type BurnOptions = Partial<ConversationOptions> & {
  readonly host: string;
  /** Loops a request; about 50,000 a second under TCG in the small guest. */
  readonly turns: number;
};

export function planBurn(options: BurnOptions): Conversation<string> {
  const { host, turns } = options;
  return new Conversation(
    {
      open: async (connection) =>
        new ReplyConnection(await connectToGuest(host, guestPorts.burn + connection, 60_000), takeLine),
      phrase: () => `${turns}\n`,
      judge: (_, __, reply) =>
        reply === String(turns) ? undefined : { kind: "wrong", detail: `answered ${JSON.stringify(reply)}` },
    },
    { ...defaultConversation, ...options },
  );
}

if (import.meta.main) {
  await runClientProcess((options) => planBurn(options as BurnOptions));
}
