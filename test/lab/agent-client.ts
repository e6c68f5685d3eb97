/** Asks an agent over its unix socket, as an operator's tool on the host would. */
import { request } from "node:http";
import { join } from "node:path";
import { type GuestStatus, type SwitchoverAnswer } from "../../src/agent/guest-runner.ts";
import { type PeerLinkStatus } from "../../src/agent/node-heartbeat.ts";

export type AgentStatus = {
  readonly node: string;
  readonly assignmentProblem: string | null;
  readonly guests: readonly GuestStatus[];
  readonly leaving: readonly string[];
  readonly links: readonly PeerLinkStatus[];
};

type Answer = { readonly status: number; readonly body: string };

/** Undefined while there is no agent, or one that does not answer. */
export async function readAgentStatus(runDirectory: string): Promise<AgentStatus | undefined> {
  const answer = await ask(runDirectory, "GET", "/status");
  return answer?.status === 200 ? (JSON.parse(answer.body) as AgentStatus) : undefined;
}

export async function readAgentMetrics(runDirectory: string): Promise<string | undefined> {
  return (await ask(runDirectory, "GET", "/metrics"))?.body;
}

export async function requestSwitchover(runDirectory: string, guest: string): Promise<SwitchoverAnswer> {
  const answer = await ask(runDirectory, "POST", `/guests/${guest}/switchover`);
  return { accepted: answer?.status === 202, message: answer?.body ?? "no agent" };
}

function ask(runDirectory: string, method: string, path: string): Promise<Answer | undefined> {
  return new Promise((resolve) => {
    const asking = request(
      { socketPath: join(runDirectory, "agent.sock"), method, path, timeout: 3000 },
      (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (text: string) => (body += text));
        response.on("end", () => {
          resolve({ status: response.statusCode ?? 0, body });
        });
        response.on("error", () => {
          resolve(undefined);
        });
      },
    );
    asking.on("timeout", () => asking.destroy());
    asking.on("error", () => {
      resolve(undefined);
    });
    asking.end();
  });
}
