/** The real agent with real QEMU processes and a fake engine: who is started, adopted, killed, and when. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, jest, test } from "@jest/globals";
import { AgentHost, issueShared, type NodeStatus, until } from "../../test/build/agent-host.ts";
import { buildReport } from "../../test/build/engine-report.ts";
import { buildAssignment } from "../../test/build/guest-assignment.ts";
import { parsePrometheusText } from "../../test/build/prometheus-text.ts";
import { type FaultRecord } from "../decide/fault-log.ts";
import { type FoundGuest } from "../protocol/assignment.ts";
import { type GuestStatus } from "./guest-runner.ts";
import { readIdentity } from "./linux-process.ts";

jest.setTimeout(60_000);

const webQemu = {
  tag: "local",
  binary: "qemu-system-x86_64",
  args: ["-machine", "none", "-nodefaults", "-display", "none", "-name", "twinrun-agent-test"],
} as const;
const web = buildAssignment({ qemu: webQemu });

/** Others may run these tests on the same machine at the same time. */
const metricsPort = 20_000 + (process.pid % 5_000);
const heartbeatPort = metricsPort + 5_000;

const hosts: AgentHost[] = [];
async function openHost(node?: string): Promise<AgentHost> {
  const host = await AgentHost.open(node);
  hosts.push(host);
  return host;
}
afterEach(async () => {
  await Promise.all(hosts.splice(0).map((host) => host.close()));
});

type Running = { readonly enginePid: number; readonly qemu: FoundGuest; readonly status: GuestStatus };

/** The guest with an engine and a QEMU, both alive and neither of them the given one. */
function untilRunning(host: AgentHost, not: { enginePid?: number; qemuPid?: number } = {}): Promise<Running> {
  return until("engine and QEMU run", async () => {
    const status = await host.guest("web");
    const { enginePid, qemu } = status ?? {};
    if (status === undefined || enginePid === undefined || enginePid === null || qemu === undefined || qemu === null) {
      return undefined;
    }
    const isNew = enginePid !== not.enginePid && qemu.pid !== not.qemuPid;
    return isNew && readIdentity(qemu.pid) !== undefined ? { enginePid, qemu, status } : undefined;
  });
}

function untilHeard(host: AgentHost, tag: string, enginePid?: number): Promise<object> {
  return until(`the engine hears ${tag}`, () =>
    host.heard("web").find((heard) => heard.message.tag === tag && (enginePid ?? heard.enginePid) === heard.enginePid),
  );
}

const gone = (pid: number): Promise<true> =>
  until(`process ${pid} is gone`, () => (readIdentity(pid) === undefined ? true : undefined));

