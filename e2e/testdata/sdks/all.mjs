// Calls by the SDKs for Node. Prints the calls and tokens that each provider told, and the streams that
// were left after thirty of a hundred tokens.
import { createRequire } from "node:module";

const require = createRequire(process.env.PACKAGES + "/");
const OpenAI = require("openai").default;
const Anthropic = require("@anthropic-ai/sdk").default;
const { GoogleGenAI } = await import(require.resolve("@google/genai"));
const { generateText, streamText, embed, tool, jsonSchema, Output } = await import(require.resolve("ai"));
const { createOpenAI } = await import(require.resolve("@ai-sdk/openai"));

const gateway = process.env.GATEWAY;
const key = process.env.OPENAI_API_KEY;
const tiny = process.env.TINY_KEY; // of an account of few tokens
const leaver = process.env.LEAVER_KEY; // of who leaves streams
const told = { openai: [0, 0], anthropic: [0, 0], gemini: [0, 0] };
const left = { openai: 0, anthropic: 0, gemini: 0 };
const stalled = { "x-stub-stall-after-chunks": "30" };
const story = "a story [[tokens=100]]";
const leak = { type: "object", properties: { place: { type: "string" }, litres: { type: "integer" } }, required: ["place", "litres"],
  additionalProperties: false };

function isLeak(value) {
  if (typeof value.place !== "string" || !Number.isInteger(value.litres)) throw new Error("no leak: " + JSON.stringify(value));
}

// leave reads thirty pieces that carry tokens, and ends the call.
async function leave(provider, stream, carries, end) {
  let pieces = 0;
  for await (const piece of stream) if (carries(piece) && ++pieces === 30) break;
  if (pieces !== 30) throw new Error(provider + " sent " + pieces + " pieces");
  if (end) end();
  left[provider] += 1;
}

function count(provider, tokens) {
  if (!(tokens > 0)) throw new Error(provider + " told " + tokens);
  told[provider][0] += 1;
  told[provider][1] += tokens;
}

async function refused(status, call) {
  try {
    await call();
  } catch (error) {
    if ((error.status ?? error.statusCode) === status) return;
    throw error;
  }
  throw new Error("a " + status + " was expected");
}

async function byOpenAI() {
  const client = new OpenAI();
  const chat = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello [[tokens=17]]" }] };
  count("openai", (await client.chat.completions.create(chat)).usage.total_tokens);
  let last;
  for await (const chunk of await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })) last = chunk;
  count("openai", last.usage.total_tokens);
  const look = { type: "function", function: { name: "look", parameters: { type: "object" } } };
  const called = await client.chat.completions.create({ ...chat, tools: [look], tool_choice: "required" });
  if (called.choices[0].message.tool_calls[0].function.name !== "look") throw new Error("no call");
  count("openai", called.usage.total_tokens);
  const shaped = await client.chat.completions.parse({ ...chat, response_format: { type: "json_schema", json_schema: { name: "leak", schema: leak, strict: true } } });
  isLeak(JSON.parse(shaped.choices[0].message.content));
  count("openai", shaped.usage.total_tokens);
  const formed = await client.responses.parse({ model: "gpt-4o-mini", input: "hello", text: { format: { type: "json_schema", name: "leak", schema: leak, strict: true } } });
  isLeak(JSON.parse(formed.output_text));
  count("openai", formed.usage.total_tokens);
  const answer = await client.responses.create({ model: "gpt-4o-mini", input: "hello [[tokens=17]]" });
  count("openai", answer.usage.total_tokens);
  const final = await client.responses.stream({ model: "gpt-4o-mini", input: "hello [[tokens=17]]" }).finalResponse();
  if (final.output_text !== answer.output_text) throw new Error("the stream has another text: " + final.output_text);
  count("openai", final.usage.total_tokens);
  count("openai", (await client.embeddings.create({ model: "text-embedding-3-small", input: "x" })).usage.total_tokens);
  if ((await client.models.retrieve("gpt-4o-mini")).id !== "gpt-4o-mini") throw new Error("no model");
  await refused(404, () => client.chat.completions.create({ ...chat, model: "nope" }));
  await refused(400, () => client.responses.create({ model: "gpt-4o-mini", input: "x", background: true }));
  await refused(401, () => new OpenAI({ apiKey: "leaky_no" }).models.list());
  await refused(429, () => new OpenAI({ apiKey: tiny }).chat.completions.create({ ...chat, max_tokens: 5000 }));
  let listed = false;
  for await (const model of client.models.list()) listed ||= model.id === "gpt-4o-mini";
  if (!listed) throw new Error("the list lacks a model");
  const leaving = new OpenAI({ apiKey: leaver, defaultHeaders: stalled });
  const chunks = await leaving.chat.completions.create({ model: "gpt-4o-mini", stream: true, messages: [{ role: "user", content: story }] });
  await leave("openai", chunks, (c) => c.choices[0]?.delta.content, () => chunks.controller.abort());
  const events = await leaving.responses.create({ model: "gpt-4o-mini", stream: true, input: story });
  await leave("openai", events, (e) => e.type === "response.output_text.delta", () => events.controller.abort());
}

