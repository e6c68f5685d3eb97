import { afterEach, describe, expect, test } from "@jest/globals";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, type Socket } from "node:net";
import { type AccessSource } from "./access.ts";
import { HttpConnection } from "./http-connection.ts";
import { KubeFailure } from "./kube-failure.ts";

type Answer = (request: IncomingMessage, response: ServerResponse, count: number) => void;

const opened: { close(): void }[] = [];

afterEach(() => {
  opened.splice(0).forEach((each) => each.close());
});

/** A server that answers as told, and a connection to it whose token is the number of times it was forgotten. */
async function serve(answer: Answer, path = ""): Promise<{ connection: HttpConnection; sockets: Set<Socket> }> {
  let count = 0;
  const sockets = new Set<Socket>();
  const server: Server = createServer((request, response) => {
    count += 1;
    answer(request, response, count);
  });
  server.on("connection", (socket) => sockets.add(socket));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  let token = 0;
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`);
  const source: AccessSource = {
    read: async () => ({ server: url, tls: {}, headers: { authorization: `Bearer ${token}` } }),
    forget: () => {
      token += 1;
    },
  };
  const connection = new HttpConnection(source);
  opened.push(connection, { close: () => server.closeAllConnections() }, server);
  return { connection, sockets };
}

const get = { method: "GET", path: "/a", timeoutMs: 5_000 } as const;
const codeOf = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "none",
    (error: unknown) => (error instanceof KubeFailure ? error.detail.code : String(error)),
  );

describe("a request", () => {
  test("goes below the path of the server and carries its query", async () => {
    const { connection } = await serve((request, response) => response.end(request.url), "/k8s/clusters/c-1/");
    const text = await connection.send({ ...get, query: { limit: 5, labelSelector: "a=b,c", continue: undefined } });
    expect(text).toBe("/k8s/clusters/c-1/a?limit=5&labelSelector=a%3Db%2Cc");
  });

  test("waits as long as the server asks, and no longer than it may", async () => {
    const { connection } = await serve((_request, response, count) => {
      response.writeHead(count === 1 ? 429 : 200, { "retry-after": count === 1 ? "1" : "9" }).end("yes");
    });
    const fromMs = performance.now();
    expect(await connection.send({ ...get, method: "POST", body: "{}" })).toBe("yes");
    expect(performance.now() - fromMs).toBeGreaterThan(900);
    const { connection: busy } = await serve((_request, response) =>
      response.writeHead(429, { "retry-after": "9" }).end(),
    );
    expect(await codeOf(busy.send(get))).toBe("TooManyRequests");
  });

  test("is sent once more with a token that was read anew", async () => {
    const { connection } = await serve((request, response) => {
      response.writeHead(request.headers.authorization === "Bearer 1" ? 200 : 401).end("in");
    });
    expect(await connection.send(get)).toBe("in");
    const { connection: refused } = await serve((_request, response) => response.writeHead(401).end());
    expect(await codeOf(refused.send(get))).toBe("Unauthorized");
  });

  test.each([
    ["PATCH", "none"],
    ["POST", "Unreachable"],
  ] as const)("%s on a kept connection that the server closes meanwhile: %s", async (method, expected) => {
    const { connection } = await serve((request, response, count) => {
      if (count === 2) {
        request.socket.destroy();
      } else {
        response.end("{}");
      }
    });
    await connection.send(get);
    expect(await codeOf(connection.send({ ...get, method, body: "{}" }))).toBe(expected);
  });

  test("is given up after its time, or when the caller does not want it any more", async () => {
    const { connection } = await serve(() => undefined);
    expect(await codeOf(connection.send({ ...get, timeoutMs: 30 }))).toBe("TimedOut");
    const stop = new AbortController();
    const code = codeOf(connection.send({ ...get, signal: stop.signal }));
    setTimeout(() => stop.abort(), 20);
    expect(await code).toBe("Aborted");
    expect(await codeOf(connection.send({ ...get, signal: stop.signal }))).toBe("Aborted");
  });

  test("that nobody answers is Unreachable, half an answer too", async () => {
    const { connection } = await serve((_request, response) => {
      response.writeHead(200, { "content-length": 100 }).write("half");
      setTimeout(() => response.destroy(), 10);
    });
    expect(await codeOf(connection.send({ ...get, method: "POST" }))).toBe("Unreachable");
    const nowhere = new HttpConnection({
      read: async () => ({ server: new URL("http://127.0.0.1:1"), tls: {}, headers: {} }),
      forget: () => undefined,
    });
    expect(await codeOf(nowhere.send(get))).toBe("Unreachable");
  });

  test("uses one connection after the other is done", async () => {
    const { connection, sockets } = await serve((_request, response) => response.end("{}"));
    for (let count = 0; count < 5; count += 1) {
      await connection.send(get);
    }
    expect(sockets.size).toBe(1);
  });
});

describe("a stream", () => {
  test("gives whole lines, however they are cut", async () => {
    const text = `{"a":"ü"}\n{"b":${"1".repeat(200_000)}}\nlast\n`;
    const bytes = Buffer.from(text);
    const { connection } = await serve((_request, response) => {
      response.write(bytes.subarray(0, 7)); // In the middle of a letter.
      setTimeout(() => response.end(bytes.subarray(7)), 10);
    });
    const lines: string[] = [];
    await connection.stream({ ...get, silenceMs: 5_000 }, (line) => lines.push(line));
    expect(lines).toEqual(text.split("\n").slice(0, 3));
  });

  test("lasts while something is heard, and ends with TimedOut when nothing is", async () => {
    const { connection } = await serve((_request, response) => {
      let left = 8;
      const timer = setInterval(() => {
        response.write("x\n");
        left -= 1;
        if (left === 0) {
          clearInterval(timer);
        }
      }, 50);
    });
    let count = 0;
    const fromMs = performance.now();
    const code = await codeOf(connection.stream({ ...get, silenceMs: 250 }, () => (count += 1)));
    expect([code, count]).toEqual(["TimedOut", 8]);
    expect(performance.now() - fromMs).toBeGreaterThan(500);
  });

  test("that does not begin is not waited for as long as for the next word", async () => {
    const { connection } = await serve(() => undefined);
    expect(await codeOf(connection.stream({ ...get, timeoutMs: 50, silenceMs: 60_000 }, () => undefined))).toBe(
      "TimedOut",
    );
  });

  test("that is refused, cut or not understood says so", async () => {
    const { connection } = await serve((_request, response, count) => {
      if (count === 1) {
        response.writeHead(410).end("{}");
      } else {
        response.write("x\n");
        setTimeout(() => response.destroy(), 10);
      }
    });
    const stream = { ...get, silenceMs: 5_000 };
    expect(await codeOf(connection.stream(stream, () => undefined))).toBe("Expired");
    expect(await codeOf(connection.stream(stream, () => undefined))).toBe("Unreachable");
    const fault = new Error("a fault of the receiver");
    const failing = connection.stream(stream, () => {
      throw fault;
    });
    await expect(failing).rejects.toBe(fault);
  });
});