describe("a guest that is assigned", () => {
  test("gets an engine, and the QEMU that the engine asks for", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "standby" });
    await host.start();
    const { enginePid, qemu } = await untilRunning(host);
    const args = readFileSync(`/proc/${qemu.pid}/cmdline`, "utf8").split("\0");
    expect(args.slice(-8).join(" ").trim()).toBe(
      `-S -incoming defer -global migration.send-configuration=off -qmp unix:${host.runDirectory}/web/qmp.sock,server=on,wait=off`,
    );
    expect(await untilHeard(host, "guestFound")).toMatchObject({
      enginePid,
      message: { pid: qemu.pid, started: true, startedAs: "standby", qmpPath: join(host.runDirectory, "web/qmp.sock") },
    });
    expect(await untilHeard(host, "configure")).toMatchObject({ message: { config: { node: "host-a" }, found: null } });
    // Its own session: no signal to the agent's group reaches it.
    expect(readFileSync(`/proc/${qemu.pid}/stat`, "utf8").split(") ")[1]?.split(" ")[3]).toBe(String(qemu.pid));
  });

  test("keeps its QEMU when the engine is killed, and gets a new engine that knows it", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    const killedAtMs = performance.now();
    process.kill(before.enginePid, "SIGKILL");
    const after = await untilRunning(host, { enginePid: before.enginePid });
    expect(performance.now() - killedAtMs).toBeLessThan(2_000);
    expect(after.qemu).toEqual(before.qemu);
    expect(after.status.engineRestartsCount).toBe(1);
    expect(await untilHeard(host, "configure", after.enginePid)).toMatchObject({ message: { found: before.qemu } });
    expect(await untilHeard(host, "guestFound", after.enginePid)).toMatchObject({
      message: { started: false, pid: before.qemu.pid },
    });
  });

  test("tells its engine when QEMU dies", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const { qemu } = await untilRunning(host);
    process.kill(qemu.pid, "SIGKILL");
    expect(await untilHeard(host, "guestDied")).toMatchObject({ message: { pid: qemu.pid } });
    expect((await host.guest("web"))?.qemu).toBeNull();
  });

  test("has its QEMU killed and replaced on the engine's demand", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const first = await untilRunning(host);
    await host.say("web", { tag: "guestWanted", as: "standby", fresh: true });
    const second = await untilRunning(host, { qemuPid: first.qemu.pid });
    expect(readIdentity(first.qemu.pid)).toBeUndefined();
    expect(second.qemu.startedAs).toBe("standby");
    await host.say("web", { tag: "killGuest" });
    await gone(second.qemu.pid);
    expect(await untilHeard(host, "guestDied")).toMatchObject({ message: { pid: second.qemu.pid } });
    expect(host.listQemus()).toEqual([]);
  });

  test("loses its QEMU when the engine is fenced, and gets a new engine", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    host.script("web", { wants: "standby" });
    await host.say("web", { tag: "exiting", reason: "fenced", message: "an older term" });
    const after = await untilRunning(host, { enginePid: before.enginePid, qemuPid: before.qemu.pid });
    expect(readIdentity(before.qemu.pid)).toBeUndefined();
    expect(after.qemu.startedAs).toBe("standby");
    expect(await untilHeard(host, "configure", after.enginePid)).toMatchObject({ message: { found: null } });
  });

  test("rests after it shut itself down, also over a restart of the agent, until somebody starts it", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    expect((await host.ask("POST", "/guests/web/start"))?.code).toBe(409);
    await host.say("web", { tag: "exiting", reason: "ended", message: "the guest powered itself off" });
    await gone(before.qemu.pid);
    await host.end("SIGTERM");
    await host.start();
    const resting = await until("the guest rests", async () => {
      const status = await host.guest("web");
      return status?.supervision === "ended" ? status : undefined;
    });
    expect([resting.enginePid, resting.qemu]).toEqual([null, null]);
    expect((await host.ask("POST", "/guests/web/start"))?.code).toBe(202);
    await untilRunning(host);
  });

  test("says why when QEMU cannot start, and leaves nothing behind", async () => {
    const host = await openHost();
    host.assign({
      ...web,
      qemu: {
        ...webQemu,
        args: [...webQemu.args, "-device", "no-such-device"],
      },
    });
    host.script("web", { wants: "primary" });
    await host.start();
    const failed = await untilHeard(host, "guestFailed");
    expect(failed).toMatchObject({
      message: { message: expect.stringMatching(/ended with status 1.*qemu\.args.*no-such-device/s) },
    });
    expect((await host.guest("web"))?.trouble).toMatch(/no-such-device/);
    expect(host.listQemus()).toEqual([]);
  });

  test("says why when there is no such program", async () => {
    const host = await openHost();
    host.assign({ ...web, qemu: { ...webQemu, binary: "/usr/bin/no-qemu" } });
    host.script("web", { wants: "primary" });
    await host.start();
    expect(await untilHeard(host, "guestFailed")).toMatchObject({
      message: { message: expect.stringMatching(/cannot run \/usr\/bin\/no-qemu .*correct qemu\.binary/) },
    });
  });

  test("backs off when its engine fails again and again", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { leaves: { reason: "failed", afterMs: 1 } });
    await host.start();
    await until("four engines have run", () => (host.heard("web").length >= 4 ? true : undefined));
    const trouble = await until("the trouble shows", async () => (await host.guest("web"))?.trouble ?? undefined);
    expect(trouble).toMatch(/fake engine leaves: failed/);
  });
});

