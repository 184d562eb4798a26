// Checks /v1/embeddings with OpenAI's own TypeScript client: node embeddings.js BASE_URL MODEL
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const base = process.argv[2].replace(/\/$/, '');
const model = process.argv[3];
const client = new OpenAI({ baseURL: base + '/v1', apiKey: process.env.OPENAI_API_KEY ?? 'none', maxRetries: 0, timeout: 120_000 });
const texts = ['A man is eating food.', 'A man is eating a piece of bread.', 'Two men pushed carts through the woods.'];
const dot = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i], 0);

async function main() {
  const r = await client.embeddings.create({ model, input: texts }); // the client itself asks for base64
  assert.equal(r.object, 'list');
  assert.deepEqual(r.data.map((d) => d.index), [0, 1, 2]);
  const [a, b, c] = r.data.map((d) => d.embedding);
  assert.ok(Math.abs(Math.sqrt(dot(a, a)) - 1) < 1e-4, 'length 1');
  assert.ok(dot(a, b) > 0.6 && dot(a, c) < 0.3);
  assert.equal(r.usage.prompt_tokens, r.usage.total_tokens);
  const one = await client.embeddings.create({ model, input: texts[0], encoding_format: 'float' });
  assert.ok(one.data[0].embedding.every((x, i) => Math.abs(x - a[i]) < 1e-7));
  const tokens = await client.embeddings.create({ model, input: [[101, 7592, 102], [101, 102]] });
  assert.equal(tokens.data.length, 2);
  await assert.rejects(client.embeddings.create({ model, input: 'x', dimensions: 7 }), (e: { status?: number; param?: string | null }) => {
    assert.ok(e instanceof OpenAI.APIError);
    assert.equal(e.status, 400);
    assert.equal(e.param, 'dimensions');
    return true;
  });
  console.log(`embeddings of ${a.length} dimensions`);
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
