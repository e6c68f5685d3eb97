/**
 * Structured logs: one JSON object a line on one file descriptor.
 *
 * Contract: every line carries `role`, `node` and, where it concerns one, `guest`; `time` is ISO 8601 in UTC. Values under
 * a key that names a secret (see SECRET_KEYS) are replaced at the first three levels of an object. Errors are logged
 * under `error` with code and stack.
 *
 * Why asynchronous writes by default: an engine that blocks on a full pipe does so inside a guest's pause. The price is
 * that a crash may lose the last lines; call {@link ProcessLog.flush} before an intended exit.
 */
import { pino } from "pino";

/** What the rest of the program needs of a logger; pino's own shape, so tests may pass a small fake. */
export type Log = {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  child(bindings: Readonly<Record<string, unknown>>): Log;
};

export type ProcessLog = Log & { flush(): void };

export const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export type LogOptions = {
  readonly level: LogLevel;
  /** Which process speaks: agent, engine, quorum. */
  readonly role: string;
  readonly node?: string | undefined;
  readonly guest?: string | undefined;
  /** Where lines go; standard output unless told. */
  readonly fileDescriptor?: number | undefined;
  /** Write each line before going on. For tests and short commands. */
  readonly synchronous?: boolean | undefined;
};

const SECRET_KEYS = [
  "password",
  "token",
  "bearerToken",
  "authorization",
  "secret",
  "privateKey",
  "key",
  "pem",
  "cookie",
];

export function createLog(options: LogOptions): ProcessLog {
  const destination = pino.destination({
    dest: options.fileDescriptor ?? 1,
    sync: options.synchronous ?? false,
  });
  const bindings = Object.fromEntries(
    Object.entries({ role: options.role, node: options.node, guest: options.guest }).filter(
      ([, value]) => value !== undefined,
    ),
  );
  const logger = pino(
    {
      level: options.level,
      base: { ...bindings, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      errorKey: "error",
      serializers: { error: pino.stdSerializers.err },
      redact: {
        paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]),
        censor: "[redacted]",
      },
    },
    destination,
  );
  return Object.assign(logger, {
    flush: (): void => {
      destination.flushSync();
    },
  });
}

/** A logger that says nothing. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
};
