/**
 * Takes out of objects and logs what nobody but their owner should see, before they leave in a support bundle.
 *
 * In doubt it takes out: what is missing can be asked for, what was sent cannot be taken back. It is no proof that nothing is left,
 * which the help of `logs` says too.
 */
import { type Json } from "./kube-objects.ts";

export const REDACTED = "[redacted]";

/** Fields that are secret if they are texts: as objects they only say where the secret is. */
const SECRET_TEXTS = new Set([
  ...["userdata", "userdatabase64", "networkdata", "networkdatabase64", "password", "passwd", "token", "bearertoken"],
  ...["authorization", "secret", "privatekey", "cookie", "apikey", "clientsecret"],
]);
/** Fields that are secret with all that is in them. */
const SECRET_FIELDS = /^(stringData|binaryData|accessCredentials|chpasswd)$/i;
/** Names of environment variables and annotations that are likely to be secret. */
const SECRET_NAMES = /(pass(word|wd)?|secret|token|credential|private[-_.]?key|api[-_.]?key|authorization|cookie)/i;
/** What an object was made from, once more and unredacted. */
const COPIES_OF_OBJECTS = ["kubectl.kubernetes.io/last-applied-configuration", "twinrun.dev/original"];

/** The object without what is secret in it; the kind Secret is nothing but that. */
export function redactObject(object: Json): Json {
  if (object["kind"] === "Secret" || object["kind"] === "SecretList") {
    return { kind: object["kind"], redacted: REDACTED };
  }
  return redact(object) as Json;
}

function redact(value: unknown): unknown {
  if (typeof value === "string") {
    return redactText(value);
  }
  if (Array.isArray(value)) {
    return value.map(redact);
  }
  return typeof value === "object" && value !== null ? redactFields(value as Json) : value;
}

function redactFields(fields: Json): Json {
  const entries = Object.entries(fields).filter(([name]) => name !== "managedFields");
  return Object.fromEntries(entries.map(([name, value]) => [name, redactField(name, value)]));
}

function redactField(name: string, value: unknown): unknown {
  const isSecret = COPIES_OF_OBJECTS.includes(name) || SECRET_FIELDS.test(name);
  if (isSecret || (SECRET_TEXTS.has(name.toLowerCase()) && typeof value === "string")) {
    return REDACTED;
  }
  if (name === "env" && Array.isArray(value)) {
    return value.map(redactVariable);
  }
  if (name === "annotations" && typeof value === "object" && value !== null) {
    const entries = Object.entries(value).map(([key, text]) => [
      key,
      SECRET_NAMES.test(key) ? REDACTED : redactField(key, text),
    ]);
    return Object.fromEntries(entries);
  }
  return redact(value);
}

/** `valueFrom` names where the value is and is no secret. */
function redactVariable(variable: unknown): unknown {
  if (typeof variable !== "object" || variable === null || !("value" in variable)) {
    return redact(variable);
  }
  return { ...(redact(variable) as Json), value: REDACTED };
}

type TextRule = { readonly pattern: RegExp; readonly with: string };

/** `db_password=...`, `"token": "..."`: a name that ends so, and what is given to it. */
const SECRET_NAME = String.raw`[\w.-]*(?:password|passwd|secret|token|api[-_]?key|private[-_]?key)`;
const GIVEN = String.raw`"[^"\n]*"|'[^'\n]*'|[^\s,;}"'[\]]+`;

const TEXT_RULES: readonly TextRule[] = [
  // A private key, whole or cut off.
  {
    pattern: /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g,
    with: REDACTED,
  },
  // The three parts of a JSON web token.
  { pattern: /\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*/g, with: REDACTED },
  {
    pattern: /\b(authorization["']?\s*[:=]\s*["']?(?:bearer|basic)\s+|bearer\s+)[\w.~+/=-]{8,}/gi,
    with: `$1${REDACTED}`,
  },
  // https://user:password@host
  { pattern: /\b([a-z][a-z0-9+.-]*:\/\/[^\s/:@"']*):[^\s/@"']+@/gi, with: `$1:${REDACTED}@` },
  {
    pattern: new RegExp(String.raw`\b(${SECRET_NAME}["']?\s*[:=]\s*)(${GIVEN})`, "gi"),
    with: `$1${REDACTED}`,
  },
];

/** Lines of a log, or any text. */
export function redactText(text: string): string {
  return TEXT_RULES.reduce((rest, { pattern, with: replacement }) => rest.replace(pattern, replacement), text);
}
