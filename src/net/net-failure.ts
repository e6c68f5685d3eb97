/**
 * Everything that can go wrong between two Twinrun processes on the wire, one code per problem, each with the remedy in
 * its message. What Node and OpenSSL report is translated here and nowhere else; the original stays in `cause`.
 */
import { Failure } from "../lib/failure.ts";

export type NetFailureDetail =
  /** A certificate, key or CA file cannot be read or used. */
  | { readonly code: "CertificateUnusable"; readonly path: string }
  /** The peer showed a certificate of our CA, but not the one of whom we expected. */
  | { readonly code: "WrongCertificate"; readonly expected: string; readonly presented: string }
  /** The peer's certificate is not of our CA, or outside its time, or not there. */
  | { readonly code: "UntrustedCertificate"; readonly reason: string }
  /** The peer ended the handshake because of our certificate. */
  | { readonly code: "CertificateRefused"; readonly reason: string }
  /** What the peer speaks is no TLS 1.3. */
  | { readonly code: "NotTls"; readonly reason: string }
  | { readonly code: "HandshakeTimedOut"; readonly afterMs: number }
  | { readonly code: "ConnectRefused"; readonly host: string; readonly port: number }
  | { readonly code: "ConnectTimedOut"; readonly host: string; readonly port: number; readonly afterMs: number }
  | { readonly code: "HostUnreachable"; readonly host: string; readonly port: number }
  /** `localHost` is not an address of this machine (any more). */
  | { readonly code: "LocalAddressMissing"; readonly host: string }
  | { readonly code: "PortTaken"; readonly host: string; readonly port: number }
  | { readonly code: "TooManyConnections"; readonly limit: number }
  /** The peer went away without a word, before or after the handshake. */
  | { readonly code: "ConnectionLost"; readonly reason: string }
  /** Bytes that are no frames; `cause` has the decoder's words. Closes the connection. */
  | { readonly code: "BadFrame"; readonly reason: string }
  | { readonly code: "BacklogExceeded"; readonly limitBytes: number };

export class NetFailure extends Failure<NetFailureDetail> {}

export type Target = { readonly host: string; readonly port: number };

const CODE_OF = (error: unknown): string => {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : "";
};
const TEXT_OF = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** OpenSSL's verdicts on the peer's certificate, as Node names them. */
const UNTRUSTED = new Set([
  "CERT_HAS_EXPIRED",
  "CERT_NOT_YET_VALID",
  "CERT_UNTRUSTED",
  "CERT_REJECTED",
  "CERT_SIGNATURE_FAILURE",
  "CERT_CHAIN_TOO_LONG",
  "CERT_REVOKED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "INVALID_CA",
  "INVALID_PURPOSE",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE",
]);

/** The failure of a connection attempt or of an established connection, from what Node reported. */
export function parseNetFailure(error: unknown, target: Target): NetFailure {
  if (error instanceof NetFailure) {
    return error;
  }
  const code = CODE_OF(error);
  return socketFailure(code, error, target) ?? tlsFailure(code, error, target);
}

const UNREACHABLE = new Set(["ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ENOTFOUND", "EAI_AGAIN"]);
const RESET = new Set(["ECONNRESET", "EPIPE", "ECONNABORTED"]);

function socketFailure(code: string, error: unknown, { host, port }: Target): NetFailure | undefined {
  const options = { cause: error };
  if (UNREACHABLE.has(code)) {
    return new NetFailure(
      { code: "HostUnreachable", host, port },
      `${host} cannot be reached (${code}): check the link, the route and the address`,
      options,
    );
  }
  if (RESET.has(code)) {
    return connectionLost(`reset (${code})`, error);
  }
  switch (code) {
    case "ECONNREFUSED":
      return new NetFailure(
        { code: "ConnectRefused", host, port },
        `nothing listens on ${host} port ${port}: start the peer there or correct the address`,
        options,
      );
    case "EADDRNOTAVAIL":
      return new NetFailure(
        { code: "LocalAddressMissing", host },
        `the address for ${host} is not on this machine: give the link's interface its localHost or correct it`,
        options,
      );
    case "EADDRINUSE":
      return new NetFailure(
        { code: "PortTaken", host, port },
        `port ${port} on ${host} is taken: stop the process that listens there or choose another port`,
        options,
      );
    default:
      return undefined;
  }
}

function tlsFailure(code: string, error: unknown, { host, port }: Target): NetFailure {
  const reason = TEXT_OF(error);
  if (UNTRUSTED.has(code)) {
    return new NetFailure(
      { code: "UntrustedCertificate", reason: code },
      `the peer at ${host} port ${port} has no certificate of our CA that is valid now (${code}): ` +
        `issue it one from the same CA, and check the clocks of both machines`,
      { cause: error },
    );
  }
  if (code.includes("ALERT")) {
    return new NetFailure(
      { code: "CertificateRefused", reason: code },
      `the peer at ${host} port ${port} refused our certificate (${code}): both sides need certificates of the same CA, valid now`,
      { cause: error },
    );
  }
  if (code.startsWith("ERR_SSL") || code === "EPROTO") {
    return new NetFailure(
      { code: "NotTls", reason },
      `${host} port ${port} does not speak TLS 1.3 (${reason}): check that the address is one of Twinrun's`,
      { cause: error },
    );
  }
  return connectionLost(reason, error);
}

function connectionLost(reason: string, error: unknown): NetFailure {
  return new NetFailure(
    { code: "ConnectionLost", reason },
    `the connection was lost: ${reason}; if this happens at once on every attempt, the peer's log says why it refuses us`,
    { cause: error },
  );
}
