/**
 * The maintenance of a node: a mark on the Node, put there together with a cordon and taken away at the end. The operator only
 * reads it, so that it needs no right to change nodes.
 */
import { MAINTENANCE_ANNOTATION } from "../api/requests.ts";
import { isJson, readPath, readText } from "../lib/json-merge.ts";
import { type ClusterObject } from "./cluster-objects.ts";

export type Maintenance = {
  readonly by: string;
  /** ISO 8601; empty when the mark does not say. */
  readonly since: string;
  readonly reason: string;
  /** It stays cordoned when it ends. */
  readonly wasCordoned: boolean;
};

export const encodeMaintenance = (maintenance: Maintenance): string => JSON.stringify(maintenance);

/** Undefined when the node is not in maintenance. A mark in other words than ours is one too. */
export function findMaintenance(node: Pick<ClusterObject, "metadata"> | undefined): Maintenance | undefined {
  const text = node?.metadata.annotations?.[MAINTENANCE_ANNOTATION];
  if (text === undefined) {
    return undefined;
  }
  const parsed = parseMark(text);
  return {
    by: readText(parsed, "by") ?? "",
    since: readText(parsed, "since") ?? "",
    reason: readText(parsed, "reason") ?? (parsed === undefined ? text : ""),
    wasCordoned: readPath(parsed, "wasCordoned") === true,
  };
}

function parseMark(text: string): unknown {
  try {
    const parsed: unknown = JSON.parse(text);
    return isJson(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}

/** Names this maintenance among all that the node has had: what was said of an earlier one does not count. */
export const nameMaintenance = (node: string, { since }: Maintenance): string => `${node}@${since}`;