describe("the end of the agent", () => {
  test("kill -9: the engine follows, QEMU stays and is adopted by the next agent", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    await host.end("SIGKILL");
    await gone(before.enginePid);
    expect(readIdentity(before.qemu.pid)).toBeDefined();
    await host.start();
    const after = await untilRunning(host, { enginePid: before.enginePid });
    expect(after.qemu).toEqual(before.qemu);
    // Nobody is this QEMU's parent any more, and its death is noticed all the same.
    process.kill(after.qemu.pid, "SIGKILL");
    expect(await untilHeard(host, "guestDied", after.enginePid)).toMatchObject({ message: { pid: after.qemu.pid } });
  });

  test("kill -9: an engine that hangs is killed by the next agent", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary", staysWhenAlone: true });
    await host.start();
    const before = await untilRunning(host);
    await host.end("SIGKILL");
    expect(readIdentity(before.enginePid)).toBeDefined();
    await host.start();
    await gone(before.enginePid);
    const after = await untilRunning(host);
    expect(host.listEngines()).toEqual([after.enginePid]);
  });

  test("kill -9 between the start of QEMU and its record: the stray is killed", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    mkdirSync(join(host.runDirectory, "web"), { recursive: true });
    const stray = spawn("sleep", ["1000"], {
      detached: true,
      stdio: "ignore",
      env: { TWINRUN_GUEST: "web", TWINRUN_NODE: "host-a", TWINRUN_RUN_DIRECTORY: host.runDirectory },
    });
    const foreign = spawn("sleep", ["1000"], {
      stdio: "ignore",
      env: { TWINRUN_GUEST: "web", TWINRUN_NODE: "host-a", TWINRUN_RUN_DIRECTORY: `${host.runDirectory}-other` },
    });
    try {
      await host.start();
      await gone(stray.pid ?? 0);
      await untilRunning(host);
      expect(readIdentity(foreign.pid ?? 0)).toBeDefined();
    } finally {
      foreign.kill("SIGKILL");
    }
  });

  test("a record whose process id was given out again is not believed", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const { qemu } = await untilRunning(host);
    await host.end("SIGKILL");
    process.kill(qemu.pid, "SIGKILL");
    await gone(qemu.pid);
    const path = join(host.runDirectory, "web/qemu.json");
    const innocent = spawn("sleep", ["1000"], { stdio: "ignore" });
    try {
      const record = { ...(JSON.parse(readFileSync(path, "utf8")) as object), pid: innocent.pid };
      writeFileSync(path, JSON.stringify(record));
      await host.start();
      const after = await untilRunning(host);
      expect(after.qemu.pid).not.toBe(innocent.pid);
      expect(readIdentity(innocent.pid ?? 0)).toBeDefined();
    } finally {
      innocent.kill("SIGKILL");
    }
  });

  test("SIGTERM: engines are asked to stop first, one that does not is killed, QEMU runs on", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary", ignoresStop: true });
    await host.start();
    const { enginePid, qemu } = await untilRunning(host);
    expect(await host.end("SIGTERM")).toBe(0);
    expect(host.heard("web").map(({ message }) => message.tag)).toContain("stop");
    expect(readIdentity(enginePid)).toBeUndefined();
    expect(readIdentity(qemu.pid)).toBeDefined();
  });

  test("a second agent for the same directory is refused with status 2", async () => {
    const host = await openHost();
    host.assign();
    await host.start();
    expect(await host.startRefused()).toBe(2);
    expect(host.output).toMatch(/another agent runs with the directory .*: stop it, or give this one another/);
  });

  test.each<{ when: string; flags: string[]; says: RegExp }>([
    { when: "a flag is unknown", flags: ["--nod", "x"], says: /Unknown option '--nod'/ },
    {
      when: "the configuration file is missing",
      flags: ["--config", "/no/such/file"],
      says: /no such file.*\/no\/such\/file/,
    },
    {
      when: "fields are wrong",
      flags: ["--node", "Host_A", "--quorum", "there"],
      says: /2 mistakes; correct them:\n {2}node: must be .*\n {2}quorum\[1\]: must be an object with host and port, found "there"/,
    },
    { when: "a certificate is missing", flags: ["--cert", "/no/such.crt"], says: /\/no\/such\.crt/ },
  ])("status 2 when $when", async ({ flags, says }) => {
    const host = await openHost();
    expect(await host.startRefused(...flags)).toBe(2);
    expect(host.output).toMatch(says);
    expect(host.output).not.toMatch(/\n +at /);
  });
});

const readFaults = async (host: AgentHost): Promise<readonly FaultRecord[]> =>
  ((await host.guest("web")) as (GuestStatus & { faults: readonly FaultRecord[] }) | undefined)?.faults ?? [];

