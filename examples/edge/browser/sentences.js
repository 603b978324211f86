// A sentence -> the text tower's token ids, as `lit.json` says: `token_ids_of` of ../reference.py.
import { sentencePiece } from './sentencepiece.js';

// bytes: the vocabulary's file. Returns a function from a sentence to Int32Array [tokens].
export function tokenIdsOf(of, bytes) {
  if (!of.tokenizer) throw new Error('This version has no vocabulary: its text tower takes token ids only.');
  const kinds = { wordpiece: wordPiece, sentencepiece: sentencePiece };
  const tokensOf = kinds[of.tokenizer.kind](of.tokenizer, bytes);
  const [start, end] = [of.start_token_id, of.end_token_id].map((x) => (x === null ? [] : [x]));
  return (sentence) => {
    const tokens = tokensOf(of.lowercase ? sentence.toLowerCase() : sentence);
    const length = of.sequence_length;
    const kept = tokens.slice(0, Math.max(length - start.length - end.length, 0));
    const found = new Int32Array(length).fill(of.pad_token_id);
    found.set([...start, ...kept, ...end].slice(0, length));
    return found;
  };
}

// BERT's WordPiece: words and punctuation marks, then the longest pieces from the left.
function wordPiece(of, bytes) {
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  const words = (text.endsWith('\n') ? text.slice(0, -1) : text).split('\n');
  const vocabulary = new Map(words.map((word, i) => [word, i]));
  const unknown = [vocabulary.get(of.oov_token)];
  const encoder = new TextEncoder();

  function pieces(word) {
    if (encoder.encode(word).length > 100) return unknown;
    const letters = Array.from(word);
    const found = [];
    for (let start = 0; start < letters.length; ) {
      const mark = start ? of.suffix_indicator : '';
      let end = letters.length;
      while (end > start && !vocabulary.has(mark + letters.slice(start, end).join(''))) end--;
      if (end === start) return unknown;
      found.push(vocabulary.get(mark + letters.slice(start, end).join('')));
      start = end;
    }
    return found;
  }

  return (sentence) =>
    split(sentence, of.strip_accents, of.split_on_cjk).flatMap((word) =>
      pieces(of.lowercase ? fold(word) : word),
    );
}

// Splits at spaces and control characters; a punctuation mark is a word of its own.
function split(text, stripAccents, splitOnCjk) {
  if (stripAccents) text = text.normalize('NFD').replace(/\p{Mn}/gu, '');
  const words = [''];
  for (const c of text) {
    const cjk = splitOnCjk && CJK.test(c);
    if (cjk || /[\p{P}$+<=>^`|~]/u.test(c)) words.push(c, '');
    else if (/[ \t\n\f\r\p{Cc}\p{Cf}]/u.test(c)) words.push('');
    else words[words.length - 1] += c;
  }
  return words.filter((word) => word);
}

// Unicode's NFKC_Casefold, from the parts that JavaScript has.
function fold(word) {
  return Array.from(word.normalize('NFKC'), folded).join('').normalize('NFKC').replace(IGNORABLE, '');
}

function folded(c) {
  if (c === '\u0131') return c;
  if (/[\u13a0-\u13fd\uab70-\uabbf]/.test(c)) return c.toUpperCase();  // Cherokee.
  return Array.from(c.toLowerCase().toUpperCase(), (x) => x.toLowerCase()).join('');
}

const CJK = /[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b820}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/u;
const IGNORABLE = /\p{Default_Ignorable_Code_Point}/gu;
