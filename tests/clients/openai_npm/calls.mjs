// Everyday calls of OpenAI's client for JavaScript.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { call, main, MODEL, QUESTION } from "./calling.mjs";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: QUESTION }];
const greedy = { model: MODEL, messages, temperature: 0, max_completion_tokens: 16 };
const seeded = { model: MODEL, messages, seed: 5, max_completion_tokens: 300 };
const Event = z.object({
  name: z.string().max(20),
  day: z.enum(["Friday", "Monday"]),
  guests: z.array(z.enum(["Alice", "Bob"])).max(3),
});
const Place = z.object({ city: z.enum(["Oslo", "Rome"]), days: z.number().int().min(1).max(7) });
const weather = {
  name: "weather",
  description: "The weather of a city.",
  parameters: Place,
  function: ({ city, days }) => `${city}: ${days} mm`,
};
const tools = [zodFunction(weather)];

call("models", async () => {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  return ids;
});

call("chat", async () => (await client.chat.completions.create(greedy)).choices[0].message.content);

call("streamed chat", async () => {
  const stream_options = { include_usage: true };
  const stream = await client.chat.completions.create({ ...greedy, stream: true, stream_options });
  let [text, usage] = ["", null];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return [text, usage];
});

call("streamed chat (.stream)", async () => {
  let text = "";
  const stream = client.chat.completions.stream(greedy).on("content", (delta) => (text += delta));
  const final = await stream.finalContent();
  return [text, final];
});

call("completion", async () => {
  const asked = { model: MODEL, prompt: "def area(r):", temperature: 0, max_tokens: 16 };
  return (await client.completions.create(asked)).choices[0].text;
});

call("structured output (.parse)", async () => {
  const response_format = zodResponseFormat(Event, "event");
  const { message } = (await client.chat.completions.parse({ ...seeded, response_format })).choices[0];
  return [message.parsed, message.content];
});

call("streamed structured output (.stream)", async () => {
  const response_format = zodResponseFormat(Event, "event");
  const stream = client.chat.completions.stream({ ...seeded, response_format });
  let numDeltas = 0;
  stream.on("content.delta", () => (numDeltas += 1));
  const { message } = (await stream.finalChatCompletion()).choices[0];
  return [numDeltas, message.parsed, message.content];
});

call("tools", async () => {
  const asked = { ...seeded, tools, tool_choice: "required" };
  const { finish_reason, message } = (await client.chat.completions.parse(asked)).choices[0];
  const results = message.tool_calls.map((one) => ({
    role: "tool",
    tool_call_id: one.id,
    content: weather.function(one.function.parsed_arguments),
  }));
  const said = [...messages, message, ...results];
  const answer = await client.chat.completions.create({ ...greedy, messages: said, tools });
  const made = message.tool_calls.map(({ function: it }) => [it.name, it.arguments, it.parsed_arguments]);
  return [finish_reason, made, answer.choices[0].message.role];
});

call("streamed tool calls", async () => {
  const tool_choice = { type: "function", function: { name: "weather" } };
  const stream = await client.chat.completions.create({ ...seeded, tools, tool_choice, stream: true });
  const found = ["", ""];
  let [numPieces, reason] = [0, null];
  for await (const { choices } of stream) {
    for (const delta of choices[0]?.delta?.tool_calls ?? []) {
      found[0] += delta.function?.name ?? "";
      found[1] += delta.function?.arguments ?? "";
      numPieces += 1;
    }
    reason = choices[0]?.finish_reason ?? reason;
  }
  return [...found, numPieces, reason];
});

// Two calls with their results in between: each request has what the one before it gave.
async function ran(runner) {
  await runner.done();
  return runner.messages.map(({ role, content, tool_calls }) =>
    tool_calls ? [role, tool_calls.map((one) => [one.function.name, one.function.arguments])] : [role, content],
  );
}
const loop = { ...seeded, tools, tool_choice: "required", parallel_tool_calls: false };

call("tools that are run (.runTools)", () =>
  ran(client.chat.completions.runTools(loop, { maxChatCompletions: 2 })),
);

call("streamed tools that are run (.runTools)", () =>
  ran(client.chat.completions.runTools({ ...loop, stream: true }, { maxChatCompletions: 2 })),
);

const asked = { model: MODEL, input: QUESTION, temperature: 0, max_output_tokens: 16 };
const long = { ...asked, temperature: 1, max_output_tokens: 300, seed: 5 };

call("Responses", async () => (await client.responses.create(asked)).output_text);

call("conversation in Responses", async () => {
  const first = await client.responses.create(asked);
  const second = await client.responses.create({ ...asked, input: "Why?", previous_response_id: first.id });
  return [first.output_text, second.output_text];
});

call("streamed Responses (.stream)", async () => {
  let text = "";
  const stream = client.responses.stream(asked);
  stream.on("response.output_text.delta", ({ delta }) => (text += delta));
  const { output_text } = await stream.finalResponse();
  return [text, output_text];
});

call("structured Responses (.parse)", async () => {
  const response = await client.responses.parse({ ...long, text: { format: zodTextFormat(Event, "event") } });
  return [response.output_parsed, response.output_text];
});

call("tools in Responses (.parse)", async () => {
  const asked = { ...long, tools: [zodResponsesFunction(weather)] };
  const { output } = await client.responses.parse({ ...asked, tool_choice: "required" });
  const results = output.map(({ call_id, parsed_arguments }) => ({
    type: "function_call_output",
    call_id,
    output: weather.function(parsed_arguments),
  }));
  const input = [...messages, ...output, ...results];
  const answer = await client.responses.create({ ...asked, input, max_output_tokens: 16 });
  return [output.map((one) => [one.name, one.arguments, one.parsed_arguments]), answer.output[0].type];
});

main();
