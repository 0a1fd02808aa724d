// Everyday calls of LangChain for JavaScript: each through chats and through the Responses API.

import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAI } from "@langchain/openai";
import { createAgent, modelCallLimitMiddleware, providerStrategy } from "langchain";
import { z } from "zod";
import { call, main, MODEL, QUESTION } from "./calling.mjs";

const schema = z.object({
  name: z.string().max(20),
  day: z.enum(["Friday", "Monday"]),
  guests: z.array(z.enum(["Alice", "Bob"])).max(3),
});
const weather = tool(async ({ city, days }) => `${city}: ${days} mm`, {
  name: "weather",
  description: "The weather of a city.",
  schema: z.object({ city: z.enum(["Oslo", "Rome"]), days: z.number().int().min(1).max(7) }),
});
const middleware = [modelCallLimitMiddleware({ runLimit: 2 })];
const asked = { model: MODEL, temperature: 0, maxRetries: 0 };
const told = (messages) => messages.map((one) => [one.type, one.tool_calls?.map(({ args }) => args) ?? [], one.text]);

// Registers a call through both; `short` and `long` are models that differ in how much they may write.
function callEach(words, run) {
  call(words, async () => {
    const found = {};
    for (const [route, useResponsesApi] of [["chat", false], ["responses", true]]) {
      const made = [16, 300].map((maxTokens) => new ChatOpenAI({ ...asked, maxTokens, useResponsesApi }));
      try {
        found[route] = await run(...made);
      } catch (error) {
        throw new Error(`${route}: ${error.message}`, { cause: error });
      }
    }
    return found;
  });
}

callEach("invoke", async (short) => {
  const { text, usage_metadata } = await short.invoke(QUESTION);
  return [text, usage_metadata.input_tokens, usage_metadata.output_tokens];
});

callEach("stream", async (short) => {
  let all;
  for await (const part of await short.stream(QUESTION)) all = all ? all.concat(part) : part;
  return [all.text, all.usage_metadata.input_tokens, all.usage_metadata.output_tokens];
});

callEach("batch", async (short) => (await short.batch([QUESTION, QUESTION])).map(({ text }) => text));

callEach("withStructuredOutput", (_, long) => long.withStructuredOutput(schema, { name: "event" }).invoke(QUESTION));

callEach("withStructuredOutput (functionCalling)", (_, long) =>
  long.withStructuredOutput(schema, { name: "event", method: "functionCalling" }).invoke(QUESTION),
);

callEach("bindTools", async (short, long) => {
  const question = new HumanMessage(QUESTION);
  const first = await long.bindTools([weather], { tool_choice: "weather" }).invoke([question]);
  const results = await Promise.all(first.tool_calls.map((one) => weather.invoke(one)));
  const last = await short.bindTools([weather]).invoke([question, first, ...results]);
  return told([question, first, ...results, last]);
});

callEach("streamed tool calls", async (_, long) => {
  let all;
  const bound = long.bindTools([weather], { tool_choice: "weather" });
  for await (const part of await bound.stream(QUESTION)) all = all ? all.concat(part) : part;
  return all.tool_calls.map(({ name, args }) => [name, args]);
});

callEach("agent", async (short) => {
  const agent = createAgent({ model: short, tools: [weather], middleware });
  const { messages } = await agent.invoke({ messages: [{ role: "user", content: QUESTION }] });
  return told(messages);
});

callEach("agent with a structured response", async (_, long) => {
  const agent = createAgent({ model: long, tools: [], responseFormat: providerStrategy(schema) });
  const { structuredResponse } = await agent.invoke({ messages: [{ role: "user", content: QUESTION }] });
  return structuredResponse;
});

callEach("agent with tools and a structured response", async (_, long) => {
  const agent = createAgent({ model: long, tools: [weather], responseFormat: providerStrategy(schema), middleware });
  const { messages, structuredResponse } = await agent.invoke({ messages: [{ role: "user", content: QUESTION }] });
  return [told(messages), structuredResponse ?? null];
});

call("completion", () => new OpenAI({ ...asked, maxTokens: 16 }).invoke("def area(r):"));

main();
