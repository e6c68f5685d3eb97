/** CEL for tests: what the API server would say about a rule, as far as it can be had without one. */
import { type CelInput, isCelError, parse, run } from "@bufbuild/cel";

/** Whether `rule` holds for values of JSON; throws what CEL objects to. */
export function isCelTrue(rule: string, variables: Readonly<Record<string, unknown>>): boolean {
  const bindings = Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, toCel(value)]));
  const result = run(rule, bindings);
  if (isCelError(result)) {
    throw new Error(`${rule}: ${result.message}`, { cause: result });
  }
  return result === true;
}

/** Throws unless `rule` is CEL. */
export function assertCel(rule: string): void {
  parse(rule);
}

/** RE2 and JavaScript do not take the same patterns; CEL's `matches` is RE2, as are patterns of the API server. */
export function isRe2(pattern: string): boolean {
  return !isCelError(run("''.matches(pattern)", { pattern }));
}

/** Plain numbers would be doubles. */
function toCel(value: unknown): CelInput {
  if (Array.isArray(value)) {
    return value.map(toCel);
  }
  if (typeof value === "object" && value !== null) {
    return new Map(Object.entries(value).map(([name, child]) => [name, toCel(child)]));
  }
  return (typeof value === "number" && Number.isInteger(value) ? BigInt(value) : value) as CelInput;
}
