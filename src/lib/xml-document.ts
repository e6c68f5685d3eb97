/**
 * Reads an XML text into elements that know where they stand, and edits the text in place.
 *
 * Why not a library: those at hand write a document anew from their tree, and so may change the quotes, escapes and order of
 * elements that nobody here knows. libvirt and KubeVirt add such elements with every version. Here what is not edited stays
 * as it is, byte for byte.
 *
 * What it reads: XML 1.0 without a document type (no document of libvirt or OVF has one, and entities are a way to attack a
 * reader): elements, attributes, text, CDATA, comments, processing instructions, the five named and all numeric references. What
 * is not well-formed is refused with its line and column.
 */
import { Failure } from "./failure.ts";

export type XmlAttribute = {
  readonly name: string;
  readonly value: string;
  readonly start: number;
  readonly end: number;
};

export type XmlElement = {
  readonly name: string;
  readonly attributes: readonly XmlAttribute[];
  readonly children: readonly XmlElement[];
  /** Offset of the `<` of the start tag. */
  readonly start: number;
  /** Offset behind the `>` of the start tag. */
  readonly openEnd: number;
  /** Offset of the `<` of the end tag; where there is none (`<a/>`) the same as `end`. */
  readonly closeStart: number;
  readonly end: number;
};

export class XmlFailure extends Failure<{ readonly code: "XmlMalformed"; readonly offset: number }> {
  static at(text: string, offset: number, says: string): XmlFailure {
    const lines = text.slice(0, offset).split("\n");
    const place = `line ${lines.length}, column ${(lines.at(-1)?.length ?? 0) + 1}`;
    return new XmlFailure({ code: "XmlMalformed", offset }, `not well-formed XML at ${place}: ${says}`);
  }
}

type OpenElement = { -readonly [Key in keyof XmlElement]: XmlElement[Key] } & { readonly children: XmlElement[] };

const START_TAG = /<([A-Za-z_:\u0080-\uffff][\w:.\u0080-\uffff-]*)/y;
const ATTRIBUTE = /\s+([A-Za-z_:\u0080-\uffff][\w:.\u0080-\uffff-]*)\s*=\s*("[^"<]*"|'[^'<]*')/y;
const START_TAG_END = /\s*(\/?)>/y;
const END_TAG = /<\/([^\s>]+)\s*>/y;
const TEXT = /[^<]+/y;
/** What begins so ends so and holds no elements. */
const OPAQUE = [
  ["<!--", "-->"],
  ["<![CDATA[", "]]>"],
  ["<?", "?>"],
] as const;
const ENTITIES: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** The root element; throws an {@link XmlFailure}. */
export function parseXml(text: string): XmlElement {
  return new XmlReader(text).read();
}

class XmlReader {
  readonly #text: string;
  readonly #open: OpenElement[] = [];
  #root: OpenElement | undefined;
  #at: number;

  constructor(text: string) {
    this.#text = text;
    this.#at = text.startsWith("\ufeff") ? 1 : 0;
  }

  read(): XmlElement {
    while (this.#at < this.#text.length) {
      if (this.#text[this.#at] !== "<") {
        this.#readText();
      } else if (this.#text.startsWith("</", this.#at)) {
        this.#readEndTag();
      } else if (!this.#skipOpaque()) {
        this.#readStartTag();
      }
    }
    const unclosed = this.#open.at(-1);
    if (unclosed !== undefined) {
      throw XmlFailure.at(this.#text, unclosed.start, `<${unclosed.name}> is never closed`);
    }
    return this.#root ?? this.#fail("there is no element");
  }

  #readText(): void {
    const said = this.#match(TEXT)?.[0] ?? "";
    if (this.#open.length === 0 && said.trim() !== "") {
      this.#at -= said.trimStart().length;
      this.#fail("text outside the root element");
    }
  }

  #skipOpaque(): boolean {
    const kind = OPAQUE.find(([begin]) => this.#text.startsWith(begin, this.#at));
    if (kind === undefined) {
      return false;
    }
    const [begin, end] = kind;
    const endAt = this.#text.indexOf(end, this.#at + begin.length);
    if (endAt < 0) {
      this.#fail(`${begin} without ${end}`);
    }
    this.#at = endAt + end.length;
    return true;
  }

  #readStartTag(): void {
    const start = this.#at;
    if (this.#text.startsWith("<!", start)) {
      this.#fail("a document type or other declaration; none belongs here");
    }
    const name = this.#match(START_TAG)?.[1] ?? this.#fail("a < that begins no tag; write &lt; in text");
    if (this.#open.length === 0 && this.#root !== undefined) {
      this.#at = start;
      this.#fail("a second root element");
    }
    const attributes = this.#readAttributes();
    const tagEnd = this.#match(START_TAG_END) ?? this.#fail(`the tag <${name}> is not well-formed here`);
    const at = this.#at;
    const element: OpenElement = { name, attributes, children: [], start, openEnd: at, closeStart: at, end: at };
    this.#open.at(-1)?.children.push(element);
    this.#root ??= element;
    if (tagEnd[1] === "") {
      this.#open.push(element);
    }
  }

  #readAttributes(): readonly XmlAttribute[] {
    const attributes: XmlAttribute[] = [];
    for (let found = this.#match(ATTRIBUTE); found !== undefined; found = this.#match(ATTRIBUTE)) {
      const [whole, name = "", quoted = ""] = found;
      const end = this.#at;
      if (attributes.some((earlier) => earlier.name === name)) {
        this.#fail(`the attribute ${name} is given twice`);
      }
      const value = this.#decode(quoted.slice(1, -1));
      attributes.push({ name, value, start: end - whole.trimStart().length, end });
    }
    return attributes;
  }

  #readEndTag(): void {
    const closeStart = this.#at;
    const name = this.#match(END_TAG)?.[1] ?? this.#fail("an end tag that does not end");
    const element = this.#open.pop();
    if (element?.name !== name) {
      this.#at = closeStart;
      this.#fail(`</${name}> closes ${element === undefined ? "nothing" : `<${element.name}>`}`);
    }
    element.closeStart = closeStart;
    element.end = this.#at;
  }

  #decode(value: string): string {
    return value.replaceAll(/&([^;]*);?/g, (whole, reference: string) => {
      const decoded = decodeReference(reference);
      return whole.endsWith(";") && decoded !== undefined ? decoded : this.#fail(`${whole} is no reference known here`);
    });
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text) ?? undefined;
    this.#at += found?.[0].length ?? 0;
    return found;
  }

  #fail(says: string): never {
    throw XmlFailure.at(this.#text, this.#at, says);
  }
}