describe("faults", () => {
  const fault = { component: "disk/system", code: "DiskFailed", message: "write failed: EIO" } as const;
  test("that an engine tells have a record, which outlives the agent, until it says that they are repaired", async () => {
    const host = await openHost();
    host.assign(web);
    await host.start();
    await untilHeard(host, "configure");
    await host.say("web", { tag: "fault", ...fault });
    await until("the record is there", async () => ((await readFaults(host)).length === 1 ? true : undefined));
    await host.end("SIGKILL");
    await host.start();
    expect(await readFaults(host)).toMatchObject([{ node: "host-a", ...fault, state: "OutOfService", count: 1 }]);
    await host.say("web", { tag: "repaired", component: fault.component });
    await until("it is in service", async () =>
      (await readFaults(host))[0]?.state === "InService" ? true : undefined,
    );
  });

  test("an engine that is killed has one", async () => {
    const host = await openHost();
    host.assign(web);
    await host.start();
    await untilHeard(host, "configure");
    process.kill((await host.guest("web"))?.enginePid ?? 0, "SIGKILL");
    const [record] = await until("the record is there", async () => {
      const faults = await readFaults(host);
      return faults.length === 0 ? undefined : faults;
    });
    expect(record).toMatchObject({ component: "engine", code: "EngineFailed" });
    expect(record?.message).toBe("engine ended with signal SIGKILL without a word");
  });
});

describe("a change of assignments", () => {
  test("unassigned: engine and QEMU go", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const { enginePid, qemu } = await untilRunning(host);
    host.assign();
    await gone(enginePid);
    await gone(qemu.pid);
    expect(host.heard("web").map(({ message }) => message.tag)).toContain("stop");
    expect((await host.status())?.guests).toEqual([]);
  });

  test("unassigned while no agent ran: QEMU goes", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const { qemu } = await untilRunning(host);
    await host.end("SIGKILL");
    host.assign();
    await host.start();
    await gone(qemu.pid);
  });

  test("a bad or missing file changes nothing, also over a restart, and is told", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    host.writeAssignments("guests: [{ guest: web ");
    const problem = await until("the problem shows", async () => (await host.status())?.assignmentProblem ?? undefined);
    expect(problem).toMatch(/is not YAML/);
    await until("the problem is logged", () => /is not YAML/.test(host.output) || undefined); // Its pipe may be read later.
    expect((await host.ask("GET", "/metrics"))?.body).toMatch(/^twinrun_assignments_good 0$/m);
    await host.end("SIGKILL");
    await host.start();
    const after = await untilRunning(host, { enginePid: before.enginePid });
    expect(after.qemu).toEqual(before.qemu);
    host.assign({ ...web, peerNode: "host-a" });
    await until("the next problem shows", async () =>
      (await host.status())?.assignmentProblem?.includes("peerNode is this node") === true ? true : undefined,
    );
    host.assign(web);
    await until("all is well", async () => ((await host.status())?.assignmentProblem === null ? true : undefined));
    expect((await host.guest("web"))?.enginePid).toBe(after.enginePid);
  });

  test("another contract is told to the engine; other disks wait for the next QEMU", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    const before = await untilRunning(host);
    host.assign({ ...web, checkpoint: { ...web.checkpoint, maxAddedLatencyMs: 20 } });
    expect(await untilHeard(host, "retuned")).toMatchObject({
      enginePid: before.enginePid,
      message: { checkpoint: { maxAddedLatencyMs: 20 } },
    });
    const disks = [{ id: "disk0", path: "/tmp/disk0.raw" }];
    host.assign({ ...web, disks });
    await until("the change waits", async () => ((await host.guest("web"))?.changePending === true ? true : undefined));
    process.kill(before.enginePid, "SIGKILL");
    const second = await untilRunning(host, { enginePid: before.enginePid });
    expect(await untilHeard(host, "configure", second.enginePid)).toMatchObject({ message: { config: { disks: [] } } });
    await host.say("web", { tag: "exiting", reason: "fenced", message: "" });
    const third = await untilRunning(host, { enginePid: second.enginePid, qemuPid: second.qemu.pid });
    expect(await untilHeard(host, "configure", third.enginePid)).toMatchObject({ message: { config: { disks } } });
  });
});

