/**
 * A miniature of how the API server takes a custom resource in: unknown fields pruned, defaults filled in, values checked
 * against the schema, then the CEL rules (transition rules only where there is an object from before).
 *
 * It knows the keywords that src/api uses and no others. Paths of problems are written as src/api/checked-input.ts writes
 * them, so that both judges can be compared.
 */
import { type SchemaNode } from "../../src/api/structural.ts";
import { isCelTrue } from "./cel.ts";

type Json = Readonly<Record<string, unknown>>;
export type Problem = { readonly path: string; readonly message: string };
export type Admission = { readonly object: unknown; readonly problems: readonly Problem[] };

/** `object` under the only version of `crd`; `before` is what it replaces. */
export function admit(crd: SchemaNode, object: unknown, before?: unknown): Admission {
  const { versions } = crd["spec"] as { readonly versions: readonly { readonly schema: Json }[] };
  return admitNode(versions[0]?.schema["openAPIV3Schema"] as SchemaNode, object, before);
}

/** The same for a part of a schema. */
function admitNode(schema: SchemaNode, value: unknown, before: unknown): Admission {
  return checkNode(schema, withDefaults(schema, prune(schema, value)), before);
}

function checkNode(schema: SchemaNode, object: unknown, before?: unknown): Admission {
  const problems = checkValue(schema, object, "");
  return { object, problems: problems.length > 0 ? problems : checkRules(schema, { value: object, before }, "") };
}

/** What is made of a schema's own default at installation: pruned, then checked as it stands, without the defaults inside. */
export function admitDefault(schema: SchemaNode): Admission {
  return checkNode(schema, prune(schema, schema["default"]));
}

export const propertiesOf = (schema: SchemaNode): Readonly<Record<string, SchemaNode>> =>
  (schema["properties"] ?? {}) as Readonly<Record<string, SchemaNode>>;

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Applies `change` to each child that has a schema of its own; children without one go through `otherwise`. */
function mapChildren(
  schema: SchemaNode,
  value: unknown,
  change: (childSchema: SchemaNode, child: unknown) => unknown,
  otherwise: (child: unknown) => readonly unknown[],
): unknown {
  if (Array.isArray(value)) {
    return value.map((item: unknown) => change(schema["items"] as SchemaNode, item));
  }
  if (!isObject(value)) {
    return value;
  }
  const entries = Object.entries(value).flatMap(([name, child]): [string, unknown][] => {
    const childSchema = propertiesOf(schema)[name] ?? (schema["additionalProperties"] as SchemaNode | undefined);
    return childSchema === undefined
      ? otherwise(child).map((kept) => [name, kept])
      : [[name, change(childSchema, child)]];
  });
  return Object.fromEntries(entries);
}

function prune(schema: SchemaNode, value: unknown): unknown {
  const isKept = schema["x-kubernetes-preserve-unknown-fields"] === true || isBareObject(schema);
  return mapChildren(schema, value, prune, (child) => (isKept ? [child] : []));
}

/** Only `metadata` of the whole object, which the API server knows itself. */
const isBareObject = (schema: SchemaNode): boolean =>
  schema["type"] === "object" && Object.keys(schema).join(" ") === "type";

function withDefaults(schema: SchemaNode, value: unknown): unknown {
  if (!isObject(value)) {
    return mapChildren(schema, value, withDefaults, (child) => [child]);
  }
  const missing = Object.entries(propertiesOf(schema)).flatMap(([name, child]): [string, unknown][] =>
    value[name] === undefined && child["default"] !== undefined ? [[name, structuredClone(child["default"])]] : [],
  );
  const given = Object.entries(value).filter(([, child]) => child !== undefined);
  return mapChildren(schema, Object.fromEntries([...given, ...missing]), withDefaults, (child) => [child]);
}

function checkValue(schema: SchemaNode, value: unknown, path: string): Problem[] {
  const type = schema["type"] as string;
  if (!hasType(value, type)) {
    return [{ path, message: `must be of type ${type}` }];
  }
  const own = LIMITS.filter(({ keyword, holds }) => schema[keyword] !== undefined && !holds(value, schema[keyword]));
  const required = (schema["required"] ?? []) as readonly string[];
  const missing = isObject(value) ? required.filter((name) => value[name] === undefined) : [];
  return [
    ...own.map(({ keyword }) => ({ path, message: `breaks ${keyword}` })),
    ...missing.map((name) => ({ path: join(path, name), message: "is required" })),
    ...checkUnique(schema, value, path),
    ...listChildren(schema, value, path).flatMap((child) => checkValue(child.schema, child.value, child.path)),
  ];
}

