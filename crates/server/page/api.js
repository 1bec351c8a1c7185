// What the page asks of the server: the models, and chat completions as a stream.

import { events } from "./sse.js";

/** An answer that is an error; `status` is 0 where none came. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Fetches a path of this server; throws `ApiError` unless the answer is good, `AbortError` where it was stopped. */
export async function call(path, { key, body, signal } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server cannot be reached");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let message = `the server answered ${response.status}`;
  try {
    const said = (await response.json()).error;
    message = said?.message ?? (typeof said === "string" ? said : message);
  } catch {
    // Not JSON: the status says it.
  }
  const seconds = Number(response.headers.get("retry-after"));
  return new ApiError(response.status, message, seconds > 0 ? seconds : null);
}

export async function listModels(key) {
  return (await (await call("/v1/models", { key })).json()).data ?? [];
}

/** Yields the chunks of a streamed chat completion. */
export async function* complete(request, { key, signal }) {
  const response = await call("/v1/chat/completions", {
    key, signal, body: { ...request, stream: true, stream_options: { include_usage: true } },
  });
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.code ?? 500, chunk.error.message ?? "the answer broke off");
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0, `the answer broke off: ${error.message}`);
  }
  if (!ended) throw new ApiError(0, "the connection ended before the answer did");
}
