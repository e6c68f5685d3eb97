import { describe, expect, test } from "@jest/globals";
import { FlagFailure, parseOperatorFlags } from "./operator-flags.ts";

const calm = ["--namespace=twinrun", "--identity=operator-0", "--hook-image=twinrun:1"];

describe("the operator's flags", () => {
  test("what is left out has a default", () => {
    expect(parseOperatorFlags(calm)).toEqual({
      settings: {
        namespace: "twinrun",
        guestsNamespace: "twinrun-guests",
        hookImage: "twinrun:1",
        hookMode: "Sidecar",
        ports: { low: 7_100, high: 8_099 },
        renewsLaunchers: true,
      },
      authority: "operator",
      quorumService: undefined,
      quorum: [],
      identity: "operator-0",
      kubeconfig: undefined,
      health: undefined,
      metrics: undefined,
      tls: undefined,
      logLevel: "info",
    });
  });

  test("addresses, ports and certificates", () => {
    const flags = [
      ...calm,
      "--health=[::1]:81",
      "--metrics=0.0.0.0:9443",
      "--cert=c",
      "--key=k",
      "--ca=a",
      "--ports=1-2",
      "--quorum-service=twinrun-quorum",
      "--quorum=10.0.0.9:7000",
    ];
    expect(parseOperatorFlags(flags)).toMatchObject({
      health: { host: "::1", port: 81 },
      metrics: { host: "0.0.0.0", port: 9_443 },
      tls: { certPath: "c", keyPath: "k", caPath: "a" },
      settings: { ports: { low: 1, high: 2 } },
      quorumService: "twinrun-quorum",
      quorum: [{ host: "10.0.0.9", port: 7_000 }],
    });
  });

  test.each([
    { args: ["--identity=a", "--hook-image=i"], says: "--namespace is missing" },
    { args: [...calm, "--hook-mode=Plugin"], says: "Sidecar, NetworkBinding" },
    { args: [...calm, "--ports=9-1"], says: "LOW-HIGH" },
    { args: [...calm, "--metrics=9443"], says: "HOST:PORT" },
    { args: [...calm, "--quorum=q"], says: "HOST:PORT" },
    { args: [...calm, "--cert=c"], says: "--key is missing" },
    { args: [...calm, "--guests-namespace=twinrun"], says: "another one" },
    { args: [...calm, "--what"], says: "--what" },
  ])("$args is refused: $says", ({ args, says }) => {
    expect(() => parseOperatorFlags(args)).toThrow(FlagFailure);
    expect(() => parseOperatorFlags(args)).toThrow(says);
  });
});
