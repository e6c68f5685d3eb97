/**
 * Takes the records of guests that are gone out of the quorum, where its store is not the API server. A connection is made for
 * each: guests do not end often, and an operator is not needed for anything else of the quorum's.
 */
import { QuorumConnection, type QuorumConnectionOptions } from "../net/quorum-connection.ts";
import { type TlsCredentials } from "../net/tls.ts";

export type QuorumRecordsOptions = {
  /** Of the installation's quorum; none where its records are Leases. */
  readonly endpoints: QuorumConnectionOptions["endpoints"];
  /** The operator's own; may take a while to come. */
  readonly openCredentials: () => Promise<TlsCredentials>;
};

export class QuorumRecords {
  readonly #options: QuorumRecordsOptions;

  constructor(options: QuorumRecordsOptions) {
    this.#options = options;
  }

  /** Then the API server is to be asked. */
  get isInLeases(): boolean {
    return this.#options.endpoints.length === 0;
  }

  /** Throws a QuorumFailure while no quorum answers. */
  async remove(guest: string, endpoints = this.#options.endpoints): Promise<void> {
    const { openCredentials } = this.#options;
    const connection = new QuorumConnection({ endpoints, credentials: await openCredentials() });
    try {
      await connection.remove(guest);
    } finally {
      connection.close();
    }
  }
}