function hasType(value: unknown, type: string): boolean {
  switch (type) {
    case "object":
      return isObject(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}

type Limit = { readonly keyword: string; readonly holds: (value: unknown, limit: unknown) => boolean };
const lengthOf = (value: unknown): number =>
  isObject(value) ? Object.keys(value).length : (value as { readonly length: number }).length;
const atLeast = (value: unknown, limit: unknown): boolean => Number(value) >= Number(limit);
const longEnough = (value: unknown, limit: unknown): boolean => atLeast(lengthOf(value), limit);
const atMost = (value: unknown, limit: unknown): boolean => Number(value) <= Number(limit);
const shortEnough = (value: unknown, limit: unknown): boolean => atMost(lengthOf(value), limit);

const LIMITS: readonly Limit[] = [
  { keyword: "enum", holds: (value, among) => (among as readonly unknown[]).includes(value) },
  { keyword: "minimum", holds: atLeast },
  { keyword: "maximum", holds: atMost },
  ...["minLength", "minItems", "minProperties"].map((keyword) => ({ keyword, holds: longEnough })),
  ...["maxLength", "maxItems", "maxProperties"].map((keyword) => ({ keyword, holds: shortEnough })),
  { keyword: "pattern", holds: (value, pattern) => new RegExp(String(pattern), "u").test(String(value)) },
  {
    keyword: "format",
    holds: (value) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.]\d+)?(Z|[+-]\d\d:\d\d)$/.test(String(value)),
  },
];

function checkUnique(schema: SchemaNode, value: unknown, path: string): Problem[] {
  const listType = schema["x-kubernetes-list-type"];
  if (!Array.isArray(value) || listType === "atomic" || listType === undefined) {
    return [];
  }
  const seen = value.map((item: unknown) => keyOf(schema, item));
  return new Set(seen).size === seen.length ? [] : [{ path, message: "holds the same item twice" }];
}

function keyOf(schema: SchemaNode, item: unknown): string {
  const keys = schema["x-kubernetes-list-map-keys"] as readonly string[] | undefined;
  return JSON.stringify(keys === undefined || !isObject(item) ? item : keys.map((key) => item[key]));
}

type Child = {
  readonly name: string | number;
  readonly schema: SchemaNode;
  readonly value: unknown;
  readonly path: string;
};

function listChildren(schema: SchemaNode, value: unknown, path: string): Child[] {
  if (Array.isArray(value)) {
    const items = schema["items"] as SchemaNode;
    return value.map((item: unknown, index) => ({
      name: index,
      schema: items,
      value: item,
      path: `${path}[${index}]`,
    }));
  }
  return Object.entries(isObject(value) ? value : {}).flatMap(([name, child]) => {
    const childSchema = propertiesOf(schema)[name] ?? (schema["additionalProperties"] as SchemaNode | undefined);
    return childSchema === undefined ? [] : [{ name, schema: childSchema, value: child, path: join(path, name) }];
  });
}

type Change = { readonly value: unknown; readonly before: unknown };
type Rule = { readonly rule: string; readonly message: string; readonly fieldPath?: string };

function checkRules(schema: SchemaNode, { value, before }: Change, path: string): Problem[] {
  const rules = (schema["x-kubernetes-validations"] ?? []) as readonly Rule[];
  const broken = rules.filter(({ rule }) =>
    rule.includes("oldSelf") ? before !== undefined && isBroken(rule, value, before) : isBroken(rule, value),
  );
  return [
    ...broken.map(({ message, fieldPath = "" }) => ({ path: `${path}${fieldPath}`, message })),
    ...listChildren(schema, value, path).flatMap((child) =>
      checkRules(child.schema, { value: child.value, before: findBefore(schema, before, child) }, child.path),
    ),
  ];
}

/** A rule that cannot be evaluated, say for want of a field, refuses too. */
function isBroken(rule: string, self: unknown, oldSelf?: unknown): boolean {
  try {
    return !isCelTrue(rule, oldSelf === undefined ? { self } : { self, oldSelf });
  } catch {
    return true;
  }
}

/** Items of a list are the same item only if the list says by which key. */
function findBefore(schema: SchemaNode, before: unknown, child: Child): unknown {
  if (Array.isArray(before)) {
    const isMap = schema["x-kubernetes-list-type"] === "map";
    return isMap ? before.find((item: unknown) => keyOf(schema, item) === keyOf(schema, child.value)) : undefined;
  }
  return isObject(before) ? before[child.name] : undefined;
}

const join = (path: string, name: string): string => (path === "" ? name : `${path}.${name}`);
