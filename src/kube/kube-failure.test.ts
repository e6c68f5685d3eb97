import { describe, expect, test } from "@jest/globals";
import { hasKubeCode, type KubeFailureCode, parseConnectionFailure, parseRefusal } from "./kube-failure.ts";

const status = (fields: object): string => JSON.stringify({ kind: "Status", apiVersion: "v1", ...fields });

type Case = { readonly when: string; readonly status: number; readonly body: string; readonly code: KubeFailureCode };

describe("an answer of the API server", () => {
  test.each<Case>([
    { when: "401", status: 401, body: status({ message: "Unauthorized" }), code: "Unauthorized" },
    { when: "403", status: 403, body: status({ reason: "Forbidden" }), code: "Forbidden" },
    { when: "404", status: 404, body: status({ reason: "NotFound" }), code: "NotFound" },
    { when: "404 of a proxy", status: 404, body: "<html>", code: "NotFound" },
    { when: "409", status: 409, body: status({ reason: "Conflict" }), code: "Conflict" },
    { when: "409 of a create", status: 409, body: status({ reason: "AlreadyExists" }), code: "AlreadyExists" },
    { when: "410", status: 410, body: status({ reason: "Expired" }), code: "Expired" },
    { when: "422", status: 422, body: status({ reason: "Invalid" }), code: "Refused" },
    { when: "400", status: 400, body: "", code: "Refused" },
    { when: "429", status: 429, body: "", code: "TooManyRequests" },
    { when: "500", status: 500, body: status({ message: "etcdserver: request timed out" }), code: "ServerTrouble" },
    {
      when: "a version that etcd has lost",
      status: 504,
      body: status({ details: { causes: [{ reason: "ResourceVersionTooLarge" }] } }),
      code: "Expired",
    },
  ])("$when => $code", ({ status: given, body, code }) => {
    const failure = parseRefusal({ request: "GET /api", status: given, body });
    expect(failure.detail.code).toBe(code);
    expect(failure.message).toMatch(/^GET \/api: .+; .+/);
  });

  test("tells the fields that are wrong, and how long to wait", () => {
    const causes = [{ reason: "FieldValueInvalid", message: "Invalid value: 0", field: "spec.x" }];
    expect(
      parseRefusal({ request: "PUT /a", status: 422, body: status({ details: { causes } }) }).detail,
    ).toMatchObject({
      fields: [{ field: "spec.x", message: "Invalid value: 0" }],
    });
    const busy = { request: "GET /a", status: 429, body: status({ details: { retryAfterSeconds: 9 } }) };
    expect(parseRefusal({ ...busy, retryAfterSeconds: 2 }).detail).toMatchObject({ retryAfterMs: 2_000 });
    expect(parseRefusal(busy).detail).toMatchObject({ retryAfterMs: 9_000 });
  });
});

test.each([
  ["ECONNREFUSED", "Unreachable"],
  ["ENOTFOUND", "Unreachable"],
  ["DEPTH_ZERO_SELF_SIGNED_CERT", "Untrusted"],
  ["ERR_TLS_CERT_ALTNAME_INVALID", "Untrusted"],
  ["ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED", "Untrusted"],
])("%s => %s", (code, expected) => {
  const failure = parseConnectionFailure(Object.assign(new Error("broken"), { code }), "a:6443");
  expect(failure.detail.code).toBe(expected);
  expect(parseConnectionFailure(failure, "a:6443")).toBe(failure);
  expect(hasKubeCode(failure, "Unreachable", "Untrusted")).toBe(true);
  expect(hasKubeCode(failure, "NotFound")).toBe(false);
});
