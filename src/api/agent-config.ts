/**
 * The agent's own configuration file (YAML or JSON). Flags of the same name override it; see main/agent.ts.
 *
 *   node: host-a
 *   runDirectory: /run/twinrun          # on tmpfs; short, for it holds unix sockets
 *   assignments: /etc/twinrun/assignments.yaml
 *   quorum: [{ host: 10.0.0.9, port: 7000 }]
 *   tls: { certPath: /etc/twinrun/tls.crt, keyPath: /etc/twinrun/tls.key, caPath: /etc/twinrun/ca.crt }
 *   shim: /usr/lib/twinrun/shim.so      # left out: QEMU runs without the shim, and the engine says what that costs
 *   heartbeatPort: 7001                 # left out: no heartbeats between agents
 *   uplinks: [eth0]                     # interfaces (or files that read 1 while the way works) over which clients reach the
 *                                       # guests; while one is down, guests go to the peer if its uplinks are up
 *   metrics: { host: 0.0.0.0, port: 9443 }   # over mutual TLS; left out: only the unix socket RUN/agent.sock
 *   traceDirectory: /var/log/twinrun    # left out: engines write no traces
 *   cacheDirectory: /var/cache/twinrun  # compiled code of the engine, saves 24 MiB per engine; RUN/.cache unless told
 *   logLevel: info
 *
 * On a node of Kubernetes, where KubeVirt starts QEMU and GuestPairs say which guests are here:
 *
 *   assignments: kubernetes             # in place of the file's path; the file's guests and pods' guests do not mix
 *   kubernetes: { namespace: twinrun }  # where the operator keeps GuestPairs; kubeconfig and context: left out in a pod
 *   quorum: []                          # replicas outside the cluster
 *   quorumService: twinrun-quorum       # those of this Service, too
 *   stateDirectory: /var/lib/twinrun    # on the node's disk: its key and certificate, which the operator signs, and where the
 *                                       # quorum was last; then `tls` is left out
 *   podLogsDirectory: /var/log/pods     # kubelet's; the names in it tell whose pod a QEMU is in
 *
 * There the shim is in the pods and `shim` means nothing, and the certificate may come after the agent has started.
 */
import { z } from "zod";
import { parseInput } from "./checked-input.ts";

/** The value of `assignments` on a node of Kubernetes. */
export const KUBERNETES = "kubernetes";

const text = (what: string): z.ZodString => z.string(what).min(1, what);
const port = z.int("a TCP port from 1 to 65535").min(1, "a TCP port from 1 to 65535").max(65_535, "a TCP port");

const endpoint = z.strictObject(
  { host: text("a host name or address"), port },
  { error: (issue) => (issue.code === "unrecognized_keys" ? undefined : "an object with host and port") },
);

const tlsFiles = z.strictObject(
  {
    certPath: text("the path of this node's certificate (PEM)"),
    keyPath: text("the path of this node's private key (PEM)"),
    caPath: text("the path of the authority's certificate (PEM)"),
  },
  {
    error: (issue) => (issue.code === "unrecognized_keys" ? undefined : "an object with certPath, keyPath and caPath"),
  },
);

const agentConfig = z
  .strictObject(
    {
      node: text("the name of this node, as the peers and its certificate know it").regex(
        /^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$/,
        'a name of lower-case letters, digits, "-" and "."',
      ),
      runDirectory: text("a directory for sockets and state, such as /run/twinrun").regex(/^\//, "an absolute path"),
      assignments: text('the path of the assignment file, or "kubernetes"'),
      kubernetes: z
        .strictObject(
          {
            namespace: text("the namespace of the GuestPairs").regex(
              /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/,
              "a namespace",
            ),
            kubeconfig: text("the path of a kubeconfig file").optional(),
            context: text("a context of the kubeconfig file").optional(),
          },
          {
            error: (issue) => (issue.code === "unrecognized_keys" ? undefined : "an object with namespace"),
          },
        )
        .optional(),
      quorum: z.array(endpoint, "the list of quorum endpoints").default([]),
      quorumService: text("the name of the quorum's Service").optional(),
      stateDirectory: text("a directory on the node's disk").regex(/^\//, "an absolute path").optional(),
      podLogsDirectory: text("kubelet's directory of pods' logs")
        .regex(/^\//, "an absolute path")
        .default("/var/log/pods"),
      tls: tlsFiles.optional(),
      // The dynamic linker takes spaces and colons for separators.
      shim: text("the path of the preload shim")
        .regex(/^[^\s:]+$/, "a path without spaces and colons")
        .optional(),
      heartbeatPort: port.optional(),
      uplinks: z
        .array(
          text("the name of an interface, or the path of a file").regex(
            /^(\/.+|[^/\s]{1,15})$/,
            "an interface or path",
          ),
        )
        .default([]),
      metrics: endpoint.optional(),
      traceDirectory: text("a directory for traces").optional(),
      cacheDirectory: text("a directory for compiled code").optional(),
      logLevel: z
        .enum(["debug", "info", "warn", "error", "silent"], "debug, info, warn, error or silent")
        .default("info"),
      stopTimeoutMs: z
        .int("the time for hand-overs at a stop")
        .min(0, "0 or more")
        .max(600_000, "at most 600000")
        .default(20_000),
    },
    {
      error: (issue) => (issue.code === "unrecognized_keys" ? undefined : "an object"),
    },
  )
  .superRefine(({ assignments, kubernetes, quorum, stateDirectory, tls }, context) => {
    if (tls === undefined && (assignments !== KUBERNETES || stateDirectory === undefined)) {
      context.addIssue({
        code: "custom",
        path: ["tls"],
        message: "must be an object with certPath, keyPath and caPath, found nothing",
      });
    }
    if (assignments === KUBERNETES && kubernetes === undefined) {
      context.addIssue({
        code: "custom",
        path: ["kubernetes"],
        message: "an object with the namespace of the GuestPairs",
      });
    }
    if (assignments !== KUBERNETES && quorum.length === 0) {
      context.addIssue({
        code: "custom",
        path: ["quorum"],
        message: "a list of at least one quorum endpoint",
      });
    }
  });

export type AgentConfig = z.output<typeof agentConfig>;

export function parseAgentConfig(value: unknown, subject: string): AgentConfig {
  return parseInput(agentConfig, value, subject);
}
