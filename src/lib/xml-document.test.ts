import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { findChild, parseXml, readAttribute, XmlEdits, XmlFailure } from "./xml-document.ts";

describe("reading", () => {
  test("elements know their place, attributes are decoded, what is opaque is skipped", () => {
    const text = `<?xml version='1.0'?>\n<!-- <x> --><a b="1 &lt; &#x32;" c='"'><d/><![CDATA[</a>]]><e:f></e:f></a>\n`;
    const root = parseXml(text);
    expect(root.children.map(({ name }) => name)).toEqual(["d", "e:f"]);
    expect([readAttribute(root, "b"), readAttribute(root, "c")]).toEqual(["1 < 2", '"']);
    expect(text.slice(root.start, root.end)).toBe(text.trimEnd().slice(text.indexOf("<a")));
    const [d, f] = root.children;
    expect([d, f].map((child) => text.slice(child?.start, child?.end))).toEqual(["<d/>", "<e:f></e:f>"]);
  });

  test.each([
    ["", "there is no element"],
    ["<a>", "<a> is never closed"],
    ["<a></b>", "</b> closes <a>"],
    ["<a/></a>", "</a> closes nothing"],
    ["<a/><b/>", "a second root element"],
    ["<a/>text", "text outside"],
    ["<a b=c/>", "<a> is not well-formed"],
    ["<a b='1' b='2'/>", "b is given twice"],
    ["<a b='<'/>", "<a> is not well-formed"],
    ["<a b='&nbsp;'/>", "&nbsp; is no reference"],
    ["<a b='&#x110000;'/>", "&#x110000; is no reference"],
    ["<a b='R & D'/>", "is no reference"],
    ["<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "document type"],
    ["<a><!-- </a>", "<!-- without -->"],
    ["<a>1 < 2</a>", "begins no tag"],
  ])("%s is refused", (text, says) => {
    expect(() => parseXml(text)).toThrow(says);
    expect(() => parseXml(text)).toThrow(XmlFailure);
  });

  test("the place of a mistake is told", () => {
    expect(() => parseXml("<a>\n  <b></c>\n</a>")).toThrow("line 2, column 6");
  });

  test("garbage makes nothing but an XmlFailure", () => {
    const piece = fc.constantFrom(
      "<",
      ">",
      "/",
      "a",
      "'",
      '"',
      "=",
      " ",
      "&",
      ";",
      "<a>",
      "</a>",
      "<!--",
      "-->",
      "<a b='c'/>",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
        try {
          parseXml(pieces.join(""));
        } catch (error) {
          expect(error).toBeInstanceOf(XmlFailure);
        }
      }),
    );
  });
});

describe("editing", () => {
  const edit = (text: string, change: (edits: XmlEdits) => void): string => {
    const edits = new XmlEdits(text);
    change(edits);
    return edits.apply();
  };

  test("without edits nothing changes", () => {
    const text = `<a  b = "1"\n/>`;
    expect(edit(text, (edits) => edits.setAttribute(parseXml(text), "b", "1"))).toBe(text);
  });

  test("attributes are replaced and added, and escaped", () => {
    const text = `<a b = "1" c="2"><d/></a>`;
    const root = parseXml(text);
    const edited = edit(text, (edits) => {
      edits.setAttribute(root, "b", `<'&\n>`);
      edits.setAttribute(root, "e", "3");
      for (const child of root.children) {
        edits.setAttribute(child, "f", "4");
        edits.setAttribute(child, "g", "5");
      }
    });
    expect(edited).toBe(`<a b='&lt;&apos;&amp;&#10;&gt;' c="2" e='3'><d f='4' g='5'/></a>`);
    expect(readAttribute(parseXml(edited), "b")).toBe(`<'&\n>`);
  });

  test.each([
    ["<a/>", "<a><x/><y/></a>"],
    ["<a ></a >", "<a ><x/><y/></a >"],
    ["<a>\n  <b/>\n</a>", "<a>\n  <b/>\n  <x/>\n  <y/>\n</a>"],
    ["<a>text<b/>tail</a>", "<a>text<b/><x/><y/>tail</a>"],
  ])("%s gets two children", (text, expected) => {
    const root = parseXml(text);
    const edited = edit(text, (edits) => {
      edits.append(root, "<x/>");
      edits.append(root, "<y/>");
    });
    expect(edited).toBe(expected);
    expect(findChild(parseXml(edited), "y")).toBeDefined();
  });
});
