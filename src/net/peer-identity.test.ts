import { expect, test } from "@jest/globals";
import { parsePeerIdentity } from "./peer-identity.ts";

test.each([
  { when: "a node", text: "URI:twinrun://node/host-a.example", is: "node host-a.example" },
  { when: "a quorum among host names", text: "DNS:q, IP Address:10.0.0.1, URI:twinrun://quorum/q1", is: "quorum q1" },
  { when: "nothing", text: undefined, is: "nobody" },
  { when: "only host names", text: "DNS:node-a", is: "nobody" },
  { when: "two identities", text: "URI:twinrun://node/a, URI:twinrun://node/b", is: "nobody" },
  { when: "an unknown service", text: "URI:twinrun://root/a", is: "nobody" },
  { when: "a path behind the name", text: "URI:twinrun://node/a/b", is: "nobody" },
  { when: "upper case", text: "URI:twinrun://node/A", is: "nobody" },
  { when: "a quoted entry that hides another", text: 'URI:"x, URI:twinrun://node/b, y"', is: "nobody" },
  { when: "a host name that looks like one", text: "DNS:twinrun://node/a", is: "nobody" },
])("$when speaks for $is", ({ text, is }) => {
  const identity = parsePeerIdentity(text);
  expect(identity === undefined ? "nobody" : `${identity.service} ${identity.name}`).toBe(is);
});