describe("guests that share links", () => {
  const linkCapacity = { ownMiBPerSecond: 100 };
  const shares = (host: AgentHost, guest: string): readonly (number | null)[] =>
    host.heard(guest).flatMap(({ message }) => {
      return message.tag === "linkShared"
        ? [message.bytesPerSecond === null ? null : Math.round(message.bytesPerSecond / 2 ** 20)]
        : [];
    });
  const untilShare = (host: AgentHost, guest: string, mib: number | null): Promise<true> =>
    until(`the engine of ${guest} has a share of ${mib} MiB/s`, () => shares(host, guest).at(-1) === mib || undefined);

  test("may use what the others leave; those that want more than there is get equal parts, until nobody says what there is", async () => {
    const host = await openHost();
    const db = buildAssignment({ guest: "db", port: 7200, linkCapacity });
    host.assign({ ...web, linkCapacity }, db);
    await host.start();
    await untilShare(host, "web", 90);
    await untilShare(host, "db", 90);
    const wantsMore = buildReport({ linkShare: { bytesPerSecond: 1, isHeldTo: true } });
    await host.say("db", { tag: "report", report: wantsMore });
    await untilShare(host, "web", 45);
    expect(shares(host, "db")).toEqual([90]);
    await host.say("web", { tag: "report", report: wantsMore });
    await untilShare(host, "db", 45);
    const families = parsePrometheusText((await host.ask("GET", "/metrics"))?.body ?? "");
    expect(families.get("twinrun_link_share_used_up")?.samples).toMatchObject([{ value: 1 }, { value: 1 }]);

    process.kill((await host.guest("web"))?.enginePid ?? 0, "SIGKILL");
    await until("a new engine has been told", () => shares(host, "web").length >= 3 || undefined);
    host.assign(web, { ...db, linkCapacity: undefined });
    await untilShare(host, "web", null);
  });
});

describe("the endpoint", () => {
  test("is private, and shows, scrapes and presses", async () => {
    const host = await openHost();
    host.assign(web);
    host.script("web", { wants: "primary" });
    await host.start();
    await untilRunning(host);
    expect(statSync(join(host.runDirectory, "agent.sock")).mode & 0o777).toBe(0o600);
    await host.say("web", { tag: "report", report: buildReport({ term: 9 }) });
    await until("the report shows", async () => ((await host.guest("web"))?.report?.term === 9 ? true : undefined));
    const families = parsePrometheusText((await host.ask("GET", "/metrics"))?.body ?? "");
    expect(families.get("twinrun_guest_term")?.samples).toMatchObject([{ labels: { guest: "web" }, value: 9 }]);
    expect(await host.ask("POST", "/guests/web/switchover")).toMatchObject({
      code: 202,
      body: expect.stringMatching(/handing over/),
    });
    expect(await host.ask("POST", "/guests/mail/switchover")).toMatchObject({ code: 404 });
    expect(await host.ask("GET", "/guests/web/switchover")).toMatchObject({ code: 405 });
    expect(await host.ask("POST", "/metrics")).toMatchObject({ code: 405 });
    expect(await host.ask("GET", "/x")).toMatchObject({ code: 404 });
  });

  test("over TCP asks for a certificate of ours, and only shows", async () => {
    const host = await openHost();
    host.assign(web);
    await host.start("--metrics", `127.0.0.1:${metricsPort}`);
    const scraped = await host.askSecurely("GET", "/metrics", metricsPort, host.tls);
    expect(parsePrometheusText(scraped?.body ?? "").get("twinrun_agent_info")?.samples).toHaveLength(1);
    expect((await host.askSecurely("POST", "/guests/web/switchover", metricsPort, host.tls))?.code).toBe(403);
    const monitor = await issueShared("prometheus", "monitor");
    expect((await host.askSecurely("GET", "/metrics", metricsPort, monitor))?.code).toBe(200);
    for (const others of [{}, await issueShared("host-b"), await issueShared("q", "quorum")]) {
      expect(await host.askSecurely("GET", "/metrics", metricsPort, others)).toBeUndefined();
    }
  });
});

