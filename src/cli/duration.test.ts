import { describe, expect, test } from "@jest/globals";
import { parseDuration, writeAge, writeAgeOf } from "./duration.ts";

const [second, minute, hour, day] = [1_000, 60_000, 3_600_000, 86_400_000];

describe("an age is written as kubectl writes it", () => {
  test.each([
    { ms: -1, age: "0s" },
    { ms: -5 * second, age: "<invalid>" },
    { ms: NaN, age: "<invalid>" },
    { ms: 119 * second, age: "119s" },
    { ms: 2 * minute, age: "2m" },
    { ms: 9 * minute + 59 * second, age: "9m59s" },
    { ms: 10 * minute + 59 * second, age: "10m" },
    { ms: 179 * minute, age: "179m" },
    { ms: 3 * hour + 5 * minute, age: "3h5m" },
    { ms: 8 * hour, age: "8h" },
    { ms: 47 * hour, age: "47h" },
    { ms: 2 * day + 3 * hour, age: "2d3h" },
    { ms: 8 * day + 3 * hour, age: "8d" },
    { ms: 729 * day, age: "729d" },
    { ms: 730 * day + 3 * day, age: "2y3d" },
    { ms: 9 * 365 * day, age: "9y" },
  ])("$ms ms: $age", ({ ms, age }) => {
    expect(writeAge(ms)).toBe(age);
  });

  test("of a time that is not there it is unknown", () => {
    expect(writeAgeOf(undefined, 0)).toBe("<unknown>");
  });
});

describe("a duration", () => {
  test.each([
    { text: "30", ms: 30 * second },
    { text: "500ms", ms: 500 },
    { text: "1h30m", ms: 90 * minute },
    { text: "0", ms: 0 },
    { text: "", ms: undefined },
    { text: "1.5s", ms: undefined },
    { text: "5 m", ms: undefined },
    { text: "-1s", ms: undefined },
    { text: "m5", ms: undefined },
  ])("$text", ({ text, ms }) => {
    expect(parseDuration(text)).toBe(ms);
  });
});
