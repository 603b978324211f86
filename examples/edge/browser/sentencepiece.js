// SentencePiece: a `.model` file (Protocol Buffers) -> a function from a sentence to token ids.
// The normalisation is in the file; pieces are found by the unigram model or byte pairs.
const SPACE = '\u2581';
const NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4, UNUSED = 5, BYTE = 6;
const UNIGRAM = 1, PAIRS = 2;
const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const f32 = Math.fround;

export function sentencePiece(of, bytes) {
  const model = read(bytes);
  const special = (name) => model.pieces.findIndex((x) => x.piece === name);
  const start = of.add_bos ? [special(model.bos)] : [];
  const end = of.add_eos ? [special(model.eos)] : [];
  const cut = { [UNIGRAM]: unigram, [PAIRS]: pairs }[model.type];
  if (!cut) throw new Error(`This page knows unigram models and byte pairs. Received: model type ${model.type}.`);
  const normalize = normalizer(model);
  return (sentence) => [...start, ...ids(model, cut(model, normalize(sentence))), ...end];
}

// The fields of a message: an array of values for each number; length-delimited ones as bytes.
function fields(bytes) {
  const found = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      const byte = view.getUint8(at++);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const kinds = {
    0: varint,
    1: () => view.getFloat64((at += 8) - 8, true),
    2: () => {
      const length = varint();
      return bytes.subarray(at, (at += length));
    },
    5: () => view.getFloat32((at += 4) - 4, true),
  };
  while (at < bytes.length) {
    const tag = varint();
    (found[tag >>> 3] ??= []).push(kinds[tag & 7]());
  }
  return found;
}

function read(bytes) {
  const [, pieces, [trainer], [normalization]] = fields(bytes);
  const of = fields(trainer);
  const how = fields(normalization);
  const text = (value, or) => (value ? decoder.decode(value[0]) : or);
  const flag = (value) => (value ? Boolean(value[0]) : true);
  const found = pieces.map((piece) => {
    const [, [name], [score] = [0], [type] = [NORMAL]] = fields(piece);
    return { piece: decoder.decode(name), score, type };
  });
  const whole = new Map();
  found.forEach(({ piece, type }, i) => {
    if ([NORMAL, USER_DEFINED, UNUSED].includes(type)) whole.set(piece, i);
  });
  const scores = found.filter((x) => x.type === NORMAL).map((x) => x.score);
  return {
    pieces: found,
    whole,
    type: of[3]?.[0] ?? UNIGRAM,
    suffix: Boolean(of[24]?.[0]),
    bytes: Boolean(of[35]?.[0]),
    bos: text(of[46], '<s>'),
    eos: text(of[47], '</s>'),
    unknown: found.findIndex((x) => x.type === UNKNOWN),
    byte: new Map(found.flatMap((x, i) => (x.type === BYTE ? [[parseInt(x.piece.slice(1, -1), 16), i]] : []))),
    users: found.filter((x) => x.type === USER_DEFINED).map((x) => x.piece),
    longest: found.reduce((most, x) => Math.max(most, x.piece.length), 0),
    least: scores.reduce((a, b) => Math.min(a, b), Infinity),
    most: scores.reduce((a, b) => Math.max(a, b), -Infinity),
    map: how[2]?.[0] ?? new Uint8Array(),
    prefix: flag(how[3]),
    trims: flag(how[4]),
    escapes: flag(how[5]),
  };
}