describe("heartbeats", () => {
  test("show every link with its round trip, and its loss", async () => {
    const a = await openHost("host-a");
    const b = await openHost("host-b");
    const links = ["one", "two"].map((name, index) => ({
      name,
      localHost: `127.0.0.${index + 1}`,
      peerHost: `127.0.1.${index + 1}`,
    }));
    const mirrored = links.map(({ name, localHost, peerHost }) => ({ name, localHost: peerHost, peerHost: localHost }));
    a.assign({ ...web, links });
    b.assign({ ...web, links: mirrored, peerNode: "host-a" });
    await Promise.all([
      a.start("--heartbeat-port", String(heartbeatPort)),
      b.start("--heartbeat-port", String(heartbeatPort)),
    ]);
    const untilLinks = (host: AgentHost, alive: boolean): Promise<NodeStatus["links"]> =>
      until(`the links are ${alive ? "alive" : "lost"}`, async () => {
        const status = await host.status();
        return status?.links.length === 2 && status.links.every((link) => link.alive === alive)
          ? status.links
          : undefined;
      });
    expect((await untilLinks(a, true)).map(({ peer, link }) => `${peer} ${link}`).sort()).toEqual([
      "host-b one",
      "host-b two",
    ]);
    await untilLinks(b, true);
    const scraped = await until("round trips were measured", async () => {
      const families = parsePrometheusText((await a.ask("GET", "/metrics"))?.body ?? "");
      const rtt = families.get("twinrun_node_link_rtt_seconds")?.samples ?? [];
      return rtt.filter(({ name, value }) => name.endsWith("_count") && value > 0).length === 2 ? rtt : undefined;
    });
    expect(scraped.every(({ name, value }) => name.endsWith("_count") || value < 5)).toBe(true);
    await b.end("SIGKILL");
    expect((await untilLinks(a, false))[0]?.problem).toMatch(/host-b|127\.0\.1\.|connection was lost/);
    await b.start("--heartbeat-port", String(heartbeatPort));
    await untilLinks(a, true);
  });

  test("that end without a word put the peer's host on record, until it is heard again for a while", async () => {
    const a = await openHost("host-a");
    const b = await openHost("host-b");
    const [one, other] = [
      { name: "one", localHost: "127.0.0.1", peerHost: "127.0.1.1" },
      { name: "one", localHost: "127.0.1.1", peerHost: "127.0.0.1" },
    ];
    a.assign({ ...web, links: [one] });
    b.assign({ ...web, links: [other], peerNode: "host-a" });
    await Promise.all([a, b].map((host) => host.start("--heartbeat-port", String(heartbeatPort))));
    await until("the link is alive", async () => ((await a.status())?.links[0]?.alive === true ? true : undefined));
    const untilHost = (state: string): Promise<FaultRecord> =>
      until(`the host is ${state}`, async () =>
        (await readFaults(a)).find((record) => record.component === "host" && record.state === state),
      );
    b.agent?.kill("SIGSTOP");
    expect(await untilHost("OutOfService")).toMatchObject({
      ...{ node: "host-b", code: "HostSilent", message: "host-b fell silent on its only link", count: 1 },
    });
    b.agent?.kill("SIGCONT");
    expect((await untilHost("InService")).repairedAt).toBeDefined();
  });

  test("hand a guest over when this node's uplink fails and the peer's works", async () => {
    const a = await openHost("host-a");
    const b = await openHost("host-b");
    const links = [{ name: "one", localHost: "127.0.0.1", peerHost: "127.0.1.1" }];
    const uplink = (host: AgentHost): string => join(host.directory, "uplink");
    a.assign({ ...web, links });
    a.script("web", { wants: "primary" });
    b.assign({ ...web, links: [{ name: "one", localHost: "127.0.1.1", peerHost: "127.0.0.1" }], peerNode: "host-a" });
    writeFileSync(uplink(a), "1");
    writeFileSync(uplink(b), "0");
    const flags = (host: AgentHost): string[] => ["--heartbeat-port", String(heartbeatPort), "--uplink", uplink(host)];
    await Promise.all([a.start(...flags(a)), b.start(...flags(b))]);
    await until("the link is alive", async () => ((await a.status())?.links[0]?.alive === true ? true : undefined));
    await untilRunning(a);
    await a.say("web", { tag: "report", report: buildReport() });
    writeFileSync(uplink(a), "0");
    await until("the loss shows", async () =>
      (await a.ask("GET", "/metrics"))?.body.includes(`twinrun_node_uplink_up{uplink="${uplink(a)}"} 0`) === true
        ? true
        : undefined,
    );
    await sleep(1_500);
    expect(a.heard("web").map(({ message }) => message.tag)).not.toContain("switchover");
    writeFileSync(uplink(b), "1");
    await untilHeard(a, "switchover");
  });
});
