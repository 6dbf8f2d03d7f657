// Calls by the SDKs for Node. Prints the calls and tokens that each provider told.
import { createRequire } from "node:module";

const require = createRequire(process.env.PACKAGES + "/");
const OpenAI = require("openai").default;
const Anthropic = require("@anthropic-ai/sdk").default;
const { GoogleGenAI } = await import(require.resolve("@google/genai"));
const { generateText, streamText } = await import(require.resolve("ai"));
const { createOpenAI } = await import(require.resolve("@ai-sdk/openai"));

const gateway = process.env.GATEWAY;
const key = process.env.OPENAI_API_KEY;
const told = { openai: [0, 0], anthropic: [0, 0], gemini: [0, 0] };

function count(provider, tokens) {
  if (!(tokens > 0)) throw new Error(provider + " told " + tokens);
  told[provider][0] += 1;
  told[provider][1] += tokens;
}

async function refused(status, call) {
  try {
    await call();
  } catch (error) {
    if (error.status === status) return;
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
}

async function byAnthropic() {
  const client = new Anthropic({ baseURL: gateway, apiKey: key });
  const ask = { model: "claude-haiku-4-5", max_tokens: 64, messages: [{ role: "user", content: "hello [[tokens=17]]" }] };
  const answer = await client.messages.create(ask);
  count("anthropic", answer.usage.input_tokens + answer.usage.output_tokens);
  const final = await client.messages.stream(ask).finalMessage();
  if (final.content[0].text !== answer.content[0].text) throw new Error("the stream has another text");
  count("anthropic", final.usage.input_tokens + final.usage.output_tokens);
  if ((await client.messages.countTokens({ model: ask.model, messages: ask.messages })).input_tokens !== 5) throw new Error("another count");
  if ((await client.models.retrieve(ask.model)).id !== ask.model) throw new Error("no model");
  await refused(404, () => client.messages.create({ ...ask, model: "claude-nope" }));
  await refused(401, () => new Anthropic({ baseURL: gateway, apiKey: "leaky_no" }).messages.create(ask));
}

async function byGoogle() {
  const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: gateway } });
  const ask = { model: "gemini-2.5-flash", contents: "hello [[tokens=17]]" };
  count("gemini", (await client.models.generateContent(ask)).usageMetadata.totalTokenCount);
  let last;
  for await (const chunk of await client.models.generateContentStream(ask)) last = chunk;
  count("gemini", last.usageMetadata.totalTokenCount);
  if ((await client.models.countTokens(ask)).totalTokens !== 5) throw new Error("another count");
  await client.models.embedContent({ model: "gemini-embedding-001", contents: "12345678" });
  count("gemini", 2);
  await refused(404, () => client.models.generateContent({ ...ask, model: "gemini-nope" }));
}

async function byAISDK() {
  const model = createOpenAI({ baseURL: gateway + "/v1", apiKey: key })("gpt-4o-mini");
  count("openai", (await generateText({ model, prompt: "hello [[tokens=17]]" })).usage.totalTokens);
  const stream = streamText({ model, prompt: "hello [[tokens=17]]" });
  for await (const _ of stream.textStream);
  count("openai", (await stream.usage).totalTokens);
}

for (const part of [byOpenAI, byAnthropic, byGoogle, byAISDK]) await part();
for (const [provider, [calls, tokens]] of Object.entries(told)) console.log("told", provider, calls, tokens);
