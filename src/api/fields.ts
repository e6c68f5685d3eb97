/**
 * The kinds of fields our resources are made of: each brings its limits, which the API server wants for every text, list and
 * map, and an error text that completes "must be ..." (see checked-input.ts).
 */
import { z } from "zod";

/** Also names a directory and stands in a certificate, so it keeps to what a DNS name may hold. */
export const NAME_PATTERN = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
export const NAME_LENGTH_MAX = 63;

/** Fields that are not listed are ignored: a newer version may have written them, and the API server prunes them anyway. */
export function struct<Shape extends z.core.$ZodLooseShape>(shape: Shape): z.ZodObject<Shape> {
  const says = `an object with ${Object.keys(shape).join(", ")}`;
  return z.object(shape, { error: (issue) => (issue.code === "unrecognized_keys" ? undefined : says) });
}

export function wholeNumber(low: number, high: number): z.ZodNumber {
  const says = `a whole number from ${low} to ${high}`;
  return z.int(says).min(low, says).max(high, says);
}

/** Something that is counted and has no greatest value of its own: terms, epochs, bytes. */
export function counter(): z.ZodNumber {
  return z.int("a whole number").min(0, "a whole number from 0");
}

/** A measured number, fractions included. Only for status: what people declare are whole numbers. */
export function measure(): z.ZodNumber {
  return z.number("a number").min(0, "a number from 0");
}

export function text(lengthMax: number, what = "a text"): z.ZodString {
  const says = `${what} of 1 to ${lengthMax} characters`;
  return z.string(says).min(1, says).max(lengthMax, says);
}

/** What names a guest, a node or a link to agents, engines and the quorum. */
export function shortName(): z.ZodString {
  return text(NAME_LENGTH_MAX, 'a name of lower-case letters, digits, "-" and "."').regex(
    NAME_PATTERN,
    'a name of lower-case letters, digits, "-" and "."',
  );
}

/** What names an object of Kubernetes (RFC 1123 subdomain). */
export function objectName(): z.ZodString {
  return text(253, "the name of an object").regex(
    NAME_PATTERN,
    'the name of an object: lower-case letters, digits, "-" and "."',
  );
}

export function oneOf<const Values extends readonly [string, ...string[]]>(
  values: Values,
): z.ZodEnum<z.util.ToEnum<Values[number]>> {
  return z.enum(values, values.join(" or "));
}

export function time(): z.ZodISODateTime {
  return z.iso.datetime({ offset: true, error: "a time such as 2026-01-31T08:30:00Z" });
}

type Lengths = { readonly min?: number; readonly max: number };

/** A list that is replaced as a whole; its order means something. */
export function sequence<Item extends z.ZodType>(item: Item, lengths: Lengths): z.ZodArray<Item> {
  return bounded(item, lengths).meta({ "x-kubernetes-list-type": "atomic" });
}

/** A list of scalars, each at most once. */
export function setOf<Item extends z.ZodType>(item: Item, lengths: Lengths): z.ZodArray<Item> {
  return bounded(item, lengths)
    .refine((items) => new Set(items).size === items.length, "must not hold a value twice")
    .meta({ "x-kubernetes-list-type": "set" });
}

/** A list with one item for each value of `key`, so that several writers can each apply their own items. */
export function listByKey<Item extends z.ZodObject>(
  item: Item,
  key: keyof Item["shape"] & string,
  lengths: Lengths,
): z.ZodArray<Item> {
  const keyOf = (value: unknown): unknown => (value as Record<string, unknown>)[key];
  return bounded(item, lengths)
    .refine((items) => new Set(items.map(keyOf)).size === items.length, `must not hold the same ${key} twice`)
    .meta({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key] });
}

function bounded<Item extends z.ZodType>(item: Item, { min = 0, max }: Lengths): z.ZodArray<Item> {
  const says = min === max ? `a list of exactly ${max}` : `a list of ${min} to ${max}`;
  const list = z.array(item, says).max(max, says);
  return min === 0 ? list : list.min(min, says);
}

/** Labels, annotations, selectors: texts by name. */
export function textMap(entriesMax: number, lengthMax: number): z.ZodRecord<z.ZodString, z.ZodString> {
  const says = `at most ${entriesMax} texts by name`;
  return z
    .record(z.string(), z.string("a text").max(lengthMax, `a text of at most ${lengthMax} characters`), says)
    .refine((map) => Object.keys(map).length <= entriesMax, `must not hold more than ${entriesMax} entries`)
    .meta({ maxProperties: entriesMax });
}
