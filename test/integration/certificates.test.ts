/** The standby's host has a certificate that its peers refuse: the guest serves alone until the right one is in its place. */
import { expect, test } from "@jest/globals";
import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createAuthority, issueCertificate } from "../../src/net/pki.ts";
import { type TlsFiles } from "../../src/protocol/assignment.ts";
import { createCluster, type Cluster } from "../lab/cluster.ts";
import { waitForGuest } from "../lab/guest-health.ts";
import { withLab, type Lab } from "../lab/hosts.ts";
import { provideImage } from "../lab/images.ts";
import { countReplies, isFlawless, startWitnesses, stopWitnesses, sumVerdicts } from "../lab/load.ts";
import { placeGuest } from "../lab/placement.ts";

const patienceMs = 300_000;

type WrongCertificate = {
  readonly name: string;
  readonly issue: (lab: Lab) => Promise<TlsFiles>;
  /** Of the agent on A, for its links to B. */
  readonly linkOfA: RegExp;
  /** Of the engine on B. */
  readonly wordsOfB: RegExp;
};

test.each<WrongCertificate>([
  {
    name: "a foreign CA",
    issue: async (lab) => {
      const directory = join(lab.diskDirectory("b"), "foreign-pki");
      await createAuthority(directory);
      return issueCertificate(directory, { identity: { service: "node", name: "host-b" } });
    },
    linkOfA: /peer at 10\.77\.\d\.2 .*no certificate of our CA that is valid now .*: issue it one from the same CA/,
    wordsOfB: /node-host-b\.crt was not issued by the CA of .*ca\.crt: issue one for node host-b from that CA/,
  },
  {
    name: "the right CA but another node's name",
    issue: (lab) =>
      issueCertificate(join(lab.diskDirectory("q"), "pki"), { identity: { service: "node", name: "host-x" } }),
    linkOfA:
      /expected twinrun:\/\/node\/host-b, but the peer shows twinrun:\/\/node\/host-x: .*issued for another name/,
    wordsOfB: /node-host-b\.crt speaks for twinrun:\/\/node\/host-x: issue one for node host-b/,
  },
])(
  "a standby with a certificate of $name is refused, and taken with the right one",
  async ({ issue, linkOfA, wordsOfB }) => {
    await withLab({}, async (lab) => {
      const image = await provideImage("busybox", () => undefined);
      const guest = placeGuest(lab, { name: "guest", kind: "busybox", image, index: 0 }, "a");
      const cluster = await createCluster(lab, { guests: [guest], firstPrimary: "a" });
      const right = keepAside(cluster.tls.b);
      replaceCertificate(cluster.tls.b, await issue(lab));
      cluster.start();
      await waitForGuest(guest, patienceMs / 4);
      const witnesses = startWitnesses(lab, guest, { connectionsCount: 2, thinkMs: 20, stallMs: 60_000 });

      await cluster.waitForWords("b", guest.name, wordsOfB, patienceMs / 4);
      await waitForLinkProblem(cluster, linkOfA);
      expect(await cluster.readGuest(guest.name)).toMatchObject({ primary: "a", isProtected: false });

      replaceCertificate(cluster.tls.b, right);
      await cluster.waitUntilProtected(patienceMs / 4);
      const repliesCount = countReplies(witnesses);
      await sleep(1000);
      const verdict = sumVerdicts(await stopWitnesses(witnesses));
      expect(verdict).toMatchObject({ survived: 2, lost: 0, duplicated: 0, reordered: 0, broken: 0, wrong: 0 });
      expect(isFlawless(verdict)).toBe(true);
      expect(verdict.replies).toBeGreaterThan(repliesCount);
    });
  },
  patienceMs,
);

type Pair = Pick<TlsFiles, "certPath" | "keyPath">;

function keepAside({ certPath, keyPath }: Pair): Pair {
  const aside = { certPath: `${certPath}.right`, keyPath: `${keyPath}.right` };
  copyFileSync(certPath, aside.certPath);
  copyFileSync(keyPath, aside.keyPath);
  return aside;
}

/** As a tool would that renews it: by rename, the key first. */
function replaceCertificate(target: Pair, by: Pair): void {
  for (const part of ["keyPath", "certPath"] as const) {
    copyFileSync(by[part], `${target[part]}.new`);
    renameSync(`${target[part]}.new`, target[part]);
  }
}

async function waitForLinkProblem(cluster: Cluster, expected: RegExp): Promise<void> {
  const deadlineMs = Date.now() + patienceMs / 4;
  for (;;) {
    const links = (await cluster.readAgent("a"))?.links ?? [];
    if (links.length > 0 && links.every(({ problem }) => expected.test(problem ?? ""))) {
      return;
    }
    if (Date.now() > deadlineMs) {
      throw new Error(`the links of A do not say ${String(expected)}: ${JSON.stringify(links)}`);
    }
    await sleep(50);
  }
}
