/** A way to a server that loses answers, or dies without a word, once told to. */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export type Swallower = {
  /** Of the server, by this way. */
  readonly url: string;
  /** What the server says is lost, and the connection with it. */
  swallow: boolean;
  /** The connections there are carry nothing any more, and do not end; new ones are not concerned. */
  freeze(): void;
  close(): void;
};

export function openSwallower(url: string): Promise<Swallower> {
  const { protocol, port } = new URL(url);
  const sockets = new Set<Socket>();
  const frozen = new WeakSet<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), "127.0.0.1");
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => undefined);
    }
    client.on("data", (chunk) => {
      if (!frozen.has(client)) {
        upstream.write(chunk);
      }
    });
    upstream.on("data", (chunk) => {
      if (swallower.swallow) {
        client.destroy();
      } else if (!frozen.has(upstream)) {
        client.write(chunk);
      }
    });
    client.on("close", () => upstream.destroy());
    upstream.on("end", () => client.end());
  });
  const swallower = {
    url: "",
    swallow: false,
    freeze: (): void => {
      sockets.forEach((socket) => frozen.add(socket));
    },
    close: (): void => {
      server.close();
      sockets.forEach((socket) => socket.destroy());
    },
  };
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      swallower.url = `${protocol}//127.0.0.1:${(server.address() as AddressInfo).port}`;
      resolve(swallower);
    });
  });
}
