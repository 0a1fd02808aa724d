// Everyday calls of Vercel's AI SDK: each through its OpenAI provider, whose default is the Responses API, through
// that provider's chats, and through the provider for compatible servers.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { openai } from "@ai-sdk/openai";
import { generateObject, generateText, isStepCount, Output, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { call, main, MODEL, QUESTION } from "./calling.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const compatible = createOpenAICompatible({
  name: "mtad",
  baseURL: process.env.OPENAI_BASE_URL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = { responses: openai(MODEL), chat: openai.chat(MODEL), compatible: compatible(MODEL) };
const schema = z.object({
  name: z.string().max(20),
  day: z.enum(["Friday", "Monday"]),
  guests: z.array(z.enum(["Alice", "Bob"])).max(3),
});
const weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]), days: z.number().int().min(1).max(7) }),
  execute: async ({ city, days }) => ({ city, millimetres: days }),
});
const tools = { weather };

// Registers a call through each provider; `short` and `long` are what its requests have in common.
function callEach(words, run) {
  call(words, async () => {
    const found = {};
    for (const [provider, model] of Object.entries(models)) {
      const short = { model, prompt: QUESTION, temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
      try {
        found[provider] = await run(short, { ...short, maxOutputTokens: 300 });
      } catch (error) {
        throw new Error(`${provider}: ${error.message}`, { cause: error });
      }
    }
    return found;
  });
}

// What a stream's parts are put together to; the stream fails where the request did.
async function whole(parts, add) {
  let found = "";
  for await (const part of parts) {
    if (part.type === "error") throw part.error;
    found = add(found, part);
  }
  return found;
}
const told = (text, part) => (part.type === "text-delta" ? text + part.text : text);
const steps = (all) => all.map((one) => [one.toolCalls.map((it) => it.input), one.toolResults.map((it) => it.output)]);
// Two steps that call, and a third that may answer.
const loop = {
  tools,
  stopWhen: isStepCount(3),
  maxOutputTokens: 120,
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber < 2 ? "required" : "auto" }),
};

callEach("generateText", async (short) => {
  const { text, usage, finishReason } = await generateText(short);
  return [text, usage.inputTokens, usage.outputTokens, finishReason];
});

callEach("streamText", async (short) => {
  const result = streamText({ ...short, onError() {} });
  const text = await whole(result.fullStream, told);
  const usage = await result.usage;
  return [text, usage.inputTokens, usage.outputTokens, await result.finishReason];
});

callEach("conversation", async (short) => {
  const { prompt, ...rest } = short;
  const asked = { role: "user", content: prompt };
  const first = await generateText({ ...rest, messages: [asked], instructions: "Be brief." });
  const said = [asked, ...first.response.messages, { role: "user", content: "Why?" }];
  const second = await generateText({ ...rest, messages: said, instructions: "Be brief." });
  return [first.text, second.text];
});

callEach("generateObject", async (_, long) => (await generateObject({ ...long, schema })).object);

callEach("streamObject", async (_, long) => {
  const result = streamObject({ ...long, schema, onError() {} });
  const count = await whole(result.fullStream, (num, { type }) => Number(num) + (type === "object"));
  return [count, await result.object];
});

callEach("generateText with Output.object", async (_, long) => {
  const { output } = await generateText({ ...long, output: Output.object({ schema }) });
  return output;
});

callEach("streamText with Output.object", async (_, long) => {
  const result = streamText({ ...long, output: Output.object({ schema }), onError() {} });
  let count = 0;
  for await (const _part of result.partialOutputStream) count += 1;
  return [count, await result.output];
});

callEach("Output.choice", async (_, long) => {
  const { output } = await generateText({ ...long, output: Output.choice({ options: ["Oslo", "Rome"] }) });
  return output;
});

callEach("tools (toolChoice: required)", async (_, long) => {
  const result = await generateText({ ...long, tools, toolChoice: "required" });
  return [result.finishReason, steps(result.steps)];
});

callEach("tools (toolChoice of one)", async (_, long) => {
  const result = await generateText({ ...long, tools, toolChoice: { type: "tool", toolName: "weather" } });
  return [result.finishReason, steps(result.steps)];
});

callEach("loop of tools (isStepCount)", async (short) => {
  const result = await generateText({ ...short, ...loop });
  return steps(result.steps);
});

callEach("streamed loop of tools", async (short) => {
  const result = streamText({ ...short, ...loop, onError() {} });
  const input = await whole(result.fullStream, (text, part) => (part.type === "tool-input-delta" ? text + part.delta : text));
  return [input, steps(await result.steps)];
});

callEach("tools beside Output.object", async (_, long) => {
  const asked = { ...long, tools, output: Output.object({ schema }), stopWhen: isStepCount(2) };
  const result = await generateText(asked);
  return [steps(result.steps), result.finishReason === "stop" ? result.output : null];
});

main();
