/**
 * What the API server demands of a CustomResourceDefinition with a structural schema, after its documentation ("Extend the
 * Kubernetes API with CustomResourceDefinitions"), and some it would only be sorry about. Written apart from
 * src/api/structural.ts, which has to pass it.
 */
import { type SchemaNode } from "../../src/api/structural.ts";
import { assertCel, isRe2 } from "./cel.ts";
import { admitDefault, isObject, propertiesOf } from "./crd-admission.ts";

type Law = (node: SchemaNode, place: Place) => readonly (string | false)[];
type Place = {
  readonly path: string;
  /** Whether the API server knows which value from before a value replaces. */
  readonly hasBefore: boolean;
};

const TYPES = ["object", "array", "string", "integer", "number", "boolean"];

/** All of JSONSchemaProps but what structural schemas forbid, and unions, which ours do without. */
const KEYWORDS = new Set([
  ...["type", "format", "title", "description", "default", "enum", "pattern", "minLength", "maxLength", "minimum"],
  ...["maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "minProperties"],
  ...["maxProperties", "required", "properties", "additionalProperties", "items", "x-kubernetes-validations"],
  ...["x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"],
  ...["x-kubernetes-preserve-unknown-fields"],
]);

/** Which keywords make sense with which types; the API server takes some of the others and never applies them. */
const OF_TYPE: Readonly<Record<string, readonly string[]>> = {
  array: ["items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"],
  object: ["properties", "additionalProperties", "required", "minProperties", "maxProperties"],
  string: ["minLength", "maxLength", "pattern"],
};

const has = (node: SchemaNode, keyword: string): boolean => node[keyword] !== undefined;
const listOf = (node: SchemaNode, keyword: string): readonly unknown[] => (node[keyword] ?? []) as readonly unknown[];

const LAWS: readonly Law[] = [
  (node) => Object.keys(node).map((keyword) => !KEYWORDS.has(keyword) && `must not have ${keyword}`),
  (node) => [!TYPES.includes(String(node["type"])) && "must have a type"],
  (node) =>
    Object.entries(OF_TYPE).flatMap(([type, keywords]) =>
      keywords.map((keyword) => node["type"] !== type && has(node, keyword) && `${keyword} needs the type ${type}`),
    ),
  (node) => [
    has(node, "properties") &&
      has(node, "additionalProperties") &&
      "properties and additionalProperties exclude one another",
    has(node, "additionalProperties") &&
      !isObject(node["additionalProperties"]) &&
      "additionalProperties must be a schema",
    node["type"] === "array" && !isObject(node["items"]) && "items must be a schema",
    node["type"] === "object" &&
      !["properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"].some((part) => has(node, part)) &&
      "everything in it would be pruned",
  ],
  (node) =>
    listOf(node, "required").map(
      (name) => !(String(name) in propertiesOf(node)) && `requires an unknown ${String(name)}`,
    ),
  checkListType,
  (node) => [
    node["type"] === "string" &&
      !has(node, "maxLength") &&
      !has(node, "enum") &&
      !has(node, "format") &&
      "needs maxLength",
    node["type"] === "array" && !has(node, "maxItems") && "needs maxItems",
    has(node, "additionalProperties") && !has(node, "maxProperties") && "needs maxProperties",
  ],
  (node) => [has(node, "pattern") && !isRe2(String(node["pattern"])) && "pattern is not RE2"],
  (node) => [
    new Set(listOf(node, "enum")).size !== listOf(node, "enum").length && "enum holds a value twice",
    listOf(node, "enum").some((value) => typeof value !== node["type"]) && "enum holds a value of another type",
  ],
  checkDefault,
  checkRules,
];

function checkListType(node: SchemaNode): (string | false)[] {
  const listType = node["x-kubernetes-list-type"];
  const items = (node["items"] ?? {}) as SchemaNode;
  const keys = listOf(node, "x-kubernetes-list-map-keys").map(String);
  if (listType !== "map") {
    return [
      node["type"] === "array" && !["atomic", "set"].includes(String(listType)) && "needs a list type",
      keys.length > 0 && "only list type map has keys",
      listType === "set" && ["object", "array"].includes(String(items["type"])) && "a set holds scalars",
    ];
  }
  return [
    keys.length === 0 && "list type map needs keys",
    ...keys.flatMap((key) => {
      const field = propertiesOf(items)[key];
      const isGiven = listOf(items, "required").includes(key) || (field !== undefined && has(field, "default"));
      return [
        !["string", "integer", "boolean"].includes(String(field?.["type"])) && `key ${key} must be a scalar`,
        !isGiven && `key ${key} must be required or have a default`,
      ];
    }),
  ];
}

/** A default must survive pruning, be valid and keep the rules as it stands. */
function checkDefault(node: SchemaNode): (string | false)[] {
  if (!has(node, "default")) {
    return [];
  }
  const { object, problems } = admitDefault(node);
  return [
    JSON.stringify(object) !== JSON.stringify(node["default"]) && "the default holds unknown fields",
    ...problems.map(({ path, message }) => `the default is refused: ${path} ${message}`),
  ];
}

function checkRules(node: SchemaNode, { hasBefore }: Place): (string | false)[] {
  const rules = listOf(node, "x-kubernetes-validations") as readonly Readonly<Record<string, string>>[];
  return rules.flatMap(({ rule = "", message = "", fieldPath, ...rest }) => [
    rule === "" && "a rule is empty",
    !isCel(rule) && `not CEL: ${rule}`,
    (message.trim() === "" || message.includes("\n") || message.length > 2_048) && `no usable message: ${rule}`,
    Object.keys(rest).length > 0 && `a rule has unknown fields: ${rule}`,
    rule.includes("oldSelf") && !hasBefore && `the API server cannot know oldSelf here: ${rule}`,
    fieldPath !== undefined && !hasField(node, fieldPath) && `there is no field ${fieldPath}`,
    ...[...rule.matchAll(/\b(?:self|oldSelf)[.](\w+)(?!\w*\()/g)].map(
      ([, name = ""]) => !(name in propertiesOf(node)) && `there is no ${name}: ${rule}`,
    ),
  ]);
}

function isCel(rule: string): boolean {
  try {
    assertCel(rule);
    return true;
  } catch {
    return false;
  }
}

function hasField(node: SchemaNode, fieldPath: string): boolean {
  const found = fieldPath
    .slice(1)
    .split(".")
    .reduce<SchemaNode | undefined>((at, name) => (at === undefined ? undefined : propertiesOf(at)[name]), node);
  return fieldPath.startsWith(".") && found !== undefined;
}

/** `PATH: what is wrong` for every law that the schema breaks below its root. */
export function listSchemaFaults(node: SchemaNode, place: Place): string[] {
  const own = LAWS.flatMap((law) => law(node, place)).filter((fault) => fault !== false);
  const { path, hasBefore } = place;
  const items = node["items"] as SchemaNode | undefined;
  const entries = node["additionalProperties"] as SchemaNode | undefined;
  const isKeyed = node["x-kubernetes-list-type"] === "map";
  return [
    ...own.map((fault) => `${path}: ${fault}`),
    ...Object.entries(propertiesOf(node)).flatMap(([name, child]) =>
      listSchemaFaults(child, { path: `${path}.${name}`, hasBefore }),
    ),
    ...(items === undefined ? [] : listSchemaFaults(items, { path: `${path}[]`, hasBefore: hasBefore && isKeyed })),
    ...(entries === undefined ? [] : listSchemaFaults(entries, { path: `${path}{}`, hasBefore })),
  ];
}

type Version = Readonly<Record<string, unknown>> & {
  readonly schema: { readonly openAPIV3Schema: SchemaNode };
  readonly additionalPrinterColumns: readonly { readonly type: string; readonly jsonPath: string }[];
};
type Crd = {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly group: string;
    readonly names: Readonly<Record<"plural" | "singular" | "kind" | "listKind", string>> & {
      readonly shortNames: readonly string[];
      readonly categories: readonly string[];
    };
    readonly versions: readonly Version[];
  };
};

/** The same for a whole CustomResourceDefinition. */
export function listCrdFaults(manifest: SchemaNode): string[] {
  const { metadata, spec } = manifest as unknown as Crd;
  const { plural, singular, kind, listKind, shortNames, categories } = spec.names;
  const label = /^[a-z]([-a-z0-9]*[a-z0-9])?$/;
  const faults = [
    metadata.name !== `${plural}.${spec.group}` && "name is not plural.group",
    [plural, singular, ...shortNames, ...categories].some((name) => !label.test(name)) && "a name is no DNS label",
    (singular !== kind.toLowerCase() || listKind !== `${kind}List`) && "singular or listKind does not fit kind",
    spec.versions.filter(({ storage }) => storage === true).length !== 1 && "not exactly one version is stored",
  ].filter((fault) => fault !== false);
  return [...faults, ...spec.versions.flatMap(listVersionFaults)];
}

function listVersionFaults({ schema, subresources, additionalPrinterColumns: columns }: Version): string[] {
  const { type, properties, description, required, ...rest } = schema.openAPIV3Schema;
  const { apiVersion, kind, metadata, ...own } = properties as Readonly<Record<string, SchemaNode>>;
  const bare = JSON.stringify([apiVersion, kind, metadata]);
  const columnTypes = ["integer", "number", "string", "boolean", "date"];
  return [
    ...[type !== "object" && "the root is no object", Object.keys(rest).length > 0 && "the root has more than it may"],
    bare !== '[{"type":"string"},{"type":"string"},{"type":"object"}]' && "apiVersion, kind or metadata is not bare",
    (description === undefined || !Array.isArray(required)) && "the root says too little",
    JSON.stringify(subresources) !== '{"status":{}}' && "status is no subresource",
    ...columns.map((column) => !columnTypes.includes(column.type) && `column type ${column.type}`),
    ...columns.map(({ jsonPath }) => !jsonPath.startsWith(".") && `column path ${jsonPath}`),
    ...Object.entries(own).flatMap(([name, node]) => listSchemaFaults(node, { path: `.${name}`, hasBefore: true })),
  ].filter((fault) => fault !== false);
}
