/** The latency contract and the timing of a failover, for the agent's file and for the resources alike. */
import { struct, wholeNumber } from "./fields.ts";
import { withRule } from "./structural.ts";

export const checkpointContract = withRule(
  struct({
    maxAddedLatencyMs: wholeNumber(1, 60_000)
      .default(50)
      .describe(
        "The most that protection may add to the guest's answers, in milliseconds. While it cannot be kept the guest is " +
          "slowed down, and the condition LatencyWithinBound is False while that does not suffice.",
      ),
    minIntervalMs: wholeNumber(1, 60_000)
      .default(5)
      .describe(
        "The shortest time between two checkpoints, in milliseconds: a busy guest gets at least this long to run.",
      ),
    maxIntervalMs: wholeNumber(1, 60_000)
      .default(1_000)
      .describe("The longest time between two checkpoints, in milliseconds: that of an idle guest."),
    resyncMiBPerSecond: wholeNumber(1, 100_000)
      .optional()
      .describe(
        "The most that a copy to a standby that is not in sync may take, in MiB a second; left out: as much as there is, " +
          "while the guest writes half of it.",
      ),
  }),
  {
    rule: "self.minIntervalMs <= self.maxIntervalMs",
    message: "must not be greater than maxIntervalMs",
    fieldPath: ".minIntervalMs",
  },
  ({ minIntervalMs, maxIntervalMs }) => minIntervalMs <= maxIntervalMs,
).describe("How often the guest's state goes to the standby.");

/**
 * Where the user sets none. To take a busy host for a lost one costs a FaultTolerant guest a moment, and one of HighAvailability
 * all that it had in memory.
 */
export const DETECTION_MS = { FaultTolerant: 500, HighAvailability: 2_000 } as const;

export const detectionTimeoutMs = wholeNumber(50, 60_000).describe(
  "The silence on every link, in milliseconds, after which the other side counts as lost; left out: " +
    `${DETECTION_MS.FaultTolerant} in FaultTolerant, ${DETECTION_MS.HighAvailability} in HighAvailability.`,
);

type Wish = {
  readonly mode: keyof typeof DETECTION_MS;
  readonly failover: { readonly detectionTimeoutMs?: number | undefined };
};

export const decideDetectionMs = ({ mode, failover }: Wish): number =>
  failover.detectionTimeoutMs ?? DETECTION_MS[mode];