async function byAnthropic() {
  const client = new Anthropic({ baseURL: gateway, apiKey: key });
  const ask = { model: "claude-haiku-4-5", max_tokens: 64, messages: [{ role: "user", content: "hello [[tokens=17]]" }] };
  const answer = await client.messages.create(ask);
  count("anthropic", answer.usage.input_tokens + answer.usage.output_tokens);
  const final = await client.messages.stream(ask).finalMessage();
  if (final.content[0].text !== answer.content[0].text) throw new Error("the stream has another text");
  count("anthropic", final.usage.input_tokens + final.usage.output_tokens);
  const called = await client.messages.create({ ...ask, tools: [{ name: "look", input_schema: { type: "object" } }], tool_choice: { type: "any" } });
  if (called.content[0].name !== "look") throw new Error("no call");
  count("anthropic", called.usage.input_tokens + called.usage.output_tokens);
  const formed = await client.messages.create({ ...ask, output_config: { format: { type: "json_schema", schema: leak } } });
  isLeak(JSON.parse(formed.content[0].text));
  count("anthropic", formed.usage.input_tokens + formed.usage.output_tokens);
  let listed = false;
  for await (const model of client.models.list()) listed ||= model.id === ask.model;
  if (!listed) throw new Error("the list lacks a model");
  if ((await client.messages.countTokens({ model: ask.model, messages: ask.messages })).input_tokens !== 5) throw new Error("another count");
  if ((await client.models.retrieve(ask.model)).id !== ask.model) throw new Error("no model");
  await refused(404, () => client.messages.create({ ...ask, model: "claude-nope" }));
  await refused(401, () => new Anthropic({ baseURL: gateway, apiKey: "leaky_no" }).messages.create(ask));
  await refused(429, () => new Anthropic({ baseURL: gateway, apiKey: tiny }).messages.create({ ...ask, max_tokens: 5000 }));
  const leaving = new Anthropic({ baseURL: gateway, apiKey: leaver, defaultHeaders: stalled });
  const events = await leaving.messages.create({ ...ask, max_tokens: 200, stream: true, messages: [{ role: "user", content: story }] });
  await leave("anthropic", events, (e) => e.type === "content_block_delta", () => events.controller.abort());
}

