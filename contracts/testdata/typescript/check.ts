// Check the golden vectors from TypeScript: read each, compare it with its JSON twin, write it anew.
//
//   node check.js VECTORS OUT
import { deepStrictEqual } from "node:assert";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { decode, encode } from "@msgpack/msgpack";

/** The value as JSON spells it: byte strings in base64. */
function readable(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (Array.isArray(value)) return value.map(readable);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, readable(v)]));
}

const [vectors, out] = process.argv.slice(2);
const files = readdirSync(vectors).filter((f) => f.endsWith(".msgpack"));
if (files.length === 0) throw new Error(`no vectors in ${vectors}`);
for (const file of files) {
  const value = decode(readFileSync(join(vectors, file)));
  const twin = JSON.parse(readFileSync(join(vectors, file.replace(/msgpack$/, "json")), "utf8"));
  deepStrictEqual(readable(value), twin, file);
  writeFileSync(join(out, file), encode(value));
}
console.log(`${files.length} vectors`);
