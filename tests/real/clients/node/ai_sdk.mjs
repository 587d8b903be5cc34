// The Vercel AI SDK with its provider for OpenAI-compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { hello, role, tell, unknown, url } from "./cases.mjs";

const mesh = createOpenAICompatible({
  name: "rolemesh", baseURL: `${url}/v1`, apiKey: "none",
  includeUsage: true, supportsStructuredOutputs: true,
});
const options = {
  model: mesh(role), prompt: hello, maxOutputTokens: 12, temperature: 0, maxRetries: 0,
};
const schema = z.object({ color: z.enum(["red", "blue"]) });
const paint = tool({
  description: "Paint it.", inputSchema: schema, execute: async ({ color }) => `painted ${color}`,
});
const withTool = { ...options, maxOutputTokens: 80, tools: { paint } };

async function text() {
  const answer = await generateText(options);
  return { text: answer.text, usage: answer.usage.outputTokens, why: answer.finishReason };
}

async function stream() {
  const answer = streamText(options);
  const pieces = [];
  for await (const piece of answer.textStream) pieces.push(piece);
  const usage = (await answer.usage).outputTokens;
  return { text: pieces.join(""), pieces: pieces.length, usage, why: await answer.finishReason };
}

async function called() {
  const answer = await generateText(withTool);
  return answer.toolResults.map(({ toolName, input, output }) => ({ toolName, input, output }));
}

async function streamedCall() {
  const answer = streamText(withTool);
  await answer.consumeStream();
  return (await answer.toolResults).map(({ toolName, output }) => ({ toolName, output }));
}

async function object() {
  return (await generateObject({ ...options, maxOutputTokens: 80, schema })).object;
}

async function inStream(act) {
  let seen = null;
  const answer = act({ onError: ({ error }) => { seen = error; } });
  for await (const _ of answer.textStream);
  return { message: seen?.message, status: seen?.statusCode, isCall: APICallError.isInstance(seen) };
}

await tell({
  text, stream, called, streamedCall, object,
  unknown: () => generateText({ ...options, model: mesh(unknown) }),
  unknownInStream: () => inStream((more) => streamText({ ...options, ...more, model: mesh(unknown) })),
});
