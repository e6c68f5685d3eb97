/**
 * zod in; the schema of a CustomResourceDefinition out (apiextensions.k8s.io/v1 JSONSchemaProps, structural).
 *
 * z.toJSONSchema does most of it. What it cannot know is done here: a handful of rewrites, rules that zod checks in code and
 * the API server by CEL, and laws that a schema must keep. The API server drops keywords it does not know without a word and
 * refuses the rest only at installation, so a broken law is an assertion that names the path: it is a bug of ours.
 */
import { z } from "zod";
import { assert } from "../lib/assert.ts";

export type SchemaNode = Readonly<Record<string, unknown>>;

/** A rule in CEL; `message` completes "FIELD: ...", `fieldPath` names a field below the object the rule is about. */
export type CelRule = { readonly rule: string; readonly message: string; readonly fieldPath?: `.${string}` };

const VALIDATIONS = "x-kubernetes-validations";

/** One rule, two evaluators: `cel` for the API server, `holds` for everything that parses with zod. */
export function withRule<S extends z.ZodType>(schema: S, cel: CelRule, holds: (value: z.output<S>) => boolean): S {
  const path = cel.fieldPath?.slice(1).split(".") ?? [];
  return addRule(schema.refine(holds, { message: cel.message, path }), schema, cel);
}

/** A rule about `self` and `oldSelf`. Only the API server sees both, so zod has nothing to check. */
export function withTransitionRule<S extends z.ZodType>(schema: S, cel: CelRule): S {
  return addRule(schema, schema, cel);
}

function addRule<S extends z.ZodType>(schema: S, described: S, cel: CelRule): S {
  const meta = described.meta() ?? {};
  const earlier = (meta[VALIDATIONS] ?? []) as readonly CelRule[];
  return schema.meta({ ...meta, [VALIDATIONS]: [...earlier, cel] });
}

/** An object of somebody else's: what is in `shape` is ours to check, everything else is kept as it is. */
export function openObject<Shape extends z.core.$ZodLooseShape>(shape: Shape): z.ZodObject<Shape, z.core.$loose> {
  return z.looseObject(shape, { error: "an object" }).meta({ "x-kubernetes-preserve-unknown-fields": true });
}

/** The structural schema of what a person writes: fields with a default are not required. */
export function encodeStructural(schema: z.ZodType): SchemaNode {
  const root = z.toJSONSchema(schema, {
    target: "openapi-3.0",
    io: "input",
    reused: "inline",
    cycles: "throw",
    unrepresentable: "throw",
    override: ({ jsonSchema }) => {
      rewrite(jsonSchema);
    },
  });
  const structural = withWholeDefaults(root);
  assertLaws(structural, "");
  return structural;
}

/**
 * A default of `{}` becomes what it stands for. The API server fills in the defaults inside only when an object is written; at
 * installation it holds the default against the CEL rules as it stands, and a rule about a field that is not there fails.
 */
function withWholeDefaults(node: SchemaNode): SchemaNode {
  const properties = mapValues(
    node["properties"] as Readonly<Record<string, SchemaNode>> | undefined,
    withWholeDefaults,
  );
  const items = node["items"] === undefined ? undefined : withWholeDefaults(node["items"] as SchemaNode);
  return {
    ...node,
    ...(node["properties"] === undefined ? {} : { properties }),
    ...(items === undefined ? {} : { items }),
    ...(node["default"] === undefined ? {} : { default: fillIn(properties, node["default"]) }),
  };
}

/** The properties have whole defaults already. */
function fillIn(properties: Readonly<Record<string, SchemaNode>>, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return value;
  }
  const missing = Object.entries(properties).filter(([, { default: inner }]) => inner !== undefined);
  return { ...Object.fromEntries(missing.map(([name, { default: inner }]) => [name, inner])), ...value };
}

function mapValues<Value>(
  record: Readonly<Record<string, Value>> | undefined,
  change: (value: Value) => Value,
): Readonly<Record<string, Value>> {
  return Object.fromEntries(Object.entries(record ?? {}).map(([name, value]) => [name, change(value)]));
}

function rewrite(node: Record<string, unknown>): void {
  if (node["additionalProperties"] === false || isOpen(node)) {
    delete node["additionalProperties"]; // Pruning what is unknown is the API server's default, keeping it has a keyword.
  }
  if (isOpen(node) && Object.keys(node["properties"] ?? {}).length === 0) {
    delete node["properties"];
  }
  if (node["format"] === "date-time") {
    delete node["pattern"]; // The API server knows the format; zod's pattern for it is a screenful.
  }
  if (node["maximum"] === Number.MAX_SAFE_INTEGER) {
    delete node["maximum"];
  }
}

type Law = { readonly says: string; readonly isBroken: (node: SchemaNode) => boolean };

const KEYWORDS = new Set([
  ...["type", "format", "description", "default", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum"],
  ...["minItems", "maxItems", "minProperties", "maxProperties", "required"],
  ...["properties", "additionalProperties", "items", VALIDATIONS, "x-kubernetes-preserve-unknown-fields"],
  ...["x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"],
]);

const isOpen = (node: SchemaNode): boolean => node["x-kubernetes-preserve-unknown-fields"] === true;
const isText = (node: SchemaNode): boolean => node["type"] === "string";
const hasOpenEnd = (node: SchemaNode): boolean => node["enum"] === undefined && node["format"] === undefined;

const LAWS: readonly Law[] = [
  {
    says: "has a keyword that Kubernetes refuses or that nothing here needed before",
    isBroken: (node) => Object.keys(node).some((keyword) => !KEYWORDS.has(keyword)),
  },
  { says: "needs a type", isBroken: (node) => node["type"] === undefined },
  {
    says: "is a struct and a map at once",
    isBroken: (node) => node["properties"] !== undefined && node["additionalProperties"] !== undefined,
  },
  {
    says: "needs a greatest length: the API server estimates the cost of CEL rules by it",
    isBroken: (node) =>
      (isText(node) && hasOpenEnd(node) && node["maxLength"] === undefined) ||
      (node["type"] === "array" && node["maxItems"] === undefined) ||
      (node["additionalProperties"] !== undefined && node["maxProperties"] === undefined),
  },
  { says: "needs a list type", isBroken: (node) => node["type"] === "array" && !("x-kubernetes-list-type" in node) },
  {
    says: "has a pattern with look-around, which RE2 does not have",
    isBroken: (node) => typeof node["pattern"] === "string" && /\(\?<?[=!]/.test(node["pattern"]),
  },
];

function assertLaws(node: SchemaNode, path: string): void {
  for (const { says, isBroken } of LAWS) {
    assert(!isBroken(node), `${path === "" ? "/" : path}: ${says}`);
  }
  for (const [name, child] of Object.entries((node["properties"] ?? {}) as Record<string, SchemaNode>)) {
    assertLaws(child, `${path}/${name}`);
  }
  for (const keyword of ["items", "additionalProperties"]) {
    const child = node[keyword] as SchemaNode | undefined;
    if (child !== undefined) {
      assertLaws(child, `${path}/${keyword}`);
    }
  }
}