// Replaces characters by the file's table, collapses spaces, puts a space before the first word.
function normalizer({ map, users, prefix, trims, escapes, suffix }) {
  const view = new DataView(map.buffer, map.byteOffset, map.byteLength);
  const size = map.length ? view.getUint32(0, true) : 0;
  const unit = (i) => view.getUint32(4 + 4 * i, true);
  const offset = (x) => (x >>> 10) << ((x & 512) >>> 6);
  const replacement = (i) => {
    const start = 4 + size + i;
    return decoder.decode(map.subarray(start, map.indexOf(0, start)));
  };
  const user = userAt(users);

  // The longest key of the table (a double array) that begins at a byte: [length, place].
  function longest(bytes, start) {
    let found = null;
    let node = offset(unit(0));
    for (let i = start; i < bytes.length; i++) {
      node ^= bytes[i];
      const x = unit(node);
      if ((x & 0x800000ff) !== bytes[i]) break;
      node ^= offset(x);
      if ((x >>> 8) & 1) found = [i + 1 - start, unit(node) & 0x7fffffff];
    }
    return found;
  }

  function* replaced(sentence) {
    const bytes = encoder.encode(sentence);
    for (let i = 0; i < bytes.length; ) {
      const width = bytes[i] < 0x80 ? 1 : bytes[i] < 0xe0 ? 2 : bytes[i] < 0xf0 ? 3 : 4;
      const own = users.length ? user(decoder.decode(bytes.subarray(i))) : '';
      const match = own || !size ? null : longest(bytes, i);
      const length = own ? encoder.encode(own).length : match ? match[0] : width;
      yield match ? replacement(match[1]) : decoder.decode(bytes.subarray(i, i + length));
      i += length;
    }
  }

  const space = escapes ? SPACE : ' ';
  return (sentence) => {
    let found = '';
    let begun = false;
    let afterSpace = trims;
    for (let part of replaced(sentence)) {
      begun ||= !(trims && part === ' ');
      if (afterSpace) part = part.replace(/^ +/, '');
      if (part) {
        found += escapes ? part.replaceAll(' ', SPACE) : part;
        afterSpace = trims && part.endsWith(' ');
      }
    }
    while (trims && found.endsWith(space)) found = found.slice(0, -1);
    if (!begun || !prefix) return found;
    if (suffix) return found + space;
    return found || !trims ? space + found : '';
  };
}

// The longest user-defined piece at the beginning of a text.
function userAt(users) {
  const ordered = [...users].sort((a, b) => b.length - a.length);
  return (text) => ordered.find((x) => text.startsWith(x)) ?? '';
}

// The most probable segmentation: Viterbi, in 32-bit floats as in SentencePiece.
function unigram(model, text) {
  const best = [{ score: 0 }];
  const ends = (start, length, score, id) => {
    const total = f32(score + best[start].score);
    const there = best[start + length];
    if (!there || total > there.score) best[start + length] = { score: total, start, id };
  };
  for (let start = 0; start < text.length; ) {
    const first = String.fromCodePoint(text.codePointAt(start)).length;
    let single = false;
    for (let length = first; length <= model.longest && start + length <= text.length; length++) {
      const id = model.whole.get(text.slice(start, start + length));
      if (id === undefined || model.pieces[id].type === UNUSED) continue;
      const { score, type, piece } = model.pieces[id];
      const bytes = type === USER_DEFINED ? encoder.encode(piece).length : 0;
      ends(start, length, bytes ? f32(f32(bytes * model.most) - 0.1) : score, id);
      single ||= length === first;
    }
    if (!single) ends(start, first, f32(model.least - 10), model.unknown);
    start += first;
  }
  const found = [];
  for (let end = text.length; end > 0; end = best[end].start) {
    found.unshift([text.slice(best[end].start, end), best[end].id]);
  }
  return found;
}

// Byte-pair encoding: merges the best pair of neighbours that form a piece, of equals the left one.
function pairs(model, text) {
  const user = userAt(model.users);
  const parts = [];
  for (let i = 0; i < text.length; ) {
    const own = user(text.slice(i));
    const piece = own || String.fromCodePoint(text.codePointAt(i));
    parts.push({ piece, frozen: Boolean(own) });
    i += piece.length;
  }
  const made = new Map(); // Unused pieces are split again into what they were made of.
  for (;;) {
    let best = null;
    for (let i = 0; i + 1 < parts.length; i++) {
      if (parts[i].frozen || parts[i + 1].frozen) continue;
      const id = model.whole.get(parts[i].piece + parts[i + 1].piece);
      if (id !== undefined && (!best || model.pieces[id].score > best.score)) {
        best = { i, score: model.pieces[id].score };
      }
    }
    if (!best) break;
    const [left, right] = parts.slice(best.i, best.i + 2).map((x) => x.piece);
    made.set(left + right, [left, right]);
    parts.splice(best.i, 2, { piece: left + right });
  }
  const used = (piece) => {
    const id = model.whole.get(piece);
    if (id === undefined) return [[piece, model.unknown]];
    return model.pieces[id].type === UNUSED && made.has(piece) ? made.get(piece).flatMap(used) : [[piece, id]];
  };
  return parts.flatMap((x) => used(x.piece));
}

// Unknown characters become their bytes, or one <unk> for adjacent ones.
function ids(model, cut) {
  const found = [];
  let wasUnknown = false;
  for (const [piece, id] of cut) {
    const unknown = id === model.unknown;
    if (unknown && model.bytes) found.push(...Array.from(encoder.encode(piece), (x) => model.byte.get(x)));
    else if (!unknown || !wasUnknown) found.push(id);
    wasUnknown = unknown;
  }
  return found;
}
