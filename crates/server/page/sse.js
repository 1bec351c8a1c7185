// Server-sent events from a fetch: `EventSource` can send neither a body nor a key.

const LONGEST_LINE = 16 * 1024 * 1024; // characters; what a server sends beyond that is no event of ours

/** Yields the data of each event of a response's body. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an event without its empty line is cut off, and so dropped
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      if (rest.length > LONGEST_LINE) throw new Error("the server sent a line without an end");
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
