/** Real etcd members on loopback, with elections made short so that tests are; they die with the process that started them. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type EtcdMember = { readonly name: string; readonly url: string; readonly process: ChildProcess };
export type EtcdCluster = {
  readonly members: readonly EtcdMember[];
  readonly urls: readonly string[];
  close(): Promise<void>;
};

export async function startEtcd(count: number): Promise<EtcdCluster> {
  const directory = await mkdtemp(join(tmpdir(), "etcd-test-"));
  const plans = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const [client, peer] = [await freePort(), await freePort()];
      return { name: `m${index}`, url: `http://127.0.0.1:${client}`, peerUrl: `http://127.0.0.1:${peer}` };
    }),
  );
  const cluster = plans.map(({ name, peerUrl }) => `${name}=${peerUrl}`).join(",");
  const members = plans.map(({ name, url, peerUrl }) => {
    const args = ["--name", name, "--data-dir", join(directory, name), "--listen-client-urls", url, "--advertise-client-urls", url,
      "--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl, "--initial-cluster", cluster,
      "--heartbeat-interval", "50", "--election-timeout", "300", "--log-level", "error"]; // prettier-ignore
    return { name, url, process: spawn("setpriv", ["--pdeathsig", "KILL", "etcd", ...args], { stdio: "ignore" }) };
  });
  const close = async (): Promise<void> => {
    for (const member of members) {
      await killMember(member);
    }
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await Promise.all(members.map(({ url }) => untilHealthy(url)));
  } catch (error) {
    await close();
    throw error;
  }
  return { members, urls: members.map(({ url }) => url), close };
}

/** With -9; resolves once it is gone. */
export async function killMember({ process: child }: EtcdMember): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) {
    return;
  }
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGCONT");
  child.kill("SIGKILL");
  await gone;
}

/** The member that leads now. */
export async function findLeader({ members }: EtcdCluster): Promise<EtcdMember> {
  for (const member of members) {
    const response = await fetch(`${member.url}/v3/maintenance/status`, { method: "POST", body: "{}" }).catch(
      () => undefined,
    );
    const status = (await response?.json()) as { leader?: string; header?: { member_id?: string } } | undefined;
    if (status?.leader !== undefined && status.leader === status.header?.member_id) {
      return member;
    }
  }
  throw new Error("no member leads");
}

async function untilHealthy(url: string): Promise<void> {
  const endMs = performance.now() + 15_000;
  while (performance.now() < endMs) {
    const response = await fetch(`${url}/health`).catch(() => undefined);
    if (response?.ok === true && (await response.text()).includes("true")) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`etcd at ${url} does not become healthy; is etcd-server installed?`);
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}
