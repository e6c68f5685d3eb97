/**
 * The messages between virt-launcher and a hook sidecar, in the encoding of Protocol Buffers 3.
 *
 *   package kubevirt.hooks.info                                 service Info { Info(InfoParams) returns (InfoResult) }
 *     InfoParams            {}
 *     InfoResult            { string name = 1; repeated HookPoint hookPoints = 3; repeated string versions = 4; }
 *     HookPoint             { string name = 1; int32 priority = 2; }
 *   package kubevirt.hooks.v1alpha2 and v1alpha3                service Callbacks; Shutdown in v1alpha3 only
 *     OnDefineDomainParams  { bytes domainXML = 1; bytes vmi = 2; }       OnDefineDomainResult  { bytes domainXML = 1; }
 *     PreCloudInitIsoParams { bytes cloudInitNoCloudSource = 1; bytes vmi = 2; bytes cloudInitData = 3; }
 *     PreCloudInitIsoResult { bytes cloudInitNoCloudSource = 1; bytes cloudInitData = 3; }
 *     ShutdownParams        {}                                            ShutdownResult        {}
 *
 * A message is a row of fields: a varint (number << 3 | wire type), then by wire type a varint (0), 8 bytes (1), a varint of
 * the length and that many bytes (2), or 4 bytes (5). A field may come in any order; of one that comes twice the last counts;
 * one that nobody knows is skipped. Fields are written in the order of their numbers, those with the default value left out.
 *
 * Written by hand because a sidecar has 64 MB of memory: the usual library brings more code than all of the hook has.
 */
import { Failure } from "../lib/failure.ts";

export type HookPoint = { readonly name: string; readonly priority: number };
export type InfoResult = {
  readonly name: string;
  readonly hookPoints: readonly HookPoint[];
  readonly versions: readonly string[];
};
export type OnDefineDomainParams = { readonly domainXml: string; readonly vmi: string };

export class MessageFailure extends Failure<{ readonly code: "MessageMalformed"; readonly message: string }> {}

export function encodeInfoResult({ name, hookPoints, versions }: InfoResult): Buffer {
  return Buffer.concat([
    encodeField(1, name),
    ...hookPoints.map((point) => encodeField(3, encodeHookPoint(point))),
    ...versions.map((version) => encodeField(4, version)),
  ]);
}

export function encodeOnDefineDomainResult(domainXml: string): Buffer {
  return encodeField(1, domainXml);
}

/** Throws a {@link MessageFailure}. */
export function decodeOnDefineDomainParams(bytes: Buffer): OnDefineDomainParams {
  const fields = decodeFields(bytes, "OnDefineDomainParams");
  const readText = (number: number, name: string): string => {
    const value = fields.get(number);
    if (value === undefined || value.length === 0) {
      throw malformed("OnDefineDomainParams", `${name} is missing`);
    }
    return decodeUtf8(value, name);
  };
  return { domainXml: readText(1, "domainXML"), vmi: readText(2, "vmi") };
}

function encodeHookPoint({ name, priority }: HookPoint): Buffer {
  // A negative int32 is written as the 64-bit number it is.
  const number =
    priority === 0 ? [] : [Buffer.from([(2 << 3) | 0]), encodeVarint(BigInt.asUintN(64, BigInt(priority)))];
  return Buffer.concat([encodeField(1, name), ...number]);
}

function encodeField(number: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  return bytes.length === 0
    ? bytes
    : Buffer.concat([Buffer.from([(number << 3) | 2]), encodeVarint(BigInt(bytes.length)), bytes]);
}

function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 0x7fn; rest >>= 7n) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
  }
  return Buffer.from([...bytes, Number(rest)]);
}

/** The fields of wire type 2 by number, as views of `bytes`. */
function decodeFields(bytes: Buffer, message: string): ReadonlyMap<number, Buffer> {
  const fields = new Map<number, Buffer>();
  let at = 0;
  const readVarint = (): number => {
    const [value, length] = decodeVarint(bytes, at) ?? [];
    if (value === undefined || length === undefined) {
      throw malformed(message, `the number at byte ${at} does not end`);
    }
    at += length;
    return value;
  };
  while (at < bytes.length) {
    const key = readVarint();
    const number = Math.floor(key / 8);
    const wireType = key % 8;
    if (wireType === 0) {
      readVarint();
      continue;
    }
    const length = wireType === 2 ? readVarint() : ({ 1: 8, 5: 4 } as const)[wireType];
    if (length === undefined || number === 0) {
      throw malformed(message, `field ${number} has wire type ${wireType}`);
    }
    if (at + length > bytes.length) {
      throw malformed(message, `field ${number} goes ${at + length - bytes.length} bytes beyond the end`);
    }
    if (wireType === 2) {
      fields.set(number, bytes.subarray(at, at + length));
    }
    at += length;
  }
  return fields;
}

const VARINT_BYTES_MAX = 10;

/** Value (exact up to 2^53, which is more than any length or key here) and length; undefined when it does not end. */
function decodeVarint(bytes: Buffer, from: number): readonly [value: number, length: number] | undefined {
  let value = 0;
  for (let index = 0; index < VARINT_BYTES_MAX; index += 1) {
    const byte = bytes[from + index];
    if (byte === undefined) {
      return undefined;
    }
    value += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) {
      return [value, index + 1];
    }
  }
  return undefined;
}

function decodeUtf8(bytes: Buffer, field: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw malformed("OnDefineDomainParams", `${field} is not UTF-8`, { cause });
  }
}

function malformed(message: string, says: string, options?: { readonly cause: unknown }): MessageFailure {
  const text = `${message} cannot be decoded: ${says}`;
  return new MessageFailure({ code: "MessageMalformed", message }, text, options);
}
