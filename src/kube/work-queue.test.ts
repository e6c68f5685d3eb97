import { afterEach, describe, expect, test } from "@jest/globals";
import { sleep } from "../telemetry/sleep.ts";
import { WorkQueue, type WorkQueueOptions } from "./work-queue.ts";

const never = new AbortController().signal;
const queues: WorkQueue[] = [];
const open = (options: WorkQueueOptions): WorkQueue => {
  const queue = new WorkQueue({ backoff: { minMs: 5, maxMs: 20 }, ...options });
  queues.push(queue);
  return queue;
};
const until = async (holds: () => boolean): Promise<void> => {
  while (!holds()) {
    await sleep(2, never);
  }
};

afterEach(async () => {
  await Promise.all(queues.splice(0).map((queue) => queue.stop()));
});

describe("the work queue", () => {
  test("works on nothing before it was started, and then on as many at a time as it has workers", async () => {
    let activeCount = 0;
    let activeMax = 0;
    const worked: string[] = [];
    const queue = open({
      workerCount: 3,
      work: async (key) => {
        activeCount += 1;
        activeMax = Math.max(activeMax, activeCount);
        await sleep(2, never);
        activeCount -= 1;
        worked.push(key);
        return undefined;
      },
    });
    const keys = Array.from({ length: 20 }, (_, index) => `key-${index}`);
    keys.forEach((key) => queue.add(key));
    await sleep(10, never);
    expect(worked).toEqual([]);
    queue.start();
    await until(() => worked.length === 20);
    expect([...worked].sort()).toEqual([...keys].sort());
    expect(activeMax).toBe(3);
  });

  test("tries again what failed, and looks again when asked to", async () => {
    let runs = 0;
    const finished: boolean[] = [];
    const queue = open({
      work: async () => {
        runs += 1;
        if (runs < 3) {
          throw new Error("not yet");
        }
        return runs < 6 ? 1 : undefined;
      },
      onFinished: ({ isFailed }) => finished.push(isFailed),
    });
    queue.start();
    queue.add("a");
    await until(() => runs === 6);
    await sleep(30, never);
    expect(finished).toEqual([true, true, false, false, false, false]);
  });

  test("a far time is waited for although other keys come and go", async () => {
    const worked: string[] = [];
    const queue = open({
      work: async (key) => {
        worked.push(key);
        return undefined;
      },
    });
    queue.start();
    queue.add("late", 40);
    queue.add("now");
    await until(() => worked.length === 2);
    expect(worked).toEqual(["now", "late"]);
  });

  test("stop tells the runs, waits for them and begins no other", async () => {
    let isEnded = false;
    const queue = open({
      workerCount: 1,
      work: async (_key, signal) => {
        await sleep(60_000, signal);
        await sleep(10, never);
        isEnded = true;
        return 1;
      },
    });
    queue.start();
    queue.add("a");
    queue.add("b");
    await until(() => queue.activeCount === 1);
    await queue.stop();
    expect(isEnded).toBe(true);
    expect(queue.activeCount).toBe(0);
    expect(queue.waitingCount).toBe(2);
  });
});
