// For each gradio.HTML with buttons: what they trigger, and the dialog of a picture.
const events = ['pick', 'more', 'further'];
let shown = null;

function show(open) {
  shown = open;
  const dialog = element.querySelector('dialog');
  const card = open.closest('.card');
  dialog.querySelector('img').src = open.dataset.large;
  dialog.querySelector('img').alt = open.querySelector('img').alt;
  dialog.querySelector('.name').textContent = card.querySelector('.name').title;
  const score = card.querySelector('.score');
  dialog.querySelector('.score').textContent = score
    ? `${score.textContent} (${score.title.toLowerCase()})` : '';
  dialog.querySelector('.more').dataset.value = open.dataset.id;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const all = [...element.querySelectorAll('.open')];
  show(all[(all.indexOf(shown) + by + all.length) % all.length]);
}

element.addEventListener('click', (event) => {
  const dialog = element.querySelector('dialog');
  const button = event.target.closest('button');
  if (event.target === dialog || button?.hasAttribute('data-close')) dialog.close();
  else if (button?.dataset.large) show(button);
  else if (button?.dataset.step) step(Number(button.dataset.step));
  else if (events.includes(button?.dataset.event)) {
    dialog?.close();
    trigger(button.dataset.event, { value: button.dataset.value });
    if (button.dataset.event === 'more') element.scrollIntoView({ block: 'start' });
  }
});

element.addEventListener('keydown', (event) => {
  if (!element.querySelector('dialog')?.open) return;
  if (event.key === 'ArrowRight') step(1);
  if (event.key === 'ArrowLeft') step(-1);
});

// A picture that has gone since it was indexed.
element.addEventListener('error', (event) => {
  event.target.closest('.card, .thumbnail')?.classList.add('gone');
}, true);
