// The official Node SDK's Responses API.
import OpenAI from "openai";
import { hello, role, tell, unknown, url } from "./cases.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 30000 });
const options = { model: role, input: hello, max_output_tokens: 12, temperature: 0 };
const parameters = {
  type: "object",
  properties: { color: { type: "string", enum: ["red", "blue"] } },
  required: ["color"],
  additionalProperties: false,
};
const tools = [{ type: "function", name: "paint", description: "Paint it.", parameters, strict: true }];

async function response() {
  const answer = await client.responses.create(options);
  return { text: answer.output_text, usage: answer.usage.output_tokens, status: answer.status };
}

async function stream() {
  const events = [];
  for await (const event of await client.responses.create({ ...options, stream: true }))
    events.push(event);
  const pieces = events.filter((event) => event.type === "response.output_text.delta");
  return {
    text: pieces.map((event) => event.delta).join(""),
    pieces: pieces.length,
    last: events.at(-1).type,
    usage: events.at(-1).response.usage.output_tokens,
  };
}

async function tool() {
  const answer = await client.responses.create({ ...options, max_output_tokens: 80, tools });
  const { name, arguments: given } = answer.output.find((item) => item.type === "function_call");
  return { name, arguments: given };
}

await tell({
  response, stream, tool,
  unknown: () => client.responses.create({ ...options, model: unknown }),
  unknownInStream: () => client.responses.create({ ...options, model: unknown, stream: true }),
});
