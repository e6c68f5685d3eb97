/** The operator's command line, turned into what it means or into a sentence that says what is wrong with it. */
import { parseArgs } from "node:util";
import { type HookMode, type OperatorSettings } from "../decide/protected-vm-plan.ts";
import { Failure } from "../lib/failure.ts";
import { parseHostPort } from "../lib/host-port.ts";
import { LOG_LEVELS, type LogLevel } from "../telemetry/log.ts";
import { type Address } from "./operator-endpoint.ts";

export type OperatorFlags = {
  readonly settings: OperatorSettings;
  /** Who makes the authorities of the installation. */
  readonly authority: Authority;
  /** Where records of guests are removed, the Service's replicas and others; none where they are Leases. */
  readonly quorumService: string | undefined;
  readonly quorum: readonly Address[];
  readonly identity: string;
  readonly kubeconfig: string | undefined;
  readonly health: Address | undefined;
  readonly metrics: Address | undefined;
  readonly tls: { readonly certPath: string; readonly keyPath: string; readonly caPath: string } | undefined;
  readonly logLevel: LogLevel;
};

export class FlagFailure extends Failure<{ readonly code: "BadFlag"; readonly flag: string }> {}

const AUTHORITIES = ["operator", "cert-manager"] as const;
export type Authority = (typeof AUTHORITIES)[number];
const YES_OR_NO = ["true", "false"] as const;
const HOOK_MODES: readonly HookMode[] = ["Sidecar", "NetworkBinding"];

export const OPERATOR_USAGE = `usage: node src/main/operator.ts --namespace NAMESPACE --identity NAME --hook-image IMAGE
    [--guests-namespace NAMESPACE] [--hook-mode ${HOOK_MODES.join("|")}] [--ports LOW-HIGH] [--kubeconfig FILE]
    [--authority ${AUTHORITIES.join("|")}] [--renew-launchers ${YES_OR_NO.join("|")}] [--quorum-service NAME] [--quorum HOST:PORT]...
    [--health HOST:PORT] [--metrics HOST:PORT [--cert FILE --key FILE --ca FILE]] [--log-level ${LOG_LEVELS.join("|")}]`;

const TEXT = { type: "string" } as const;
const TEXTS = { type: "string", multiple: true } as const;
const OPTIONS = {
  namespace: TEXT,
  identity: TEXT,
  "hook-image": TEXT,
  "guests-namespace": TEXT,
  "hook-mode": TEXT,
  ports: TEXT,
  authority: TEXT,
  "quorum-service": TEXT,
  quorum: TEXTS,
  "renew-launchers": TEXT,
  kubeconfig: TEXT,
  health: TEXT,
  metrics: TEXT,
  cert: TEXT,
  key: TEXT,
  ca: TEXT,
  "log-level": TEXT,
};
type TextFlag = Exclude<keyof typeof OPTIONS, "quorum">;
type Values = Readonly<Partial<Record<TextFlag, string>>> & { readonly quorum?: readonly string[] };

/** Throws a {@link FlagFailure}. */
export function parseOperatorFlags(args: readonly string[]): OperatorFlags {
  const values = readValues(args);
  const namespace = required(values, "namespace");
  const guestsNamespace = values["guests-namespace"] ?? `${namespace}-guests`;
  if (guestsNamespace === namespace) {
    throw bad(
      "guests-namespace",
      "--guests-namespace must be another one than --namespace, where the certificates are",
    );
  }
  return {
    settings: {
      namespace,
      guestsNamespace,
      hookImage: required(values, "hook-image"),
      hookMode: parseChoice(values, "hook-mode", HOOK_MODES),
      ports: parsePorts(values.ports ?? "7100-8099"),
      renewsLaunchers: parseChoice(values, "renew-launchers", YES_OR_NO) === "true",
    },
    authority: parseChoice(values, "authority", AUTHORITIES),
    quorumService: values["quorum-service"],
    quorum: (values.quorum ?? []).map((text) => parseHost("quorum", text)),
    identity: required(values, "identity"),
    kubeconfig: values.kubeconfig,
    health: parseAddress(values, "health"),
    metrics: parseAddress(values, "metrics"),
    tls: parseTls(values),
    logLevel: values["log-level"] === undefined ? "info" : parseChoice(values, "log-level", LOG_LEVELS),
  };
}

function readValues(args: readonly string[]): Values {
  try {
    return parseArgs({ args: [...args], options: OPTIONS, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw bad("", error instanceof Error ? error.message : String(error));
  }
}

function required(values: Values, flag: TextFlag): string {
  const value = values[flag];
  if (value === undefined || value === "") {
    throw bad(flag, `--${flag} is missing`);
  }
  return value;
}

/** The first one when nothing is said. */
function parseChoice<Choice extends string>(values: Values, flag: TextFlag, choices: readonly Choice[]): Choice {
  const value = values[flag] ?? choices[0];
  const choice = choices.find((each) => each === value);
  if (choice === undefined) {
    throw bad(flag, `--${flag} ${value ?? ""} is none of ${choices.join(", ")}`);
  }
  return choice;
}

function parsePorts(text: string): OperatorSettings["ports"] {
  const [low = NaN, high = NaN] = text.split("-").map(Number);
  if (!(low >= 1 && high <= 65_535 && low <= high)) {
    throw bad("ports", `--ports ${text} is no LOW-HIGH, such as 7100-8099`);
  }
  return { low, high };
}

function parseAddress(values: Values, flag: TextFlag): Address | undefined {
  const text = values[flag];
  return text === undefined ? undefined : parseHost(flag, text);
}

function parseHost(flag: string, text: string): Address {
  const address = parseHostPort(text);
  if (address === undefined) {
    throw bad(flag, `--${flag} ${text} is no HOST:PORT; write an IPv6 address as [ADDRESS]:PORT`);
  }
  return address;
}

function parseTls(values: Values): OperatorFlags["tls"] {
  const { cert, key, ca } = values;
  if (cert === undefined && key === undefined && ca === undefined) {
    return undefined;
  }
  return { certPath: required(values, "cert"), keyPath: required(values, "key"), caPath: required(values, "ca") };
}

const bad = (flag: string, says: string): FlagFailure => new FlagFailure({ code: "BadFlag", flag }, says);
