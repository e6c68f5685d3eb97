/** Where the quorum's replicas are, by the EndpointSlices of its Service. */

export type EndpointSlice = {
  readonly addressType?: string;
  readonly endpoints?:
    | readonly {
        readonly addresses?: readonly string[];
        readonly conditions?: { readonly ready?: boolean; readonly serving?: boolean; readonly terminating?: boolean };
      }[]
    | null;
  readonly ports?: readonly { readonly name?: string; readonly port?: number }[] | null;
};

export type QuorumAddress = { readonly host: string; readonly port: number };

const portName = "quorum";
const endpointsCountMax = 16;

/**
 * All replicas in an order that stays while they do, those in doubt last. What the API server calls not ready is not left out: it
 * says so of every replica on a node whose kubelet is silent, and we ask each one ourselves. A replica that ends is left out,
 * unless there is no other. Empty: nothing is known, and what was known before should be kept.
 */
export function listQuorumEndpoints(slices: readonly EndpointSlice[]): readonly QuorumAddress[] {
  const isIpv4Only = slices.some(
    ({ addressType, endpoints }) => addressType === "IPv4" && (endpoints ?? []).length > 0,
  );
  const found = slices
    .filter(({ addressType }) => addressType === (isIpv4Only ? "IPv4" : "IPv6"))
    .flatMap((slice) => listOfSlice(slice));
  const staying = found.filter(({ rank }) => rank < 2);
  const sorted = (staying.length > 0 ? staying : found).sort(
    (one, other) => one.rank - other.rank || compare(one.host, other.host) || one.port - other.port,
  );
  const byKey = new Map(sorted.map(({ host, port }) => [`${host} ${port}`, { host, port }]));
  return [...byKey.values()].slice(0, endpointsCountMax);
}

/** 0 ready, 1 not ready, 2 on its way out. */
function listOfSlice({ endpoints, ports }: EndpointSlice): (QuorumAddress & { readonly rank: number })[] {
  const port = ((ports ?? []).find(({ name }) => name === portName) ?? ports?.[0])?.port;
  return (endpoints ?? []).flatMap(({ addresses = [], conditions = {} }) => {
    const rank = conditions.terminating === true ? 2 : conditions.ready === false ? 1 : 0;
    const [host] = addresses; // The others are the same replica's.
    return host === undefined || port === undefined ? [] : [{ host, port, rank }];
  });
}

const compare = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0);
