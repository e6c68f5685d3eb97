import { afterEach, beforeEach, describe, expect, jest, test } from "@jest/globals";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findAccess, openKubeconfigs, openServiceAccount } from "./access.ts";
import { KubeFailure } from "./kube-failure.ts";

let directory = "";
const write = (name: string, content: string | object): string => {
  const path = join(directory, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
};

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "twinrun-access-"));
});

afterEach(() => {
  jest.restoreAllMocks();
  rmSync(directory, { recursive: true });
});

const context = { name: "c", context: { cluster: "k", user: "u", namespace: "shop" } };
const config = (user: object, cluster: object = {}): object => ({
  "current-context": "c",
  clusters: [{ name: "k", cluster: { server: "https://k:6443", ...cluster } }],
  users: [{ name: "u", user }],
  contexts: [context],
});

describe("a pod's service account", () => {
  const environment = { KUBERNETES_SERVICE_HOST: "fd00::1", KUBERNETES_SERVICE_PORT: "6443" };

  test("says where the server is and who we are", async () => {
    write("token", "t1\n");
    write("ca.crt", "authority");
    write("namespace", "twinrun\n");
    const access = await openServiceAccount(directory, environment).read();
    expect(access.server.href).toBe("https://[fd00::1]:6443/");
    expect(access).toMatchObject({
      namespace: "twinrun",
      tls: { ca: "authority" },
      headers: { authorization: "Bearer t1" },
    });
  });

  test("is read again after a minute and when it was refused", async () => {
    const nowMs = jest.spyOn(performance, "now").mockReturnValue(1_000);
    write("ca.crt", "authority");
    write("token", "t1");
    const source = openServiceAccount(directory, environment);
    const readToken = async (): Promise<unknown> => (await source.read()).headers["authorization"];
    expect(await readToken()).toBe("Bearer t1");
    write("token", "t2");
    expect(await readToken()).toBe("Bearer t1");
    nowMs.mockReturnValue(62_000);
    expect(await readToken()).toBe("Bearer t2");
    write("token", "t3");
    source.forget();
    expect(await readToken()).toBe("Bearer t3");
  });

  test("that is not there is said with the remedy, and may come later", async () => {
    const source = openServiceAccount(directory, environment);
    await expect(source.read()).rejects.toThrow(/automountServiceAccountToken/);
    write("ca.crt", "authority");
    write("token", "t1");
    await expect(source.read()).resolves.toBeDefined();
    await expect(openServiceAccount(directory, {}).read()).rejects.toThrow(/set KUBECONFIG/);
  });
});

describe("a kubeconfig", () => {
  test("may be YAML, and its paths start from where it is", async () => {
    mkdirSync(join(directory, "pki"));
    write("pki/ca", "authority");
    write("pki/cert", "certificate");
    write("token", "from file\n");
    const path = write(
      "config",
      `
current-context: c
clusters: [{ name: k, cluster: { server: "https://k/prefix", certificate-authority: pki/ca, tls-server-name: name } }]
users:
- name: u
  user: { client-certificate: pki/cert, client-key-data: ${Buffer.from("key").toString("base64")}, tokenFile: token }
contexts: [{ name: c, context: { cluster: k, user: u } }]
`,
    );
    const access = await findAccess({ KUBECONFIG: path }).read();
    expect(access.server.href).toBe("https://k/prefix");
    expect(access.namespace).toBeUndefined();
    expect(access.headers).toEqual({ authorization: "Bearer from file" });
    const { ca, cert, key, servername } = access.tls;
    expect([ca, cert, key, servername].map(String)).toEqual(["authority", "certificate", "key", "name"]);
  });

  test.each([
    [{ token: "t" }, { authorization: "Bearer t" }],
    [{ username: "a", password: "b" }, { authorization: "Basic YTpi" }],
    [
      { as: "x", "as-groups": ["g", "h"] },
      { "impersonate-user": "x", "impersonate-group": ["g", "h"] },
    ],
    [{}, {}],
  ])("%j => %j", async (user, headers) => {
    const access = await openKubeconfigs([write("config", config(user))]).read();
    expect(access.headers).toEqual(headers);
    expect(access.namespace).toBe("shop");
  });

  test("of several files is the first that names something", async () => {
    const first = write("first", { users: [{ name: "u", user: { token: "first" } }] });
    const second = write("second", config({ token: "second" }));
    const access = await findAccess({ KUBECONFIG: `${first}:${second}` }).read();
    expect(access.headers).toEqual({ authorization: "Bearer first" });
  });

  test("whose user signs in by a plug-in asks that, once while its token lives", async () => {
    const plugin = write(
      "plugin.cjs",
      `const fs = require("node:fs");
       fs.appendFileSync(process.argv[2], "x");
       const status = { token: "t" + fs.readFileSync(process.argv[2]).length, expirationTimestamp: "2999-01-01T00:00:00Z" };
       console.log(JSON.stringify({ kind: "ExecCredential", apiVersion: "client.authentication.k8s.io/v1", status }));`,
    );
    const exec = { apiVersion: "client.authentication.k8s.io/v1", command: process.execPath };
    const path = write("config", config({ exec: { ...exec, args: [plugin, join(directory, "count")] } }));
    const source = openKubeconfigs([path]);
    expect((await source.read()).headers).toEqual({ authorization: "Bearer t1" });
    source.forget();
    expect((await source.read()).headers).toEqual({ authorization: "Bearer t1" });
    const broken = write("broken", config({ exec: { ...exec, args: [join(directory, "missing")] } }));
    await expect(openKubeconfigs([broken]).read()).rejects.toThrow(/kubectl get nodes/);
  });

  test.each([
    ["no file", undefined, /cannot be read/],
    ["no YAML", "a: [", /is no kubeconfig/],
    ["no context", {}, /no context ""/],
    ["no server", { "current-context": "c", contexts: [context] }, /no server/],
    ["no URL", config({}, { server: "k" }), /https:\/\/HOST:PORT/],
    ["no certificate", config({ "client-certificate": "c", "client-key": "k" }), /cannot be read/],
  ])("%s is AccessUnusable", async (_when, content, says) => {
    const path = content === undefined ? join(directory, "missing") : write("config", content);
    const failure: unknown = await openKubeconfigs([path])
      .read()
      .catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(KubeFailure);
    expect(failure).toMatchObject({ detail: { code: "AccessUnusable" }, message: expect.stringMatching(says) });
  });

  test("of another context is chosen by name", async () => {
    const path = write("config", config({ token: "t" }));
    await expect(openKubeconfigs([path], "d").read()).rejects.toThrow(/choose one of: c/);
    await expect(openKubeconfigs([path], "c").read()).resolves.toBeDefined();
  });
});
