// JSON with one entry a line; its strings and numbers stay as they were written.

const DEEPEST = 40; // what lies deeper is not indented further
const PART = /"(?:[^"\\]|\\.)*"|[^\s{}[\],:"]+|[{}[\],:]/g;

/** The text with other blanks; what is no whole JSON stays as it is. */
export function indented(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  return laidOut(text.match(PART));
}

function laidOut(parts) {
  let [made, depth] = ["", 0];
  const line = () => `\n${"  ".repeat(Math.min(depth, DEEPEST))}`;
  parts.forEach((part, i) => {
    const isEmpty = "]}".includes(part) && "[{".includes(parts[i - 1]);
    if ("]}".includes(part)) depth -= 1;
    if ("]}".includes(part) && !isEmpty) made += line();
    made += part === ":" ? ": " : part;
    if ("[{".includes(part)) depth += 1;
    const opens = "[{".includes(part) && !"]}".includes(parts[i + 1]);
    if (part === "," || opens) made += line();
  });
  return made;
}
