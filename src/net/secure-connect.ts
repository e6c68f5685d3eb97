/**
 * Opens one mutually authenticated connection: TCP, TLS 1.3, and the certificate's identity, all within one deadline.
 *
 * In TLS 1.3 the client is done before the server has looked at the client's certificate. A server that refuses us is
 * therefore seen as a connection that opens and then ends at once; FrameConnection names that case.
 */
import { connect, type PeerCertificate, type TLSSocket } from "node:tls";
import { startLateTimer } from "./late-timer.ts";
import { NetFailure, parseNetFailure, type Target } from "./net-failure.ts";
import { parsePeerIdentity, type PeerIdentity, type PeerService } from "./peer-identity.ts";
import { assertPeer, readPeerIdentity, type TlsCredentials } from "./tls.ts";

/** Whom we want to find there; without a name anyone of that service will do. */
export type ExpectedPeer = { readonly service: PeerService; readonly name?: string | undefined };

export type SecureConnectOptions = {
  readonly target: Target;
  readonly credentials: TlsCredentials;
  readonly expected: ExpectedPeer;
  readonly timeoutMs: number;
  /** The address of ours to connect from; the kernel chooses without it. */
  readonly localHost?: string | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type SecureSocket = { readonly socket: TLSSocket; readonly peer: PeerIdentity };

/** Rejects with a {@link NetFailure}. */
export function connectSecurely(options: SecureConnectOptions): Promise<SecureSocket> {
  const { target, expected, timeoutMs, signal } = options;
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...target,
      ...options.credentials.options(),
      ...(options.localHost === undefined ? {} : { localAddress: options.localHost }),
      checkServerIdentity: (_host, certificate) => verdict(certificate, expected),
    });
    socket.setNoDelay(true);
    const finish = (failure?: NetFailure): void => {
      stopTimer();
      signal?.removeEventListener("abort", onAbort);
      socket.off("secureConnect", onConnected).off("error", onError).off("close", onClosed);
      socket.on("error", () => undefined); // Until the owner listens.
      if (failure === undefined) {
        resolve({ socket, peer: readPeerIdentity(socket) });
        return;
      }
      socket.destroy();
      reject(failure);
    };
    const onConnected = (): void => {
      finish();
    };
    const onError = (error: unknown): void => {
      finish(parseNetFailure(error, target));
    };
    const onClosed = (): void => {
      onError(new Error("closed during the handshake"));
    };
    const onAbort = (): void => {
      onError(new Error("given up"));
    };
    const stopTimer = startLateTimer(timeoutMs, () => {
      finish(timedOut(target, timeoutMs));
    });
    signal?.addEventListener("abort", onAbort);
    socket.once("secureConnect", onConnected).once("error", onError).once("close", onClosed);
  });
}

function verdict(certificate: PeerCertificate, expected: ExpectedPeer): Error | undefined {
  try {
    assertPeer(parsePeerIdentity(certificate.subjectaltname), expected.service, expected.name);
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

function timedOut({ host, port }: Target, afterMs: number): NetFailure {
  return new NetFailure(
    { code: "ConnectTimedOut", host, port, afterMs },
    `no answer from ${host} port ${port} within ${afterMs} ms: check the link and whether the host is up`,
  );
}
