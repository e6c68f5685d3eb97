/**
 * How a client process is spoken with: options as JSON in its first argument; over Node's IPC channel it sends `progress` four
 * times a second, takes the message `"stop"`, sends one `result` or `failed`, and ends. It also ends when the channel closes,
 * for then nobody is left to tell.
 */
import { type Conversation, type ConversationProgress, type ConversationResult } from "./conversation.ts";

export type ClientMessage =
  | { readonly tag: "progress"; readonly progress: ConversationProgress }
  | { readonly tag: "result"; readonly result: ConversationResult }
  | { readonly tag: "failed"; readonly message: string };

const PROGRESS_MS = 250;

/** The main of a client process. `plan` gets the options as they were sent. */
export async function runClientProcess<Reply>(plan: (options: unknown) => Conversation<Reply>): Promise<void> {
  const conversation = plan(JSON.parse(process.argv[2] ?? "{}"));
  process.on("message", () => {
    conversation.stop();
  });
  process.on("disconnect", () => {
    process.exit(1);
  });
  const timer = setInterval(() => {
    send({ tag: "progress", progress: conversation.progress });
  }, PROGRESS_MS);
  try {
    send({ tag: "result", result: await conversation.run() });
  } catch (cause) {
    send({
      tag: "failed",
      message: cause instanceof Error ? `${cause.message} (${String(cause.cause)})` : String(cause),
    });
  }
  clearInterval(timer);
  process.removeAllListeners("disconnect");
  process.disconnect();
}

function send(message: ClientMessage): void {
  process.send?.(message);
}
