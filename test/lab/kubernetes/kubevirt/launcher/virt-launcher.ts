/**
 * virt-launcher of the lab: one domain of libvirt, started when it is told its VMI, and the pod ends with it.
 *
 * usage: node virt-launcher.ts --name NAME --namespace NAMESPACE --uid UID --hook-sidecars COUNT [--qemu-timeout SECONDS]
 *
 * Where KubeVirt has gRPC on the command socket the lab has HTTP, for its controller, which is virt-handler as well:
 *
 *   POST /sync          a VMI as JSON: prepares and starts the domain, once; later it only looks whether it is paused (below)
 *   POST /unpause, /pause, /shutdown, /destroy, /reset
 *   GET  /events        the domain's state as lines of JSON, the present one first, until the end
 *
 * Kept from KubeVirt because Twinrun has to live with it: a sync resumes a domain that is paused and was not paused by the
 * user or by `startStrategy: Paused`; an unpause by the user makes it forget that; OnDefineDomain may be called again on a
 * domain that carries the edit already (here for every second VMI, by its uid); the sidecars hear Shutdown when QEMU ended.
 */
import { rmSync } from "node:fs";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { encodeDomain } from "../domain-xml.ts";
import { type DomainReport } from "../domain-report.ts";
import { type Vmi, domainNameOf, podPaths } from "../vmi.ts";
import { HookSidecars } from "./hook-sidecars.ts";
import { readDomainState, runVirsh, startLibvirt, watchDomainEvents } from "./libvirt.ts";
import { writeVolumeFiles } from "./volume-files.ts";

const flags = parseArgs({
  options: {
    name: { type: "string", default: "" },
    namespace: { type: "string", default: "" },
    uid: { type: "string", default: "" },
    "hook-sidecars": { type: "string", default: "0" },
    "qemu-timeout": { type: "string", default: "240" },
  },
}).values;

const say = (msg: string, more: object = {}): void => {
  process.stdout.write(`${JSON.stringify({ component: "virt-launcher", msg, ...more })}\n`);
};

const domain = `${flags.namespace}_${flags.name}`;
const defaultGraceSeconds = 30;
const shutdownAgainMs = 2_000;

class Launcher {
  readonly #hooks: HookSidecars;
  readonly #listeners = new Set<ServerResponse>();
  #report: DomainReport = { state: "none", reason: "" };
  /** Paused on purpose: a sync leaves it alone. */
  #isHeldPaused = false;
  #isStarted = false;
  #graceMs = defaultGraceSeconds * 1_000;
  /** Commands come one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #isReading = false;
  #mustReadAgain = false;

  constructor(hooks: HookSidecars) {
    this.#hooks = hooks;
  }

  listen(): void {
    const server = createServer((request, response) => {
      void this.#answer(request, response);
    });
    mkdirSync(`${podPaths.share}/sockets`, { recursive: true });
    rmSync(podPaths.launcherSocket, { force: true });
    server.listen(podPaths.launcherSocket);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url === "/events") {
      this.#listeners.add(response.on("close", () => this.#listeners.delete(response)));
      response.write(`${JSON.stringify(this.#report)}\n`);
      return;
    }
    try {
      const body = await readBody(request);
      const command = this.#last.then(() => this.#execute(request.url ?? "", body));
      this.#last = command.catch(() => undefined);
      await command;
      response.end("{}");
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      say("command failed", { command: request.url, message });
      response.writeHead(500).end(message);
    }
  }

  async #execute(command: string, body: string): Promise<void> {
    switch (command) {
      case "/sync":
        await this.#sync(body);
        return;
      case "/pause":
        this.#isHeldPaused = true;
        await runVirsh("suspend", domain);
        return;
      case "/unpause":
        this.#isHeldPaused = false;
        await runVirsh("resume", domain);
        return;
      case "/shutdown":
        await this.shutdown();
        return;
      case "/destroy":
        await runVirsh("destroy", domain);
        return;
      case "/reset":
        await runVirsh("reset", domain);
        return;
      default:
        throw new Error(`there is no command ${command}`);
    }
  }

  async #sync(body: string): Promise<void> {
    if (!this.#isStarted) {
      await this.#start(body);
      return;
    }
    const now = await readDomainState(domain);
    if (now?.state === "paused" && !this.#isHeldPaused) {
      say("resuming a paused domain", now);
      await runVirsh("resume", domain);
    }
  }

  async #start(body: string): Promise<void> {
    const vmi = JSON.parse(body) as Vmi;
    this.#graceMs = (vmi.spec.terminationGracePeriodSeconds ?? defaultGraceSeconds) * 1_000;
    mkdirSync(`${podPaths.private}/${vmi.metadata.uid}`, { recursive: true });
    const formats = writeVolumeFiles(vmi);
    let xml = await this.#hooks.onDefineDomain(encodeDomain(vmi, formats), body);
    if (isCalledAgain(vmi)) {
      xml = await this.#hooks.onDefineDomain(xml, body);
    }
    const path = `${podPaths.private}/${domainNameOf(vmi)}.xml`;
    writeFileSync(path, xml);
    const isPaused = vmi.spec.startStrategy === "Paused";
    this.#isHeldPaused = isPaused;
    await runVirsh("define", path);
    await runVirsh("start", domain, ...(isPaused ? ["--paused"] : []));
    this.#isStarted = true;
    say("domain started", { domain, isPaused });
    this.#readState();
  }

  /** An event of libvirt's. */
  observe(event: string): void {
    say("lifecycle event", { event });
    const [kind = "", ...detail] = event.split(" ");
    if (kind === "Stopped" && this.#isStarted) {
      void this.#end(detail.join(" "));
    } else if (kind !== "Defined" && kind !== "Undefined") {
      this.#readState();
    }
  }

