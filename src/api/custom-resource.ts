/**
 * What one of our resources is: its names, its schemas, its columns, and the CustomResourceDefinition made of them.
 *
 * The same description serves whoever needs to know a resource: the CRD, access rules, the command line, the console.
 */
import { z } from "zod";
import { objectName, struct, time } from "./fields.ts";
import { encodeStructural, type SchemaNode } from "./structural.ts";

export const GROUP = "twinrun.dev";
export const VERSION = "v1alpha1";
export const API_VERSION = `${GROUP}/${VERSION}` as const;

export type PrinterColumn = {
  readonly name: string;
  readonly type: "string" | "integer" | "number" | "date";
  readonly description: string;
  readonly jsonPath: string;
  /** 1: only with `kubectl get -o wide`. */
  readonly priority?: 1;
};

export type CustomResource = {
  readonly kind: string;
  readonly plural: string;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  readonly scope: "Namespaced" | "Cluster";
  readonly description: string;
  readonly spec: z.ZodType;
  readonly status: z.ZodType;
  readonly columns: readonly PrinterColumn[];
};

/** The column that ends every table of kubectl. */
export const ageColumn: PrinterColumn = {
  name: "Age",
  type: "date",
  description: "Time since the object was made.",
  jsonPath: ".metadata.creationTimestamp",
};

/** The part of an object's metadata that somebody here reads. */
const metadata = struct({
  name: objectName(),
  namespace: objectName().optional(),
  uid: z.string().optional(),
  resourceVersion: z.string().optional(),
  generation: z.int().optional(),
  creationTimestamp: time().optional(),
  deletionTimestamp: time().optional(),
  finalizers: z.array(z.string()).optional(),
  labels: z.record(z.string(), z.string()).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});

type ObjectShape<Kind extends string, Spec extends z.ZodType, Status extends z.ZodType> = {
  apiVersion: z.ZodLiteral<typeof API_VERSION>;
  kind: z.ZodLiteral<Kind>;
  metadata: typeof metadata;
  spec: Spec;
  status: z.ZodOptional<Status>;
};

/** A whole object of a kind, as it is read from the API server or from a file. */
export function objectOf<Kind extends string, Spec extends z.ZodType, Status extends z.ZodType>(
  kind: Kind,
  spec: Spec,
  status: Status,
): z.ZodObject<ObjectShape<Kind, Spec, Status>> {
  return struct({
    apiVersion: z.literal(API_VERSION, API_VERSION),
    kind: z.literal(kind, kind),
    metadata,
    spec,
    status: status.optional(),
  });
}

/** The CustomResourceDefinition as a plain object, its fields in the order in which people read them. */
export function encodeCrd(resource: CustomResource): SchemaNode {
  const { kind, plural, shortNames, categories, scope, columns } = resource;
  const singular = kind.toLowerCase();
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${GROUP}` },
    spec: {
      group: GROUP,
      scope,
      names: { kind, listKind: `${kind}List`, plural, singular, shortNames, categories },
      versions: [
        {
          name: VERSION,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: columns,
          schema: { openAPIV3Schema: encodeRoot(resource) },
        },
      ],
    },
  };
}

/** By hand: the API server checks apiVersion, kind and metadata itself and refuses rules of ours about them. */
function encodeRoot({ description, spec, status }: CustomResource): SchemaNode {
  return {
    type: "object",
    description,
    required: ["spec"],
    properties: {
      apiVersion: { type: "string" },
      kind: { type: "string" },
      metadata: { type: "object" },
      spec: encodeStructural(spec),
      status: encodeStructural(status),
    },
  };
}
