import { describe, expect, test } from "@jest/globals";
import {
  decideRequest,
  NODE_CERTIFICATE_USAGES,
  planRequest,
  type NodeRequest,
  type RequestAction,
  type RequestContent,
  type RequestProgress,
  type RequestVerdict,
} from "./certificate-request.ts";

const agentUser = "system:serviceaccount:twinrun:twinrun-agent";
const rules = { agentUser, secondsMax: 7_776_000 } as const;
const request: NodeRequest = {
  username: agentUser,
  nodeNames: ["node-1"],
  usages: NODE_CERTIFICATE_USAGES,
  requestLength: 500,
  expirationSeconds: undefined,
};
const content: RequestContent = { isSigned: true, key: "EC prime256v1", subjectAltName: "URI:twinrun://node/node-1" };

type Case = {
  readonly when: string;
  readonly request?: Partial<NodeRequest>;
  readonly content?: Partial<RequestContent> | "unreadable";
  readonly verdict: Partial<RequestVerdict>;
};

describe("a request", () => {
  test.each<Case>([
    { when: "all is right", verdict: { tag: "sign", node: "node-1", seconds: 7_776_000 } },
    { when: "a shorter life is asked for", request: { expirationSeconds: 3_600 }, verdict: { seconds: 3_600 } },
    { when: "a longer life is asked for", request: { expirationSeconds: 99_999_999 }, verdict: { seconds: 7_776_000 } },
    {
      when: "usages are in another order",
      request: { usages: ["server auth", "client auth", "digital signature"] },
      verdict: { tag: "sign" },
    },
    {
      when: "another account asks",
      request: { username: "system:serviceaccount:twinrun:default" },
      verdict: { reason: "ForeignAccount" },
    },
    {
      when: "the account of that name in another namespace asks",
      request: { username: "system:serviceaccount:shop:twinrun-agent" },
      verdict: { reason: "ForeignAccount" },
    },
    { when: "an administrator asks", request: { username: "admin" }, verdict: { reason: "ForeignAccount" } },
    { when: "the token is bound to no pod", request: { nodeNames: [] }, verdict: { reason: "NodeUnknown" } },
    {
      when: "the token names two nodes",
      request: { nodeNames: ["node-1", "node-2"] },
      verdict: { reason: "NodeUnknown" },
    },
    { when: "it is too long", request: { requestLength: 5_000 }, verdict: { reason: "NotANodeRequest" } },
    { when: "a usage is missing", request: { usages: ["client auth"] }, verdict: { reason: "NotANodeRequest" } },
    {
      when: "it wants to sign others",
      request: { usages: [...NODE_CERTIFICATE_USAGES, "cert sign"] },
      verdict: { reason: "NotANodeRequest" },
    },
    {
      when: "a usage is there twice for a missing one",
      request: { usages: ["client auth", "client auth", "server auth"] },
      verdict: { reason: "NotANodeRequest" },
    },
    { when: "it cannot be read", content: "unreadable", verdict: { reason: "NotANodeRequest" } },
    { when: "its key has not signed it", content: { isSigned: false }, verdict: { reason: "NotANodeRequest" } },
    { when: "its key is weak", content: { key: "RSA 1024" }, verdict: { reason: "NotANodeRequest" } },
    {
      when: "it is for another node",
      content: { subjectAltName: "URI:twinrun://node/node-2" },
      verdict: { reason: "ForeignNode" },
    },
    {
      when: "it is for a quorum",
      content: { subjectAltName: "URI:twinrun://quorum/node-1" },
      verdict: { reason: "ForeignNode" },
    },
    { when: "it names nobody", content: { subjectAltName: "" }, verdict: { reason: "ForeignNode" } },
    {
      when: "it names a second one too",
      content: { subjectAltName: "URI:twinrun://node/node-1, URI:twinrun://node/node-2" },
      verdict: { reason: "ForeignNode" },
    },
  ])("$when", ({ request: change, content: changed = {}, verdict }) => {
    const found = changed === "unreadable" ? undefined : { ...content, ...changed };
    const decided = decideRequest(
      { request: { ...request, ...change }, content: found, nodeUri: "twinrun://node/node-1" },
      rules,
    );
    expect(decided).toMatchObject(verdict);
  });
});

describe("a step", () => {
  const sign: RequestVerdict = { tag: "sign", node: "node-1", seconds: 1 };
  const refuse: RequestVerdict = { tag: "refuse", reason: "ForeignNode", message: "" };
  test.each<{ when: string; progress: Partial<RequestProgress>; verdict: RequestVerdict; action: RequestAction }>([
    { when: "new and right", progress: {}, verdict: sign, action: "approve" },
    { when: "approved and right", progress: { isApproved: true }, verdict: sign, action: "sign" },
    { when: "signed", progress: { isApproved: true, isSettled: true }, verdict: sign, action: "none" },
    { when: "new and wrong", progress: {}, verdict: refuse, action: "deny" },
    { when: "approved by hand and wrong", progress: { isApproved: true }, verdict: refuse, action: "fail" },
    { when: "denied", progress: { isSettled: true }, verdict: refuse, action: "none" },
  ])("$when => $action", ({ progress, verdict, action }) => {
    expect(planRequest({ isApproved: false, isSettled: false, ...progress }, verdict)).toBe(action);
  });
});
