import { describe, expect, test } from "@jest/globals";
import { redactObject, redactText, REDACTED } from "./redaction.ts";

describe("an object loses what is secret in it", () => {
  test.each([
    {
      when: "a Secret",
      object: { kind: "Secret", data: { a: "czNjcjN0" } },
      left: { kind: "Secret", redacted: REDACTED },
    },
    {
      when: "cloud-init",
      object: {
        volumes: [{ name: "init", cloudInitNoCloud: { userData: "password: s3cr3t", secretRef: { name: "a" } } }],
      },
      left: { volumes: [{ name: "init", cloudInitNoCloud: { userData: REDACTED, secretRef: { name: "a" } } }] },
    },
    {
      when: "the environment of a container; where a value comes from is no secret",
      object: {
        env: [
          { name: "URL", value: "s3cr3t" },
          { name: "B", valueFrom: { secretKeyRef: { name: "a", key: "b" } } },
        ],
      },
      left: {
        env: [
          { name: "URL", value: REDACTED },
          { name: "B", valueFrom: { secretKeyRef: { name: "a", key: "b" } } },
        ],
      },
    },
    {
      when: "copies of the object in annotations",
      object: { metadata: { annotations: { "kubectl.kubernetes.io/last-applied-configuration": "s3cr3t", a: "b" } } },
      left: { metadata: { annotations: { "kubectl.kubernetes.io/last-applied-configuration": REDACTED, a: "b" } } },
    },
    {
      when: "annotations that are called so",
      object: { metadata: { annotations: { "example.com/api-token": "s3cr3t" }, managedFields: [{ manager: "a" }] } },
      left: { metadata: { annotations: { "example.com/api-token": REDACTED } } },
    },
    {
      when: "a volume that only names its secret keeps the name",
      object: { volumes: [{ name: "tls", secret: { secretName: "twinrun-ca" } }] },
      left: { volumes: [{ name: "tls", secret: { secretName: "twinrun-ca" } }] },
    },
    {
      when: "flags of a container",
      object: { args: ["--password=s3cr3t", "--store=etcd:https://user:s3cr3t@etcd:2379", "--log-level=info"] },
      left: { args: [`--password=${REDACTED}`, `--store=etcd:https://user:${REDACTED}@etcd:2379`, "--log-level=info"] },
    },
  ])("$when", ({ object, left }) => {
    expect(redactObject(object)).toEqual(left);
  });
});

describe("a log loses what has the form of a secret", () => {
  const key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----";
  test.each([
    { text: `before\n${key}\nafter`, left: `before\n${REDACTED}\nafter` },
    { text: "cut off -----BEGIN PRIVATE KEY-----\nMIIE", left: `cut off ${REDACTED}` },
    { text: "got eyJhbGciOiJI.eyJzdWIiOiJh.c2lnbmF0dXJl here", left: `got ${REDACTED} here` },
    { text: "Authorization: Bearer abcdefgh12345", left: `Authorization: Bearer ${REDACTED}` },
    { text: "postgres://web:hunter2@db/shop", left: `postgres://web:${REDACTED}@db/shop` },
    { text: '{"password":"hunter2","user":"web"}', left: `{"password":${REDACTED},"user":"web"}` },
    { text: "db_password = hunter2, next", left: `db_password = ${REDACTED}, next` },
    { text: "epoch 41 of guest web-0a1b2c3d is in sync", left: "epoch 41 of guest web-0a1b2c3d is in sync" },
    { text: "-----BEGIN CERTIFICATE-----\nMIIB", left: "-----BEGIN CERTIFICATE-----\nMIIB" },
  ])("$text", ({ text, left }) => {
    expect(redactText(text)).toBe(left);
  });
});
