/**
 * What the operator has to remember of a guest and cannot see anywhere: an annotation of its GuestPair, in JSON. Written before
 * anything is done by it, so that an operator that dies in between goes on where it was.
 */
import { isJson, readObject, readPath, readText } from "../lib/json-merge.ts";
import { type Machine } from "./common-machine.ts";

/** Where a group of guests was last together, and which of them were there. */
export type GroupNote = { readonly node: string; readonly guests: readonly string[] };

export const NOTES_ANNOTATION = "twinrun.dev/notes";

export type GuestNotes = {
  /** The node of the side whose objects are in the ProtectedVM's namespace. */
  readonly first: string;
  /** The node whose volumes the guest was started from; absent once it was replaced. Volumes elsewhere are made empty. */
  readonly origin?: string | undefined;
  /** The port of its engines, should somebody change it. */
  readonly port?: number | undefined;
  /** What both sides are told to be, as long as the guest lives. */
  readonly machine: Machine;
  /** The last term in which both sides were in sync: a standby that is missing in it was lost. */
  readonly inSyncTerm?: number | undefined;
  /** When the roles were last asked for. */
  readonly rolesAt?: string | undefined;
  /** When another quorum was last asked for. */
  readonly quorumAt?: string | undefined;
  /** Since when it waits for its turn, or has it; see planned-work.ts. */
  readonly turnAt?: string | undefined;
  /** Since when it is to start from its disks; see start-turn.ts. */
  readonly startAt?: string | undefined;
  /** Of the oldest of a group: where it was last together; see guest-group.ts. */
  readonly group?: GroupNote | undefined;
};

export const encodeNotes = (notes: GuestNotes): string => JSON.stringify(notes);

type Noted = { readonly metadata: { readonly annotations?: Readonly<Record<string, string>> | undefined } };

/** Undefined when somebody has taken them away or spoilt them. */
export function parseNotes({ metadata }: Noted): GuestNotes | undefined {
  const parsed = parseJson(metadata.annotations?.[NOTES_ANNOTATION] ?? "");
  const first = readText(parsed, "first");
  if (first === undefined) {
    return undefined;
  }
  const machine = readObject(parsed, "machine");
  const [term, port] = [readPath(parsed, "inSyncTerm"), readPath(parsed, "port")];
  return {
    first,
    origin: readText(parsed, "origin"),
    port: typeof port === "number" ? port : undefined,
    machine: { type: readText(machine, "type"), cpuModel: readText(machine, "cpuModel") },
    inSyncTerm: typeof term === "number" ? term : undefined,
    rolesAt: readText(parsed, "rolesAt"),
    quorumAt: readText(parsed, "quorumAt"),
    turnAt: readText(parsed, "turnAt"),
    startAt: readText(parsed, "startAt"),
    group: parseGroup(parsed),
  };
}

function parseGroup(parsed: unknown): GroupNote | undefined {
  const [node, guests] = [readText(parsed, "group", "node"), readPath(parsed, "group", "guests")];
  return node === undefined || !Array.isArray(guests)
    ? undefined
    : { node, guests: guests.filter((guest): guest is string => typeof guest === "string") };
}

function parseJson(text: string): unknown {
  try {
    const parsed: unknown = JSON.parse(text);
    return isJson(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}
