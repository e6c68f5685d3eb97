/** How far a request is that was written as an annotation: decided from the object and from events that are new since then. */
import { type OverrideRequest, requestAnnotations } from "../api/requests.ts";
import { type Step } from "./follow.ts";
import { type KubeEvent } from "./kube-objects.ts";
import { findCondition, type ShownVm } from "./protected-vms.ts";

export type Request =
  | { readonly tag: "switchover"; readonly to: string }
  | { readonly tag: "failover"; readonly from: string }
  | { readonly tag: "override"; readonly override: OverrideRequest }
  | { readonly tag: "clear"; readonly what: string };

export type RequestSight = {
  readonly vm: ShownVm | undefined;
  readonly request: Request;
  /** Of this ProtectedVM, that were not there before the request. */
  readonly newEvents: readonly KubeEvent[];
  /** How long the annotation has been away. */
  readonly goneForMs: number;
};

const ANNOTATIONS = {
  switchover: requestAnnotations.switchoverTo,
  failover: requestAnnotations.failoverFrom,
  override: requestAnnotations.forceOwner,
  clear: requestAnnotations.clearFaults,
} as const;

export const annotationOf = ({ tag }: Request): string => ANNOTATIONS[tag];

export function valueOfRequest(request: Request): string {
  switch (request.tag) {
    case "switchover":
      return request.to;
    case "failover":
      return request.from;
    case "override":
      return JSON.stringify(request.override);
    case "clear":
      return request.what;
  }
}

const REASONS = {
  switchover: { done: "SwitchedOver", refused: "SwitchoverRefused" },
  failover: { done: "FailedOver", refused: "FailoverRefused" },
  override: { done: "OwnerForced", refused: "OverrideRefused" },
  clear: { done: "FaultsCleared", refused: "ClearRefused" },
} as const;

/** The operator takes the annotation away and says why in an event, which may arrive a little later. */
const EVENT_GRACE_MS = 15_000;

export function decideRequest({ vm, request, newEvents, goneForMs }: RequestSight): Step {
  if (vm === undefined) {
    return { tag: "refused", says: "the ProtectedVM was deleted meanwhile" };
  }
  const asked = vm.metadata.annotations?.[annotationOf(request)];
  if (asked !== undefined) {
    return asked === valueOfRequest(request)
      ? { tag: "waiting", says: writeWaiting(vm) }
      : { tag: "refused", says: `somebody else asked for ${asked} meanwhile` };
  }
  const reasons = REASONS[request.tag];
  const refusal = newEvents.findLast(({ reason }) => reason === reasons.refused);
  if (refusal !== undefined) {
    return { tag: "refused", says: `refused by the operator: ${refusal.note ?? "it does not say why"}` };
  }
  if (isDone(vm, request) || newEvents.some(({ reason }) => reason === reasons.done)) {
    return { tag: "done", says: writeDone(vm, request) };
  }
  return goneForMs < EVENT_GRACE_MS
    ? { tag: "waiting", says: "the operator has taken up the request" }
    : {
        tag: "refused",
        says: "the operator took the request away and the sides did not change; `kubectl twinrun events` may say why",
      };
}

function isDone({ status }: ShownVm, request: Request): boolean {
  const node = status?.primary?.node;
  switch (request.tag) {
    case "switchover":
      return node === request.to;
    case "failover":
      return node !== undefined && node !== request.from;
    case "override":
    case "clear":
      return false; // That it runs there, or works, says nothing: it may have before.
  }
}

function writeWaiting(vm: ShownVm): string {
  const reconciling = findCondition(vm, "Reconciling");
  return reconciling?.status === "True" && reconciling.message !== undefined && reconciling.message !== ""
    ? reconciling.message
    : "waiting for the operator";
}

function writeDone({ status }: ShownVm, request: Request): string {
  if (request.tag === "override") {
    return `${request.override.node} owns the guest now; it is started there, if it does not run yet`;
  }
  return request.tag === "clear" ? "what failed before does not count any more" : writeMoved(status, request);
}

function writeMoved(status: ShownVm["status"], request: Exclude<Request, { tag: "override" | "clear" }>): string {
  const node = status?.primary?.node ?? (request.tag === "switchover" ? request.to : "the other node");
  const durationMs = request.tag === "failover" ? status?.lastFailover?.durationMs : undefined;
  return `the guest runs on ${node}${durationMs === undefined ? "" : `; it stood still for ${durationMs} ms`}`;
}

/** An event is new when it was not there, or has happened again. */
export function listNewEvents(events: readonly KubeEvent[], before: ReadonlyMap<string, number>): readonly KubeEvent[] {
  return events.filter((event) => (before.get(event.metadata.uid ?? "") ?? 0) < countOf(event));
}

export const countEvents = (events: readonly KubeEvent[]): ReadonlyMap<string, number> =>
  new Map(events.map((event) => [event.metadata.uid ?? "", countOf(event)]));

const countOf = ({ series, deprecatedCount }: KubeEvent): number => series?.count ?? deprecatedCount ?? 1;
