import { describe, expect, test } from "@jest/globals";
import { EventSeries } from "./event-series.ts";

const subject = { namespace: "a", name: "web", uid: "u" };

function open(): EventSeries {
  let count = 0;
  return new EventSeries(({ name }) => {
    count += 1;
    return `${name}.${count}`;
  });
}

describe("events", () => {
  test("the same one again becomes a count, at once for the second and then once a minute", () => {
    const series = open();
    expect(series.note("k", subject, 0)).toEqual({ tag: "create", name: "web.1" });
    expect(series.note("k", subject, 1_000)).toMatchObject({ tag: "count", namespace: "a", name: "web.1", count: 2 });
    expect(series.note("k", subject, 2_000)).toEqual({ tag: "later" });
    expect(series.hasUnwritten()).toBe(true);
    expect(series.takeDue(30_000)).toEqual([]);
    expect(series.takeDue(61_000)).toMatchObject([{ key: "k", count: 3 }]);
    expect(series.hasUnwritten()).toBe(false);
    expect(series.note("k", subject, 121_000)).toMatchObject({ tag: "count", count: 4 });
  });

  test("after a long silence, or when the event is gone, it is a new one", () => {
    const series = open();
    series.note("k", subject, 0);
    expect(series.note("k", subject, 360_000)).toEqual({ tag: "create", name: "web.2" });
    series.forget("k");
    expect(series.note("k", subject, 360_001)).toEqual({ tag: "create", name: "web.3" });
  });

  test("one object cannot fill the store, and others are not hurt by it", () => {
    const series = open();
    const tags = Array.from({ length: 30 }, (_, index) => series.note(`k${index}`, subject, 0).tag);
    expect(tags.filter((tag) => tag === "create")).toHaveLength(25);
    expect(series.note("other", { ...subject, uid: "v" }, 0).tag).toBe("create");
    expect(series.note("k99", subject, 30_000).tag).toBe("create");
    expect(series.note("k98", subject, 30_000).tag).toBe("drop");
  });
});
