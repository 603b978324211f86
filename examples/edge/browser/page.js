// Takes what a visitor chooses and types, and shows the answers.
import { open, probabilities } from './towers.js';

const at = (id) => document.getElementById(id);
const MOST = 50;
const EXAMPLES = ['a bird', 'a flower', 'a car', 'a house', 'a smiling face'];
let version = null;
let picture = null; // {file, embedding}
const known = new Map(); // sentence -> embedding

function show(id, message) {
  at(id).hidden = !message;
  at(id).textContent = message;
}

function lines() {
  return [...new Set(at('sentences').value.split('\n').map((x) => x.trim()).filter((x) => x))];
}

// One answer at a time; of the requests that wait, only the last is answered.
let running = false;
let again = false;
async function answer() {
  again = true;
  if (running || !version) return;
  running = true;
  while (again) {
    again = false;
    await once();
  }
  running = false;
}

async function once() {
  const sentences = lines();
  const said = !sentences.length ? 'Give a sentence, one a line.'
    : sentences.length > MOST ? `Give at most ${MOST} sentences. There are ${sentences.length}.` : '';
  show('sentences-error', said);
  if (said || !picture) return bars([], []);
  const given = picture;
  const fresh = sentences.filter((x) => !known.has(x));
  const works = fresh.length > 0 || !given.embedding;
  const start = performance.now();
  try {
    given.embedding ??= await version.encodeImage(given.file);
    show('picture-error', '');
  } catch (error) {
    if (given === picture) picture = null;
    show('picture-error', error.message);
    return bars([], []);
  }
  const found = await version.encodeTexts(fresh);
  fresh.forEach((sentence, i) => known.set(sentence, found[i]));
  const values = probabilities(given.embedding, sentences.map((x) => known.get(x)), version.settings);
  if (works) at('note').textContent = `Computed in ${Math.round(performance.now() - start)} ms.`;
  bars(sentences, values);
}

function bars(sentences, values) {
  const order = sentences.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  at('best').textContent = order.length ? sentences[order[0]] : '';
  at('note').hidden = !order.length;
  at('bars').replaceChildren(...order.map((i) => {
    const row = document.createElement('li');
    const parts = { name: 'span', value: 'span', meter: 'meter' };
    for (const [name, tag] of Object.entries(parts)) {
      const element = document.createElement(tag);
      element.className = name;
      row.append(element);
    }
    const [name, value, meter] = row.children;
    name.textContent = sentences[i];
    name.dir = 'auto';
    value.textContent = `${(100 * values[i]).toFixed(1)} %`;
    meter.value = values[i];
    meter.setAttribute('aria-label', sentences[i]);
    row.dataset.probability = values[i];
    return row;
  }));
}

function choose(file) {
  if (!file) return;
  picture = { file };
  bars([], []);
  show('picture-error', '');
  URL.revokeObjectURL(at('shown').src);
  at('shown').src = URL.createObjectURL(file);
  at('shown').alt = file.name;
  at('shown').hidden = false;
  at('hint').hidden = true;
  answer();
}

at('shown').addEventListener('error', () => {
  at('shown').hidden = true;
  at('hint').hidden = false;
});
at('file').addEventListener('change', () => choose(at('file').files[0]));
at('sentences').addEventListener('input', answer);
document.addEventListener('paste', (event) => choose(event.clipboardData.files[0]));
for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at('drop').classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') choose(event.dataTransfer.files[0]);
  });
}

const [bar, words] = at('loading').children;
try {
  version = await open(new URL('./version/', import.meta.url), (name, count, total) => {
    bar.value = total ? count / total : 0;
    const size = (x) => (x / 1e6).toFixed(1);
    words.textContent = `Loading ${name}: ${size(count)} of ${size(total)} MB`;
  });
  const names = version.settings.classes?.names ?? EXAMPLES;
  if (!at('sentences').value) at('sentences').value = names.slice(0, 12).join('\n');
  at('loading').hidden = true;
  answer();
} catch (error) {
  at('loading').setAttribute('role', 'alert');
  at('loading').className = 'error';
  at('loading').textContent = `The version cannot be run: ${error.message}`;
}
