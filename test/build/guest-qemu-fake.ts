/**
 * A QMP monitor without a QEMU behind it: greets, knows a running or paused guest, answers in order, one client at a time.
 * test/contract/qmp.test.ts holds it to what a real QEMU does; on top of that a test can make it misbehave.
 */
import { createServer, type Server, type Socket } from "node:net";

type Request = {
  readonly execute?: string;
  readonly "exec-oob"?: string;
  readonly id?: number;
  readonly [key: string]: unknown;
};
type Answer = { readonly return: unknown } | { readonly error: { readonly class: string; readonly desc: string } };
type Command = (args: Readonly<Record<string, unknown>>) => Answer;

const REQUEST_MEMBERS = new Set(["execute", "exec-oob", "arguments", "id"]);

export class FakeQemu {
  readonly #server: Server;
  readonly #waiting: Socket[] = [];
  #client: Socket | undefined;
  #isRunning = true;
  /** Commands received, in order. */
  readonly received: string[] = [];
  /** More commands, or others in place of the built-in ones; one that returns undefined is never answered. */
  readonly commands = new Map<string, (args: Readonly<Record<string, unknown>>) => Answer | undefined>();

  private constructor(server: Server) {
    this.#server = server;
    const builtIn: Readonly<Record<string, Command>> = {
      qmp_capabilities: () => ({ return: {} }),
      "query-commands": () => ({ return: [...this.commands.keys()].map((name) => ({ name })) }),
      "query-status": () => ({ return: { status: this.#isRunning ? "running" : "paused", running: this.#isRunning } }),
      stop: () => this.#setRunning(false),
      cont: () => this.#setRunning(true),
      "object-del": ({ id }) => ({ error: { class: "GenericError", desc: `object '${String(id)}' not found` } }),
    };
    for (const [name, command] of Object.entries(builtIn)) {
      this.commands.set(name, command);
    }
  }

  static listen(path: string): Promise<FakeQemu> {
    const server = createServer();
    const fake = new FakeQemu(server);
    server.on("connection", (socket) => {
      socket.on("error", () => undefined);
      fake.#waiting.push(socket);
      fake.#serveNext();
    });
    return new Promise((resolve) => {
      server.listen(path, () => {
        resolve(fake);
      });
    });
  }

  /** Raw bytes to the client, for what no QEMU would send. */
  write(bytes: string | Buffer): void {
    this.#client?.write(bytes);
  }

  emit(event: string, data: Readonly<Record<string, unknown>> = {}): void {
    this.#sendLine({ timestamp: { seconds: 1_700_000_000, microseconds: 250_000 }, event, data });
  }

  disconnect(): void {
    this.#client?.destroy();
  }

  close(): void {
    this.#server.close();
    this.#client?.destroy();
    for (const socket of this.#waiting) {
      socket.destroy();
    }
  }

  #serveNext(): void {
    if (this.#client !== undefined) {
      return;
    }
    const client = this.#waiting.shift();
    if (client === undefined) {
      return;
    }
    if (client.destroyed) {
      this.#serveNext();
      return;
    }
    this.#client = client;
    let text = "";
    client.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
        this.#serve(JSON.parse(text.slice(0, end)) as Request);
        text = text.slice(end + 1);
      }
    });
    client.on("close", () => {
      this.#client = undefined;
      this.#serveNext();
    });
    const version = { qemu: { major: 7, minor: 2, micro: 22 }, package: "fake" };
    this.#sendLine({ QMP: { version, capabilities: ["oob"] } });
  }

  #serve(request: Request): void {
    const unexpected = Object.keys(request).find((member) => !REQUEST_MEMBERS.has(member));
    if (unexpected !== undefined) {
      const desc = `QMP input member '${unexpected}' is unexpected`;
      this.#sendLine({ error: { class: "GenericError", desc }, id: request.id });
      return;
    }
    const name = request.execute ?? request["exec-oob"] ?? "";
    this.received.push(name);
    const command = this.commands.get(name);
    const missing = { error: { class: "CommandNotFound", desc: `The command ${name} has not been found` } };
    const args = (request["arguments"] ?? {}) as Readonly<Record<string, unknown>>;
    const answer = command === undefined ? missing : command(args);
    if (answer !== undefined) {
      this.#sendLine({ ...answer, id: request.id });
    }
  }

  #setRunning(isRunning: boolean): Answer {
    if (this.#isRunning !== isRunning) {
      this.#isRunning = isRunning;
      this.emit(isRunning ? "RESUME" : "STOP");
    }
    return { return: {} };
  }

  #sendLine(line: object): void {
    this.write(`${JSON.stringify(line)}\r\n`);
  }
}
