// A small, safe part of Markdown as DOM nodes: paragraphs, lists, quotes, headings, code, emphasis, links. Text is only ever
// text: nothing here makes HTML out of a string.

const FENCE = /^ {0,3}(```|~~~)/;
const BULLET = /^ {0,3}[-*+] +(.*)$/;
const NUMBER = /^ {0,3}(\d{1,9})[.)] +(.*)$/;
const HEADING = /^ {0,3}(#{1,6}) +(.+?)(?: +#+)?$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const INLINE = /`([^`\n]+)`|\*\*(?=\S)([\s\S]+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])|\[([^\]\n]+)\]\(([^()\s]+)\)|(https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]])/;

// The blocks of a text, each as its source: a streamed text changes in its last block only, so the others can stay as they are.
export function blocks(text) {
  const found = [];
  let lines = [];
  let fence = "";
  const flush = () => {
    if (lines.length) found.push(lines.join("\n"));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (fence) {
      lines.push(line);
      if (mark === fence) {
        fence = "";
        flush();
      }
    } else if (mark) {
      flush();
      fence = mark;
      lines.push(line);
    } else if (line.trim() === "") {
      flush();
    } else {
      if (lines.length && kind(line) !== kind(lines[0]) && !continues(line, lines[0])) flush();
      lines.push(line);
    }
  }
  flush();
  return found;
}

// One block as an element.
export function element(source) {
  const lines = source.split("\n");
  switch (kind(lines[0])) {
    case "code": {
      const closed = lines.length > 1 && FENCE.test(lines.at(-1));
      const code = make("code", [lines.slice(1, closed ? -1 : undefined).join("\n")]);
      const pre = make("pre", [code]);
      pre.tabIndex = 0; // so that a keyboard can scroll it
      return pre;
    }
    case "bullet":
      return make("ul", items(lines, BULLET, 1).map((item) => make("li", inline(item))));
    case "number": {
      const list = make("ol", items(lines, NUMBER, 2).map((item) => make("li", inline(item))));
      list.start = Number(NUMBER.exec(lines[0])[1]);
      return list;
    }
    case "heading":
      return make("p", [make("strong", inline(HEADING.exec(lines[0])[2]))]);
    case "quote":
      return make("blockquote", inline(lines.map((line) => QUOTE.exec(line)?.[1] ?? line).join("\n")));
    default:
      return make("p", inline(source));
  }
}

function kind(line) {
  if (FENCE.test(line)) return "code";
  if (BULLET.test(line)) return "bullet";
  if (NUMBER.test(line)) return "number";
  if (HEADING.test(line)) return "heading";
  return QUOTE.test(line) ? "quote" : "text";
}

// Whether a line of text belongs to the list item above it.
function continues(line, first) {
  return kind(line) === "text" && ["bullet", "number"].includes(kind(first)) && /^\s/.test(line);
}

function items(lines, pattern, group) {
  const found = [];
  for (const line of lines) {
    const match = pattern.exec(line);
    if (match) found.push(match[group]);
    else found[found.length - 1] += `\n${line.trim()}`;
  }
  return found;
}

function inline(text) {
  const nodes = [];
  let rest = text;
  while (rest) {
    const match = INLINE.exec(rest);
    if (!match) {
      nodes.push(rest);
      break;
    }
    const [whole, code, strong, emphasis, label, address, bare] = match;
    if (match.index) nodes.push(rest.slice(0, match.index));
    if (code !== undefined) nodes.push(make("code", [code]));
    else if (strong !== undefined) nodes.push(make("strong", inline(strong)));
    else if (emphasis !== undefined) nodes.push(make("em", inline(emphasis)));
    else nodes.push(link(address ?? bare, label ?? bare) ?? whole);
    rest = rest.slice(match.index + whole.length);
  }
  return nodes;
}

// A link, or null where the address is not one that may be followed.
function link(address, label) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!["https:", "http:", "mailto:"].includes(url.protocol)) return null;
  const anchor = make("a", [label]);
  anchor.href = url.href;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  return anchor;
}

function make(name, children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
