/** What stands in the guest's way, by component, for people; a problem goes when what it was about has succeeded. */
import { type Message } from "../protocol/messages.ts";
import { encodePeerUri } from "../net/peer-identity.ts";
import { type TlsCredentials } from "../net/tls.ts";
import { type Log } from "../telemetry/log.ts";

export class Problems extends Map<string, string> {
  readonly #log: Log;

  constructor(log: Log) {
    super();
    this.#log = log;
  }

  /** What keeps the two sides apart is shown on both, and goes when they have found together. */
  noteSent(message: Message): void {
    if (message.tag === "refuse") {
      this.noteRefusal(message.code, message.message);
    } else if (message.tag === "welcome" || message.tag === "syncBegin") {
      this.delete("refusal");
    }
  }

  /** Why the standby cannot follow is shown here too: it starts over, and here is where a person looks. */
  noteReceived(message: Message): void {
    if (message.tag === "stale") {
      this.set("standby", message.reason);
      this.#log.warn({ reason: message.reason }, "the standby cannot follow");
    }
  }

  noteRefusal(code: string, message: string): void {
    if (this.get("refusal") !== message) {
      this.set("refusal", message);
      this.#log.warn({ code }, message);
    }
  }

  /** Every peer refuses a wrong one, but none of them can say whose mistake it is. */
  noteOwnCertificate(credentials: TlsCredentials, node: string): void {
    const problem = findCertificateProblem(credentials, node);
    if (problem === undefined) {
      this.delete("certificate");
    } else if (this.get("certificate") !== problem) {
      this.set("certificate", problem);
      this.#log.error({}, problem);
    }
  }
}

function findCertificateProblem(
  { identity, files, isOfOurAuthority }: TlsCredentials,
  node: string,
): string | undefined {
  const { certPath, caPath } = files;
  if (!isOfOurAuthority) {
    return `${certPath} was not issued by the CA of ${caPath}: issue one for node ${node} from that CA`;
  }
  return identity.service === "node" && identity.name === node
    ? undefined
    : `${certPath} speaks for ${encodePeerUri(identity)}: issue one for node ${node}`;
}
