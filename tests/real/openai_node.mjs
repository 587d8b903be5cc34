// Asks a gateway with the official Node SDK and prints what it got as one JSON object.
// Usage: node openai_node.mjs FOLDER_OF_THE_SDK BASE_URL MODEL
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, baseURL, model] = process.argv.slice(2);
const entry = createRequire(`${folder}/`).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(entry));
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 30000 });

const messages = [{ role: "user", content: "hello world" }];
const options = { model, messages, temperature: 0, max_tokens: 12 };
const parameters = {
  type: "object",
  properties: { color: { type: "string", enum: ["red", "blue"] } },
  required: ["color"],
};
const tools = [{ type: "function", function: { name: "paint", parameters } }];

async function error(act) {
  try {
    await act();
    return null;
  } catch (problem) {
    return { name: problem.constructor.name, status: problem.status, code: problem.code,
             message: problem.message };
  }
}

async function streamed(more) {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...options, ...more, stream: true }))
    chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  return { text, pieces: chunks.length, usage: chunks.at(-1).usage ?? null };
}

async function abandoned() {
  const stream = await client.chat.completions.create({ ...options, max_tokens: 4000, stream: true });
  for await (const _ of stream) break;
  return true;
}

const whole = await client.chat.completions.create(options);
const call = await client.chat.completions.create({ ...options, max_tokens: 80, tools });
const results = {
  text: whole.choices[0].message.content,
  usage: whole.usage,
  stream: await streamed({}),
  streamWithUsage: await streamed({ stream_options: { include_usage: true } }),
  call: call.choices[0].message.tool_calls?.[0]?.function ?? null,
  abandoned: await abandoned(),
  models: (await client.models.list()).data.map((each) => each.id),
  unknown: await error(() => client.chat.completions.create({ ...options, model: `${model}n` })),
  tooLong: await error(() => client.chat.completions.create(
    { ...options, messages: [{ role: "user", content: "hello ".repeat(6000) }] })),
  embeddings: await error(() => client.embeddings.create({ model, input: "hello" })),
};
const retrieved = await error(async () => {
  results.retrieved = (await client.models.retrieve(model)).id;
});
console.log(JSON.stringify({ ...results, retrieveError: retrieved }));
