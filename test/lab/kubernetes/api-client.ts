/** Plain requests to an API server, for tests of what it answers: no retries, no watches, nothing is parsed but JSON. */
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { type Certificate } from "./certificates.ts";

export type ApiRequest = {
  readonly body?: unknown;
  /** What the body is; a kind of patch for PATCH. */
  readonly type?: string;
  readonly accept?: string;
  /** More headers, such as those that say whom an administrator plays. */
  readonly headers?: Readonly<Record<string, string>>;
};
export type ApiAnswer = { readonly status: number; readonly body: unknown };

export const applyPatch = "application/apply-patch+yaml";

export class ApiClient {
  readonly #url: string;
  readonly #agent: Agent;

  constructor(url: string, { certPath, keyPath, authorityPath }: Certificate) {
    this.#url = url;
    const [cert, key, ca] = [certPath, keyPath, authorityPath].map((path) => readFileSync(path, "utf8"));
    this.#agent = new Agent({ keepAlive: true, cert, key, ca });
  }

  /** Whatever the server answers; rejected only when it does not. */
  send(method: string, path: string, { body, type, accept, headers: more }: ApiRequest = {}): Promise<ApiAnswer> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = { accept: accept ?? "application/json", "content-type": type ?? "application/json", ...more };
    return new Promise((resolve, reject) => {
      const sent = request(`${this.#url}${path}`, { method, headers, agent: this.#agent }, (answer) => {
        let given = "";
        answer.setEncoding("utf8").on("data", (part: string) => (given += part));
        answer.on("error", reject).on("end", () => {
          resolve({ status: answer.statusCode ?? 0, body: parseBody(given) });
        });
      });
      sent.on("error", reject).end(text);
    });
  }

  /** Resolves at the first change in a list since it had this resourceVersion, and after a minute without one. */
  waitForChange(path: string, resourceVersion: string, signal: AbortSignal): Promise<void> {
    const query = `watch=1&timeoutSeconds=60&resourceVersion=${resourceVersion}`;
    return new Promise((resolve, reject) => {
      const sent = request(`${this.#url}${path}?${query}`, { agent: this.#agent, signal }, (answer) => {
        answer.on("error", reject).on("end", resolve);
        answer.once("data", () => {
          resolve();
          sent.destroy();
        });
      });
      sent.on("error", reject).end();
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

function parseBody(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // The health checks answer in words.
  }
}
