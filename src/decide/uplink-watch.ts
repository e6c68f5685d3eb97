/** Which uplinks of this node are out of service. A moment without is no fault, and a moment with one is no repair. */
import { FLAP_MS } from "./uplink-hand-over.ts";
import { type FaultEvent, SETTLE_MS } from "./fault-log.ts";

export type SeenUplink = { readonly name: string; readonly up: boolean };
/** An uplink as it is, and since when. */
type Watched = SeenUplink & { readonly sinceMs: number; readonly isTold: boolean };
export type UplinkWatch = readonly Watched[];
export type UplinkStep = { readonly watch: UplinkWatch; readonly events: readonly FaultEvent[] };

export function stepUplinks(
  watch: UplinkWatch,
  seen: readonly SeenUplink[],
  { node, nowMs }: { readonly node: string; readonly nowMs: number },
): UplinkStep {
  const events: FaultEvent[] = [];
  const after = seen.map(({ name, up }): Watched => {
    const known = watch.find((each) => each.name === name);
    const [sinceMs, wasTold] = known?.up === up ? [known.sinceMs, known.isTold] : [nowMs, false];
    const isDue = !wasTold && nowMs - sinceMs >= (up ? SETTLE_MS : FLAP_MS);
    if (isDue) {
      events.push(encodeEvent(node, { name, up }));
    }
    return { name, up, sinceMs, isTold: wasTold || isDue };
  });
  return { watch: after, events };
}

function encodeEvent(node: string, { name, up }: SeenUplink): FaultEvent {
  const component = `uplink/${name}` as const;
  return up
    ? { tag: "repaired", node, component, code: "UplinkDown" }
    : { tag: "faulted", node, component, code: "UplinkDown", message: `${name} of ${node} is down` };
}
