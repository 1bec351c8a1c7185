// The official `openai` package for node against a running `flashmill serve demo`.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const root = process.env.FLASHMILL_URL;
const client = new OpenAI({ baseURL: `${root}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const user = (content) => [{ role: "user", content }];
const CHAT = "What is a mixture of experts?";
const weather = {
  type: "function",
  function: { name: "get_weather", description: "Get the weather of a place", parameters: { type: "object", properties: { city: { type: "string", description: "City name" } }, required: ["city"] } },
};
const ask = (fields) => client.chat.completions.create({ model: "demo", temperature: 0, messages: user(CHAT), ...fields });

test("a stream says what the whole answer says", async () => {
  const whole = await ask({});
  let said = "";
  let usage = null;
  for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
    said += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(said, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  assert.equal(whole.choices[0].finish_reason, "stop");
});

test("tools in two turns", async () => {
  const first = await ask({ messages: user("What's the weather in Oslo?"), tools: [weather] });
  const [call] = first.choices[0].message.tool_calls;
  assert.equal(first.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
  const messages = [...user("What's the weather in Oslo?"), first.choices[0].message, { role: "tool", tool_call_id: call.id, content: '{"temperature": 21, "sky": "sunny"}' }];
  const second = await ask({ messages, tools: [weather] });
  assert.match(second.choices[0].message.content, /21/);
  assert.match(second.choices[0].message.content, /sunny/);
});

test("the package's own loop of tools, streamed, with two calls", async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    model: "demo", temperature: 0, stream: true,
    messages: user("How is the weather in Lima today and what's the weather in Tokyo?"),
    tools: [{ type: "function", function: { ...weather.function, parse: JSON.parse, function: ({ city }) => { asked.push(city); return { temperature: 9, sky: "windy" }; } } }],
  });
  assert.match(await runner.finalContent(), /9 degrees/);
  assert.deepEqual(asked, ["Lima", "Tokyo"]);
});

test("a JSON schema holds", async () => {
  const schema = { type: "object", properties: { sky: { type: "string", enum: ["sunny", "rainy"] }, degrees: { type: "integer", minimum: 0, maximum: 40 } }, required: ["sky", "degrees"], additionalProperties: false };
  const answer = await ask({ messages: user("Weather as JSON"), max_tokens: 200, response_format: { type: "json_schema", json_schema: { name: "weather", schema, strict: true } } });
  const value = JSON.parse(answer.choices[0].message.content);
  assert.ok(schema.properties.sky.enum.includes(value.sky) && Number.isInteger(value.degrees) && value.degrees >= 0 && value.degrees <= 40);
});

test("the responses API, streamed", async () => {
  const stream = client.responses.stream({ model: "demo", input: CHAT, temperature: 0, store: false });
  let said = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") said += event.delta;
  assert.equal((await stream.finalResponse()).output_text, said);
  assert.notEqual(said, "");
});

test("a stream that is left stops, and the next answer comes", async () => {
  const stream = await ask({ stream: true });
  for await (const _ of stream) break;
  stream.controller.abort();
  assert.equal((await ask({})).choices[0].finish_reason, "stop");
});

test("errors have their classes", async () => {
  await assert.rejects(ask({ messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.chat.completions.create({ model: "demo", messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }] }] }), /image/);
  await assert.rejects(client.get("/nothing"), OpenAI.NotFoundError);
  const locked = new OpenAI({ baseURL: `${process.env.FLASHMILL_LOCKED_URL}/v1`, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(locked.models.list(), OpenAI.AuthenticationError);
});
