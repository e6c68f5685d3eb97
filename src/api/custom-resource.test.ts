import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { propertiesOf } from "../../test/build/crd-admission.ts";
import { listCrdFaults, listSchemaFaults } from "../../test/build/structural-laws.ts";
import { encodeCrd } from "./custom-resource.ts";
import { customResources } from "./custom-resources.ts";
import { type SchemaNode } from "./structural.ts";

const root = join(import.meta.dirname, "../..");

describe.each(customResources.map((resource) => ({ resource, kind: resource.kind })))("$kind", ({ resource }) => {
  const crd = encodeCrd(resource);

  test("the CRD is one that the API server takes", () => {
    expect(listCrdFaults(crd)).toEqual([]);
  });

  const schema = readSchema(crd);

  test("every column shows a field that there is", () => {
    const paths = resource.columns.map(({ jsonPath }) => jsonPath).filter((path) => !path.startsWith(".metadata."));
    expect(paths.filter((path) => readField(schema, path) === undefined)).toEqual([]);
  });

  test("every field of the spec that a person may set is explained", () => {
    const depth = resource.kind === "ProtectedVM" ? 3 : 1;
    expect(listUnexplained(readField(schema, ".spec") ?? {}, "spec", depth)).toEqual([]);
  });
});

function readSchema(crd: SchemaNode): SchemaNode {
  const { versions } = crd["spec"] as { versions: { schema: { openAPIV3Schema: SchemaNode } }[] };
  return versions[0]?.schema.openAPIV3Schema ?? {};
}

/** The schema of what a column's path leads to: `.a.b`, or `.a[?(@.b=="c")].d` through the items of a list. */
function readField(schema: SchemaNode, jsonPath: string): SchemaNode | undefined {
  const steps = [...jsonPath.matchAll(/[.](\w+)(?:\[\?\(@[.](\w+)==[^)]*\)\])?/g)];
  return steps.reduce<SchemaNode | undefined>((at, [, name = "", key]) => {
    const field = propertiesOf(at ?? {})[name];
    const items = field?.["items"] as SchemaNode | undefined;
    return key === undefined ? field : propertiesOf(items ?? {})[key] === undefined ? undefined : items;
  }, schema);
}

/** Paths without a description, down to `depth` levels. */
function listUnexplained(node: SchemaNode, path: string, depth: number): string[] {
  const children = Object.entries(propertiesOf(node));
  return [
    ...(node["description"] === undefined ? [path] : []),
    ...(depth === 0 ? [] : children.flatMap(([name, child]) => listUnexplained(child, `${path}.${name}`, depth - 1))),
  ];
}

test("names are not used twice", () => {
  const names = customResources.flatMap(({ kind, plural, shortNames }) => [kind.toLowerCase(), plural, ...shortNames]);
  expect(new Set(names).size).toBe(names.length);
});

test("crds/ is what make generate writes, and nothing else is in it", () => {
  const directory = mkdtempSync(join(tmpdir(), "twinrun-crds-"));
  try {
    execFileSync(process.execPath, [join(root, "src/main/generate.ts"), "--dir", directory]);
    const read = (path: string): Record<string, string> =>
      Object.fromEntries(readdirSync(path).map((name) => [name, readFileSync(join(path, name), "utf8")]));
    const generated = read(join(directory, "crds"));
    expect(read(join(root, "crds"))).toEqual(generated);
    expect(Object.values(generated).map((text): unknown => parse(text))).toEqual(
      expect.arrayContaining(customResources.map(encodeCrd)),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
});

describe("the checker of these tests finds", () => {
  const place = { path: "", hasBefore: true };
  const text = { type: "string", maxLength: 9 };
  const struct = (properties: object, rest: object = {}): SchemaNode => ({ type: "object", properties, ...rest });
  const rule = (text: string, rest: object = {}): object => ({
    "x-kubernetes-validations": [{ rule: text, message: "m", ...rest }],
  });
  const list = (items: object, rest: object): object => ({ type: "array", maxItems: 2, items, ...rest });
  const atomic = { "x-kubernetes-list-type": "atomic" };

  test.each<{ when: string; schema: SchemaNode; fault: string }>([
    { when: "a reference", schema: struct({ a: { $ref: "#/definitions/a" } }), fault: ".a: must not have $ref" },
    { when: "a union", schema: struct({ a: { anyOf: [text] } }), fault: ".a: must not have anyOf" },
    { when: "nullable", schema: struct({ a: { ...text, nullable: true } }), fault: ".a: must not have nullable" },
    { when: "a missing type", schema: struct({ a: {} }), fault: ".a: must have a type" },
    {
      when: "additionalProperties false",
      schema: { type: "object", additionalProperties: false },
      fault: ": additionalProperties must be a schema",
    },
    {
      when: "struct and map at once",
      schema: struct({ a: text }, { additionalProperties: text }),
      fault: ": properties and additionalProperties exclude one another",
    },
    { when: "an object that keeps nothing", schema: struct({ a: { type: "object" } }), fault: ".a: everything in it" },
    { when: "a required unknown", schema: struct({}, { required: ["b"] }), fault: ": requires an unknown b" },
    { when: "a text without end", schema: struct({ a: { type: "string" } }), fault: ".a: needs maxLength" },
    {
      when: "a map without end",
      schema: { type: "object", additionalProperties: text },
      fault: ": needs maxProperties",
    },
    { when: "a list without type", schema: struct({ a: list(text, {}) }), fault: ".a: needs a list type" },
    {
      when: "a set of objects",
      schema: struct({ a: list(struct({ b: text }), { "x-kubernetes-list-type": "set" }) }),
      fault: ".a: a set holds scalars",
    },
    {
      when: "an optional key",
      schema: struct({
        a: list(struct({ b: text }), { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["b"] }),
      }),
      fault: ".a: key b must be required or have a default",
    },
    { when: "look-ahead", schema: struct({ a: { ...text, pattern: "^(?=a)" } }), fault: ".a: pattern is not RE2" },
    { when: "a wrong default", schema: struct({ a: { ...text, default: 3 } }), fault: ".a: the default is refused" },
    {
      when: "a default with unknown fields",
      schema: struct({ a: struct({ b: text }, { default: { c: 1 } }) }),
      fault: ".a: the default holds unknown fields",
    },
    {
      when: "a default that breaks a rule as long as the defaults inside are not there",
      schema: struct({ a: struct({ b: { ...text, default: "x" } }, { default: {}, ...rule("self.b == 'x'") }) }),
      fault: ".a: the default is refused",
    },
    { when: "what is no CEL", schema: struct({ a: text }, rule("self.a ===")), fault: ": not CEL: self.a ===" },
    {
      when: "a rule about an unknown field",
      schema: struct({ a: text }, rule("self.b == 'x'")),
      fault: ": there is no b",
    },
    {
      when: "a rule with a bad fieldPath",
      schema: struct({ a: text }, rule("self.a == 'x'", { fieldPath: ".b" })),
      fault: ": there is no field .b",
    },
    {
      when: "a message of two lines",
      schema: struct({}, rule("true", { message: "a\nb" })),
      fault: ": no usable message",
    },
    {
      when: "oldSelf in a list without keys",
      schema: struct({ a: list({ ...text, ...rule("self == oldSelf") }, atomic) }),
      fault: ".a[]: the API server cannot know oldSelf here",
    },
  ])("$when", ({ schema, fault }) => {
    expect(listSchemaFaults(schema, place).filter((found) => found.startsWith(fault))).toHaveLength(1);
  });
});
