/**
 * Takes the records of guests that are gone out of the quorum, where its store is not the API server. A connection is made for
 * each: guests do not end often, and an operator is not needed for anything else of the quorum's.
 */
import { QuorumConnection, type QuorumConnectionOptions } from "../net/quorum-connection.ts";
import { type TlsCredentials } from "../net/tls.ts";

export type QuorumRecordsOptions = Pick<QuorumConnectionOptions, "endpoints"> & {
  /** The operator's own; may take a while to come. */
  readonly openCredentials: () => Promise<TlsCredentials>;
};

export class QuorumRecords {
  readonly #options: QuorumRecordsOptions;

  constructor(options: QuorumRecordsOptions) {
    this.#options = options;
  }

  /** Throws a QuorumFailure while no quorum answers. */
  async remove(guest: string): Promise<void> {
    const { endpoints, openCredentials } = this.#options;
    const connection = new QuorumConnection({ endpoints, credentials: await openCredentials() });
    try {
      await connection.remove(guest);
    } finally {
      connection.close();
    }
  }
}
