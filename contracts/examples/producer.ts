// Submit a chat to a Pelton fleet over NATS and print the answer as it is written.
//
//   npm install @nats-io/transport-node @msgpack/msgpack
//   npx tsx producer.ts nats://127.0.0.1:4222 MODEL PROMPT
//
// For a fleet that asks for credentials, PELTON_CREDS and PELTON_TLS_CA name the files.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { decode, encode } from "@msgpack/msgpack";
import { connect, credsAuthenticator } from "@nats-io/transport-node";

interface Answer {
  outcome: string;
  code?: string;
  message?: string;
}

interface Chunk {
  index: number; // tokens before this record
  tokens?: number[];
  text?: string;
  finish?: string;
  usage?: { prompt_tokens: number; completion_tokens: number };
  claim?: object;
  code?: string;
  message?: string;
}

function secrets(tenant: string) {
  const { PELTON_CREDS: creds, PELTON_TLS_CA: caFile } = process.env;
  if (!creds) return {};
  // The only inbox that the credentials may listen on is the tenant's.
  return { authenticator: credsAuthenticator(readFileSync(creds)), tls: { caFile }, inboxPrefix: `_INBOX_${tenant}` };
}

async function ask(url: string, model: string, prompt: string, tenant = "default"): Promise<number> {
  const nc = await connect({ servers: url, ...secrets(tenant) });
  try {
    const job = randomUUID(); // any id of your own: submitting it again never runs it twice
    const live = nc.subscribe(`live.${tenant}.${job}`); // first, so that nothing is missed

    const messages = [{ role: "user", content: prompt }];
    const request = { v: 1, job, model, kind: "chat", messages, params: { max_tokens: 256 }, submitted: Date.now() };
    const reply = await nc.request(`submit.${tenant}`, encode(request), { timeout: 10_000 });
    const answer = decode(reply.data) as Answer;
    if (answer.code) throw new Error(`${answer.code}: ${answer.message}`);

    let seen = 0; // tokens so far
    for await (const message of live) {
      const chunk = decode(message.data) as Chunk;
      if (chunk.index > seen) throw new Error(`tokens ${seen} to ${chunk.index} were lost: read them from OUT`);
      if (!chunk.claim || chunk.usage) { // else it is a claim
        process.stdout.write(chunk.text ?? "");
        seen = chunk.index + (chunk.tokens?.length ?? 0);
      }
      if (chunk.usage) { // the final record
        console.log();
        console.error(chunk.finish, chunk.usage, chunk.message ?? "");
        return chunk.code ? 1 : 0;
      }
    }
    throw new Error("the connection was closed");
  } finally {
    await nc.close();
  }
}

const [url, model, prompt] = process.argv.slice(2);
if (!url || !model || !prompt) throw new Error("usage: producer.ts nats://HOST:4222 MODEL PROMPT");
ask(url, model, prompt).then((code) => process.exit(code), (err) => { console.error(String(err)); process.exit(1); });
