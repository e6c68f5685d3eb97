/** Explores every configuration to its end and prints what it found; exits with 1 when a rule was broken. */
import { configurations, runConfiguration } from "./configurations.ts";

const wanted = process.argv.slice(2);
let failed = 0;
for (const configuration of configurations.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  const startedMs = performance.now();
  const found = runConfiguration(configuration);
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  const { worldsCount, movesCount, depth, isComplete, protectedCount, coldBootsCount } = found;
  const counts = `${worldsCount} states, ${movesCount} transitions, depth ${depth}, ${protectedCount} protected, ${coldBootsCount} cold boots`;
  const memory = Math.round(process.memoryUsage().rss / 1e6);
  process.stdout.write(
    `${configuration.name}: ${counts}, ${seconds} s, ${memory} MB${isComplete ? "" : ", NOT TO THE END"}\n`,
  );
  const bad = found.violation ?? found.deadlock;
  if (bad !== undefined || !isComplete) {
    failed += 1;
    bad?.trace.forEach((line, index) => {
      process.stdout.write(`  ${index + 1}. ${line}\n`);
    });
    process.stdout.write(`  ${bad === undefined ? "out of room" : `BROKEN: ${bad.says}`}\n`);
  }
}
process.exitCode = failed === 0 ? 0 : 1;
