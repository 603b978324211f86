// A version of `keras_lit.export.save(..., format="onnx")`, run by onnxruntime-web.
import * as ort from './ort/ort.wasm.min.mjs';
import { pixelsOf } from './pictures.js';
import { tokenIdsOf } from './sentences.js';

ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;

// Reads lit.json, checks every file against its checksum, and starts both towers.
// progress: a function of (file name, bytes so far, total bytes or 0).
export async function open(base, progress = () => {}) {
  const settings = JSON.parse(new TextDecoder().decode(await load(new URL('lit.json', base), progress)));
  const read = async (name) => {
    const bytes = await load(new URL(name, base), progress);
    if (crypto.subtle && settings.sha256[name] !== hex(await crypto.subtle.digest('SHA-256', bytes))) {
      throw new Error(`${name} is missing or damaged: copy the version again.`);
    }
    return bytes;
  };
  const tokenizer = settings.text.tokenizer;
  const tokenIds = tokenIdsOf(settings.text, tokenizer && (await read(tokenizer.file)));
  const image = await tower(settings.image, await read(settings.image.file));
  const text = await tower(settings.text, await read(settings.text.file));
  return {
    settings,
    // A picture's file -> Float32Array [dim] of unit length.
    encodeImage: async (file) => (await image([await pixelsOf(file, settings.image)]))[0],
    // Sentences -> an array of these.
    encodeTexts: (sentences) => text(sentences.map(tokenIds)),
  };
}

// [dim] and [n][dim] -> [n]: a softmax over the sentences, or, with the sigmoid loss, each by itself.
export function probabilities(image, texts, settings) {
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const logits = texts.map((text) => settings.temperature * dot(image, text));
  if (settings.loss === 'sigmoid') return logits.map((x) => 1 / (1 + Math.exp(-x - settings.bias)));
  const most = Math.max(...logits);
  const scores = logits.map((x) => Math.exp(x - most));
  const sum = scores.reduce((a, b) => a + b, 0);
  return scores.map((x) => x / sum);
}

async function tower(of, bytes) {
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] });
  const kind = of.dtype === 'uint8' ? Uint8Array : Int32Array;
  return async (rows) => {
    if (!rows.length) return [];
    const shape = of.any_length ? [longest(rows, of.pad_token_id)] : of.shape;
    const size = shape.reduce((a, b) => a * b, 1);
    const all = new kind(rows.length * size);
    rows.forEach((row, i) => all.set(row.subarray(0, size), i * size));
    const given = new ort.Tensor(of.dtype, all, [rows.length, ...shape]);
    const { embedding } = await session.run({ [of.input]: given });
    const dim = embedding.dims[1];
    return rows.map((_, i) => embedding.data.slice(i * dim, (i + 1) * dim));
  };
}

// How many tokens the longest of these sentences has before its padding, 1 or more.
function longest(rows, padding) {
  return Math.max(1, ...rows.map((row) => row.findLastIndex((token) => token !== padding) + 1));
}

async function load(address, progress) {
  const name = address.pathname.split('/').pop();
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${name} is missing or damaged: copy the version again.`);
  const total = Number(answer.headers.get('Content-Length')) || 0;
  const parts = [];
  let count = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    count += value.length;
    progress(name, count, total);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
