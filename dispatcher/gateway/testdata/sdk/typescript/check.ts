// Checks a Pelton gateway with OpenAI's own TypeScript client: node check.js BASE_URL MODEL
// BASE_URL is http://HOST:PORT; any model will do, only shapes and rules are checked, no words.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const base = process.argv[2].replace(/\/$/, '');
const model = process.argv[3];
const client = new OpenAI({ baseURL: base + '/v1', apiKey: process.env.OPENAI_API_KEY ?? 'none', maxRetries: 0, timeout: 120_000 });
const ask: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'Count from one to twenty, separated by commas.' }];
const chat = { model, messages: ask, max_tokens: 12, seed: 7 };
const text = { model, prompt: 'One, two, three,', max_tokens: 12, seed: 7 };

type Refusal = { status?: number; code?: string | null; param?: string | null; type?: string; requestID?: string | null };

async function refused(status: number, code: string, param: string | null | undefined, call: () => Promise<unknown>) {
  await assert.rejects(call, (e: Refusal) => {
    assert.ok(e instanceof OpenAI.APIError, String(e));
    assert.equal(e.status, status);
    assert.equal(e.code, code);
    if (param !== undefined) assert.equal(e.param, param);
    assert.ok(e.type && e.requestID, 'no type or no x-request-id');
    return true;
  });
}

async function models(): Promise<number> {
  const names: string[] = [];
  for await (const m of client.models.list()) names.push(m.id);
  assert.ok(names.includes(model), names.join());
  const one = await client.models.retrieve(model);
  assert.equal(one.id, model);
  assert.equal(one.object, 'model');
  return (one as unknown as { max_model_len: number }).max_model_len;
}

async function whole() {
  const r = await client.chat.completions.create(chat);
  assert.equal(r.object, 'chat.completion');
  assert.equal(r.model, model);
  assert.equal(r.choices.length, 1);
  assert.equal(r.choices[0].message.role, 'assistant');
  assert.equal(typeof r.choices[0].message.content, 'string');
  assert.equal(r.choices[0].message.refusal, null);
  assert.equal(r.choices[0].logprobs, null);
  assert.ok(['stop', 'length'].includes(r.choices[0].finish_reason));
  assert.ok(r.usage && r.usage.prompt_tokens > 0 && r.usage.total_tokens === r.usage.prompt_tokens + r.usage.completion_tokens);
  const t = await client.completions.create(text);
  assert.equal(t.object, 'text_completion');
  assert.ok(t.choices[0].text.length > 0);
}

async function stream() {
  const want = await client.chat.completions.create({ ...chat, temperature: 0 });
  let got = '', role = 0, finish = '', usage: unknown;
  for await (const c of await client.chat.completions.create({ ...chat, temperature: 0, stream: true, stream_options: { include_usage: true } })) {
    assert.equal(c.object, 'chat.completion.chunk');
    if (c.choices.length === 0) {
      usage = c.usage;
      continue;
    }
    assert.equal(c.usage, null);
    got += c.choices[0].delta.content ?? '';
    if (c.choices[0].delta.role) role++;
    finish += c.choices[0].finish_reason ?? '';
  }
  assert.equal(got, want.choices[0].message.content);
  assert.equal(role, 1);
  assert.equal(finish, want.choices[0].finish_reason);
  assert.deepEqual(usage, want.usage);
  const final = await client.chat.completions.stream({ ...chat, temperature: 0 }).finalChatCompletion();
  assert.equal(final.choices[0].message.content, got);
  let plain = '';
  for await (const c of await client.completions.create({ ...text, temperature: 0, stream: true })) plain += c.choices[0].text;
  assert.equal(plain, (await client.completions.create({ ...text, temperature: 0 })).choices[0].text);
}

async function parameters() {
  const warm = { ...chat, temperature: 0.9 };
  const [a, b] = await Promise.all([client.chat.completions.create(warm), client.chat.completions.create(warm)]);
  assert.equal(a.choices[0].message.content, b.choices[0].message.content, 'a seed must repeat');
  const stopped = await client.chat.completions.create({ ...chat, stop: [',', '\n'], max_tokens: 40 });
  assert.ok(!/[,\n]/.test(stopped.choices[0].message.content ?? ''));
  const two = await client.chat.completions.create({ ...chat, n: 2 });
  assert.deepEqual(two.choices.map((c) => c.index), [0, 1]);
  const four = await client.completions.create({ ...text, prompt: ['One, two,', 'A, B, C,'], n: 2 });
  assert.deepEqual(four.choices.map((c) => c.index), [0, 1, 2, 3]);
  const flex = await client.chat.completions.create({ ...chat, tools: [], user: 'u', metadata: { k: 'v' }, service_tier: 'flex' });
  assert.equal(flex.service_tier, 'flex');
}

async function logprobs() {
  const r = await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 3 });
  const content = r.choices[0].logprobs?.content ?? [];
  assert.equal(content.length, r.usage?.completion_tokens);
  for (const t of content) assert.ok(t.logprob <= 0 && t.bytes && t.top_logprobs.length === 3);
  const lp = (await client.completions.create({ ...text, logprobs: 2 })).choices[0].logprobs;
  assert.ok(lp?.tokens?.length && lp.tokens.length === lp.text_offset?.length);
}

async function errors(context: number) {
  await refused(404, 'model_not_found', undefined, () => client.chat.completions.create({ ...chat, model: 'no-such-model' }));
  await refused(400, 'invalid_argument', 'temperature', () => client.chat.completions.create({ ...chat, temperature: 5 }));
  await refused(400, 'unimplemented', 'response_format', () => client.chat.completions.create({ ...chat, response_format: { type: 'xml' as 'text' } }));
  await refused(413, 'payload_too_large', null, () => client.chat.completions.create({ ...chat, messages: [{ role: 'user', content: 'x'.repeat(5 << 20) }] }));
  await refused(400, 'context_length_exceeded', undefined, () => client.chat.completions.create({ ...chat, messages: [{ role: 'user', content: 'word '.repeat(context + 10) }] }));
  await refused(404, 'not_found', undefined, () => client.get('/nope'));
}

// Leaving a stream cancels its job.
async function cancel() {
  const extra = { ignore_eos: true };
  const { data, response } = await client.chat.completions.create({ ...chat, stream: true, max_tokens: 1000, ...extra }).withResponse();
  const job = response.headers.get('x-pelton-job');
  for await (const _ of data) break;
  let state = '';
  for (const until = Date.now() + 60_000; state !== 'canceled' && Date.now() < until; ) {
    state = (await client.get<{ state: string }>('/jobs/' + job)).state;
    assert.ok(['queued', 'running', 'canceled'].includes(state), state);
  }
  assert.equal(state, 'canceled');
}

const context = await models();
await whole();
await stream();
await parameters();
await logprobs();
await errors(context);
await cancel();
console.log('ok: openai for TypeScript, model', model);
