/**
 * Stories about the operator, as folders of commands and the timeline that has to come of them. UPDATE=1 writes the timelines
 * anew; what changed in them is to be read like code.
 *
 * Each story is told twice: the second time the operator dies after every single thing it does. The way there differs, what is
 * there in the end must not.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { Story } from "./story.ts";

const directory = import.meta.dirname;
const names = readdirSync(directory).filter((name) => existsSync(join(directory, name, "commands")));

describe.each(names)("%s", (name) => {
  const commands = readFileSync(join(directory, name, "commands"), "utf8");
  const expectedPath = join(directory, name, "timeline.txt");

  test("is told as expected", async () => {
    const story = new Story();
    await story.run(commands);
    const told = `${story.lines.join("\n")}\n`;
    if (process.env["UPDATE"] === "1") {
      writeFileSync(expectedPath, told);
    }
    expect(told).toBe(readFileSync(expectedPath, "utf8"));
  });

  test("ends the same with an operator that dies after every action", async () => {
    const [calm, deadly] = [new Story(), new Story(true)];
    await calm.run(commands);
    await deadly.run(commands);
    expect(deadly.names()).toEqual(calm.names());
    expect(deadly.ends()).toEqual(calm.ends());
  });
});
