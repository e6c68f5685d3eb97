/** The table of `events`. */
import { writeAgeOf } from "./duration.ts";
import { type KubeEvent } from "./kube-objects.ts";
import { type Column } from "./table.ts";

/** When it was seen last; older recorders write it elsewhere. */
export function timeOf(event: KubeEvent): string | undefined {
  const times = [
    event.series?.lastObservedTime,
    event.deprecatedLastTimestamp,
    event.eventTime,
    event.deprecatedFirstTimestamp,
    event.metadata.creationTimestamp,
  ];
  return times.find((time) => typeof time === "string" && time !== "") ?? undefined;
}

const countOf = ({ series, deprecatedCount }: KubeEvent): number => series?.count ?? deprecatedCount ?? 1;

/** Oldest first, so that the newest stands where the eye is. */
export function sortEvents(events: readonly KubeEvent[]): readonly KubeEvent[] {
  const at = (event: KubeEvent): number => Date.parse(timeOf(event) ?? "") || 0;
  return events.toSorted((one, other) => at(one) - at(other) || one.metadata.name.localeCompare(other.metadata.name));
}

export type EventTable = { readonly withNamespace: boolean; readonly withObject: boolean; readonly nowMs: number };

export function listEventColumns({ withNamespace, withObject, nowMs }: EventTable): readonly Column<KubeEvent>[] {
  return [
    ...(withNamespace ? [{ head: "NAMESPACE", cell: ({ metadata }: KubeEvent) => metadata.namespace ?? "" }] : []),
    { head: "LAST SEEN", cell: (event) => writeAgeOf(timeOf(event), nowMs) },
    {
      head: "TYPE",
      cell: ({ type }) => type ?? "",
      paint: ({ type }) => (type === "Warning" ? "doubtful" : undefined),
    },
    { head: "REASON", cell: ({ reason }) => reason ?? "" },
    ...(withObject ? [{ head: "OBJECT", cell: ({ regarding }: KubeEvent) => writeObject(regarding) }] : []),
    { head: "MESSAGE", cell: (event) => `${event.note ?? ""}${countOf(event) > 1 ? ` (x${countOf(event)})` : ""}` },
  ];
}

const writeObject = (regarding: KubeEvent["regarding"]): string =>
  `${(regarding?.kind ?? "").toLowerCase()}/${regarding?.name ?? ""}`;