async function byGoogle() {
  const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: gateway } });
  const ask = { model: "gemini-2.5-flash", contents: "hello [[tokens=17]]" };
  count("gemini", (await client.models.generateContent(ask)).usageMetadata.totalTokenCount);
  let last;
  for await (const chunk of await client.models.generateContentStream(ask)) last = chunk;
  count("gemini", last.usageMetadata.totalTokenCount);
  const look = { functionDeclarations: [{ name: "look", parametersJsonSchema: { type: "object" } }] };
  const called = await client.models.generateContent({ ...ask, config: { tools: [look], toolConfig: { functionCallingConfig: { mode: "ANY" } } } });
  if (called.functionCalls[0].name !== "look") throw new Error("no call");
  count("gemini", called.usageMetadata.totalTokenCount);
  const formed = await client.models.generateContent({ ...ask, config: { responseMimeType: "application/json", responseJsonSchema: leak } });
  isLeak(JSON.parse(formed.text));
  count("gemini", formed.usageMetadata.totalTokenCount);
  let listed = false;
  for await (const model of await client.models.list()) listed ||= model.name === "models/gemini-2.5-flash";
  if (!listed || (await client.models.get({ model: ask.model })).name !== "models/" + ask.model) throw new Error("the list lacks a model");
  if ((await client.models.countTokens(ask)).totalTokens !== 5) throw new Error("another count");
  await client.models.embedContent({ model: "gemini-embedding-001", contents: "12345678" });
  count("gemini", 2);
  await refused(404, () => client.models.generateContent({ ...ask, model: "gemini-nope" }));
  const by = (apiKey, headers) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl: gateway, headers } });
  await refused(401, () => by("leaky_no").models.generateContent(ask));
  await refused(429, () => by(tiny).models.generateContent({ ...ask, config: { maxOutputTokens: 5000 } }));
  const enough = new AbortController();
  const pieces = await by(leaver, stalled).models.generateContentStream({ ...ask, contents: story, config: { abortSignal: enough.signal } });
  await leave("gemini", pieces, () => true, () => enough.abort());
}

async function byAISDK() {
  const openai = createOpenAI({ baseURL: gateway + "/v1", apiKey: key });
  const model = openai("gpt-4o-mini");
  count("openai", (await generateText({ model, prompt: "hello [[tokens=17]]" })).usage.totalTokens);
  const stream = streamText({ model, prompt: "hello [[tokens=17]]" });
  for await (const _ of stream.textStream);
  count("openai", (await stream.usage).totalTokens);
  const look = tool({ inputSchema: jsonSchema({ type: "object" }) });
  const called = await generateText({ model, prompt: "hello [[tokens=17]]", tools: { look }, toolChoice: "required" });
  if (called.toolCalls[0].toolName !== "look") throw new Error("no call");
  count("openai", called.usage.totalTokens);
  const formed = await generateText({ model, prompt: "hello", output: Output.object({ schema: jsonSchema(leak) }) });
  isLeak(formed.output);
  count("openai", formed.usage.totalTokens);
  count("openai", (await embed({ model: openai.embedding("text-embedding-3-small"), value: "12345678" })).usage.tokens);
  await refused(404, () => generateText({ model: openai("nope"), prompt: "x", maxRetries: 0 }));
  await refused(401, () => generateText({ model: createOpenAI({ baseURL: gateway + "/v1", apiKey: "leaky_no" })("gpt-4o-mini"), prompt: "x" }));
  await refused(429, () => generateText({ model: createOpenAI({ baseURL: gateway + "/v1", apiKey: tiny })("gpt-4o-mini"), prompt: "x", maxOutputTokens: 5000, maxRetries: 0 }));
  const enough = new AbortController();
  const leaving = streamText({ model: createOpenAI({ baseURL: gateway + "/v1", apiKey: leaver, headers: stalled })("gpt-4o-mini"), prompt: story,
    abortSignal: enough.signal });
  await leave("openai", leaving.textStream, () => true, () => enough.abort());
}

for (const part of [byOpenAI, byAnthropic, byGoogle, byAISDK]) await part();
for (const [provider, [calls, tokens]] of Object.entries(told)) console.log("told", provider, calls, tokens);
for (const [provider, calls] of Object.entries(left)) console.log("left", provider, calls);