  /** Reads what is after the newest event, at most one read at a time. */
  #readState(): void {
    this.#mustReadAgain = true;
    if (!this.#isReading) {
      this.#isReading = true;
      void this.#readUntilSettled().finally(() => (this.#isReading = false));
    }
  }

  async #readUntilSettled(): Promise<void> {
    while (this.#mustReadAgain) {
      this.#mustReadAgain = false;
      const now = await readDomainState(domain);
      if (now !== undefined && this.#report.state !== "ended") {
        this.#publish(now);
      }
    }
  }

  #publish(report: DomainReport): void {
    this.#report = report;
    for (const listener of this.#listeners) {
      listener.write(`${JSON.stringify(report)}\n`);
    }
  }

  /** QEMU is no more: tells everybody, and ends the pod. */
  async #end(detail: string): Promise<never> {
    this.#publish({ state: "ended", reason: detail });
    await this.#hooks.shutdown().catch((cause: unknown) => {
      say("a sidecar did not take its Shutdown", { message: String(cause) });
    });
    await sleep(200); // The controller reads the last line.
    return process.exit(detail === "Shutdown" || detail === "Destroyed" ? 0 : 1);
  }

  /** By the guest itself, if it is given time for that; then QEMU is told to end. As virt-handler does it (helperVmShutdown). */
  async shutdown(): Promise<void> {
    if (!this.#isStarted) {
      await this.#end("Destroyed");
    }
    const endsAtMs = performance.now() + this.#graceMs;
    while (performance.now() < endsAtMs) {
      // Again until the guest is down, for libvirt refuses while it stands still; the end of QEMU ends this process.
      await runVirsh("shutdown", domain).catch((cause: unknown) => {
        say("no shutdown", { message: String(cause) });
      });
      await sleep(Math.max(0, Math.min(shutdownAgainMs, endsAtMs - performance.now())));
    }
    await runVirsh("destroy", domain);
  }
}

/** KubeVirt calls again after a definition or start that failed; the lab does it without a failure, and not for every VMI. */
const isCalledAgain = ({ metadata }: Vmi): boolean => Number.parseInt(metadata.uid.slice(-1), 16) % 2 === 1;

async function readBody(request: IncomingMessage): Promise<string> {
  let body = "";
  for await (const part of request.setEncoding("utf8")) {
    body += String(part);
  }
  return body;
}

try {
  await startLibvirt();
  const hooks = await HookSidecars.collect(Number(flags["hook-sidecars"]), Number(flags["qemu-timeout"]) * 1_000);
  const launcher = new Launcher(hooks);
  watchDomainEvents((event) => {
    launcher.observe(event);
  });
  launcher.listen();
  process.on("SIGTERM", () => {
    say("asked to end");
    void launcher.shutdown();
  });
  say("waiting for a VMI", { domain });
} catch (cause) {
  say("cannot start", { message: String(cause) });
  process.exit(1);
}
