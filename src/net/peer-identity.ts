/**
 * Who a certificate speaks for: one URI in its subjectAltName, `twinrun://node/NAME` for everything that runs on a node
 * (agents, engines), `twinrun://quorum/NAME` for a quorum service, `twinrun://operator/NAME` for the operator,
 * `twinrun://monitor/NAME` for whoever only reads figures, such as a Prometheus.
 *
 * Host names and addresses in a certificate mean nothing to Twinrun: links have several addresses, pods get new ones, and
 * the question is always "is this node B", never "is this 10.0.0.2". A certificate with no such URI, or with more than
 * one, speaks for nobody.
 */
export const PEER_SERVICES = ["node", "quorum", "operator", "monitor"] as const;
export type PeerService = (typeof PEER_SERVICES)[number];
export type PeerIdentity = { readonly service: PeerService; readonly name: string };

const URI = /^URI:twinrun:\/\/(node|quorum|operator|monitor)\/([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)$/;
const NAME = /^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/;

/** The names Kubernetes allows for a node. */
export function isPeerName(name: string): boolean {
  return NAME.test(name);
}

export function encodePeerUri({ service, name }: PeerIdentity): string {
  return `twinrun://${service}/${name}`;
}

/** From the text form of a subjectAltName as Node gives it. */
export function parsePeerIdentity(subjectAltName: string | undefined): PeerIdentity | undefined {
  // Node quotes an entry with separators in it; such an entry could look like two.
  if (subjectAltName === undefined || subjectAltName.includes('"')) {
    return undefined;
  }
  const ours = subjectAltName.split(", ").filter((entry) => entry.startsWith("URI:twinrun:"));
  const match = ours.length === 1 ? URI.exec(ours[0] ?? "") : null;
  const service = PEER_SERVICES.find((candidate) => candidate === match?.[1]);
  const name = match?.[2];
  return service === undefined || name === undefined ? undefined : { service, name };
}
