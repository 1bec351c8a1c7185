// Arithmetic for the calculator: + - * / % ^ and brackets, by recursive descent. No code is ever evaluated.

const LONGEST = 1000; // characters
const DEEPEST = 100; // brackets and signs within each other

/** The value of an expression; throws an error that says where it stopped making sense. */
export function evaluate(text) {
  if (text.length > LONGEST) throw new Error(`expression longer than ${LONGEST} characters`);
  const source = text.replaceAll("\u00d7", "*").replaceAll("\u00f7", "/").replaceAll("\u2212", "-").replaceAll("**", "^");
  let at = 0;
  let depth = 0;

  const peek = () => {
    while (source[at] === " ") at += 1;
    return source[at];
  };
  const fail = () => {
    throw new Error(at < source.length ? `unexpected "${source[at]}" at character ${at + 1}` : "the expression ends too early");
  };

  function sum() {
    let value = product();
    for (let op = peek(); op === "+" || op === "-"; op = peek()) {
      at += 1;
      value = op === "+" ? value + product() : value - product();
    }
    return value;
  }

  function product() {
    let value = signed();
    for (let op = peek(); op === "*" || op === "/" || op === "%"; op = peek()) {
      at += 1;
      const right = signed();
      value = op === "*" ? value * right : op === "/" ? value / right : value % right;
    }
    return value;
  }

  function signed() {
    const op = peek();
    if (op !== "-" && op !== "+") return power();
    at += 1;
    return nested(() => (op === "-" ? -signed() : signed()));
  }

  function power() {
    const base = atom();
    if (peek() !== "^") return base;
    at += 1;
    return nested(() => base ** signed());
  }

  function atom() {
    if (peek() === "(") {
      at += 1;
      const value = nested(sum);
      if (peek() !== ")") fail();
      at += 1;
      return value;
    }
    const number = /(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?/iy;
    number.lastIndex = at;
    const match = number.exec(source);
    if (!match) fail();
    at = number.lastIndex;
    return Number(match[0]);
  }

  function nested(rule) {
    depth += 1;
    if (depth > DEEPEST) throw new Error("too many brackets");
    const value = rule();
    depth -= 1;
    return value;
  }

  const value = sum();
  if (peek() !== undefined) fail();
  if (!Number.isFinite(value)) throw new Error("the result is no finite number");
  return Number(value.toPrecision(12)); // 0.1 + 0.2 is 0.3 to a person
}