/** What stands between `&` and `;`. */
function decodeReference(reference: string): string | undefined {
  const [, digits, hexDigits] = /^#(?:([0-9]{1,7})|x([0-9a-fA-F]{1,6}))$/.exec(reference) ?? [];
  const code = digits === undefined ? Number.parseInt(hexDigits ?? "", 16) : Number(digits);
  return code <= 0x10_ff_ff ? String.fromCodePoint(code) : ENTITIES[reference];
}

/** The decoded text of an element of `text` that has no children; a reference that is not known stays as it is. */
export function readXmlText(text: string, { openEnd, closeStart, children }: XmlElement): string | undefined {
  if (children.length > 0) {
    return undefined;
  }
  const opaque = /<!--[^]*?-->|<[?][^]*?[?]>|<!\[CDATA\[([^]*?)\]\]>|&([^;<&]*);/g;
  return text
    .slice(openEnd, closeStart)
    .replaceAll(opaque, (whole, data: string | undefined, reference: string | undefined) =>
      reference === undefined ? (data ?? "") : (decodeReference(reference) ?? whole),
    );
}

/** The decoded value of an attribute. */
export function readAttribute(element: XmlElement | undefined, name: string): string | undefined {
  return element?.attributes.find((attribute) => attribute.name === name)?.value;
}

export function findChild(element: XmlElement | undefined, name: string): XmlElement | undefined {
  return element?.children.find((child) => child.name === name);
}

export function listChildren(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  return element?.children.filter((child) => child.name === name) ?? [];
}

/** Text for an attribute value in single quotes. */
export function escapeXml(value: string): string {
  const escapes: Readonly<Record<string, string>> = { "<": "&lt;", ">": "&gt;", "&": "&amp;", "'": "&apos;" };
  return value.replaceAll(/[<>&'\t\n\r]/g, (character) => escapes[character] ?? `&#${character.charCodeAt(0)};`);
}

type Splice = { readonly at: number; readonly removed: number; readonly inserted: string };

/** Edits of one document, collected and then carried out at once. Edits of what is there already change nothing. */
export class XmlEdits {
  readonly #text: string;
  readonly #splices: Splice[] = [];
  readonly #appended = new Map<XmlElement, string[]>();

  constructor(text: string) {
    this.#text = text;
  }

  setAttribute(element: XmlElement, name: string, value: string): void {
    const written = `${name}='${escapeXml(value)}'`;
    const found = element.attributes.find((attribute) => attribute.name === name);
    if (found === undefined) {
      const at = element.attributes.at(-1)?.end ?? element.start + 1 + element.name.length;
      this.#splices.push({ at, removed: 0, inserted: ` ${written}` });
    } else if (found.value !== value) {
      this.#splices.push({ at: found.start, removed: found.end - found.start, inserted: written });
    }
  }

  /** Puts well-formed XML behind the last child, on a line of its own where the children have lines of their own. */
  append(element: XmlElement, fragment: string): void {
    const earlier = this.#appended.get(element);
    if (earlier === undefined) {
      this.#appended.set(element, [fragment]);
    } else {
      earlier.push(fragment);
    }
  }

  apply(): string {
    const appends = [...this.#appended].map(([element, fragments]) => this.#spliceOf(element, fragments));
    const splices = [...this.#splices, ...appends].sort((a, b) => a.at - b.at);
    let result = "";
    let at = 0;
    for (const { at: start, removed, inserted } of splices) {
      result += this.#text.slice(at, start) + inserted;
      at = start + removed;
    }
    return result + this.#text.slice(at);
  }

  #spliceOf(element: XmlElement, fragments: readonly string[]): Splice {
    const { children, openEnd, closeStart, end, name } = element;
    if (closeStart === openEnd && end === openEnd) {
      const inserted = `>${fragments.join("")}</${name}>`;
      const tagEnd = this.#text.lastIndexOf("/", openEnd);
      return { at: tagEnd, removed: openEnd - tagEnd, inserted };
    }
    const before = this.#text.slice(openEnd, children[0]?.start ?? openEnd);
    const separator = before.trim() === "" ? before : "";
    const inserted = fragments.map((fragment) => separator + fragment).join("");
    return { at: children.at(-1)?.end ?? closeStart, removed: 0, inserted };
  }
}
