/** Where an API server is and who we are there. */
import type { Agent } from "node:http";

export type TlsMaterial = {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
};

export type Access = {
  /** May have a path, which then stands before every other. */
  readonly server: URL;
  readonly tls: TlsMaterial;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  /** The namespace of the pod or of the context. */
  readonly namespace?: string | undefined;
  /** A proxy for this server; without one those of the environment (HTTPS_PROXY, NO_PROXY) count. */
  readonly proxyUrl?: string | undefined;
  /** Connects in a way of its own. */
  readonly agent?: Agent | undefined;
};
