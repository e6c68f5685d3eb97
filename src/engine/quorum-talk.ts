/** What this side says to its quorums and what becomes of it; the machine gets every answer as an event. */
import { type EngineConfig, type OverrideOrder } from "../protocol/assignment.ts";
import { type QuorumRequest, type QuorumSeat } from "../protocol/quorum-record.ts";
import { type SideEvent } from "../protocol/side-state.ts";
import { QuorumConnection, type QuorumOutcome } from "../net/quorum-connection.ts";
import { QuorumSeats } from "../net/quorum-seats.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { type Log } from "../telemetry/log.ts";

export type QuorumTalkOptions = {
  readonly config: EngineConfig;
  readonly credentials: TlsCredentials;
  readonly nonce: string;
  readonly log: Log;
  readonly post: (event: SideEvent) => void;
  /** What stands in the way, by component. */
  readonly problems: Map<string, string>;
};

export class QuorumTalk {
  readonly #options: QuorumTalkOptions;
  readonly seats: QuorumSeats;
  /** Requests since the last one that was decided. */
  attempts = 0;
  /** Why the last request was not decided. */
  undecidedWhy: string | undefined;

  constructor(options: QuorumTalkOptions) {
    this.#options = options;
    this.seats = openSeats(options);
  }

  async ask(request: QuorumRequest): Promise<void> {
    const outcome = await this.seats.ask(request);
    const isDecided = outcome.tag === "granted" || outcome.tag === "refused";
    this.attempts = isDecided ? 0 : this.attempts;
    this.undecidedWhy = isDecided ? undefined : sayUndecided(outcome);
    const plain = isDecided ? outcome : { tag: outcome.tag };
    this.#options.post({ tag: "quorumAnswered", requestId: request.requestId, outcome: plain });
  }

  async readRecord(): Promise<void> {
    const reading = await this.seats.read(this.#options.config.guest);
    if (reading.tag === "read") {
      this.attempts = 0;
      this.#options.post({ tag: "recordRead", record: reading.record ?? null });
    } else {
      this.#options.post({ tag: "recordUnread" });
    }
  }

  /** Read again in any case: the side's next question is then asked on the version that the move made. */
  async move(to: QuorumSeat): Promise<void> {
    const { config, log, post } = this.#options;
    const trouble = await this.seats.move(config.guest, to);
    log[trouble === undefined ? "info" : "warn"]({ to }, trouble ?? `the ${to} quorum is in force`);
    const reading = await this.seats.read(config.guest);
    if (reading.tag === "read" && reading.record !== undefined) {
      post({ tag: "recordRead", record: reading.record });
    }
  }

  /** What follows is as if the record had said so before: whoever owns it boots the guest, or goes on from what it holds. */
  async force({ term, ...override }: OverrideOrder): Promise<void> {
    const { config, log, post, problems } = this.#options;
    const outcome = await this.seats.force(config.guest, { tag: "force", peer: config.peerNode, term, override });
    if (outcome.tag === "granted") {
      problems.delete("override");
      log.warn({ override, record: outcome.record }, "this side owns the guest now, because a person said so");
      post({ tag: "recordRead", record: outcome.record });
      return;
    }
    const why = outcome.tag === "unreachable" ? outcome.failure.message : outcome.tag;
    problems.set("override", `the override was not recorded: ${why}`);
    log.error({ override, outcome }, "the override was not recorded");
  }
}

function openSeats({ config, credentials, nonce }: QuorumTalkOptions): QuorumSeats {
  const alternate = config.quorums?.alternate ?? [];
  return new QuorumSeats({
    preferred: new QuorumConnection({ endpoints: config.quorum, credentials }),
    alternate: alternate.length === 0 ? undefined : new QuorumConnection({ endpoints: alternate, credentials }),
    node: config.node,
    nonce,
  });
}

function sayUndecided(outcome: Extract<QuorumOutcome, { tag: "unreachable" | "unknown" }>): string {
  return outcome.tag === "unreachable" ? outcome.failure.message : outcome.why;
}
