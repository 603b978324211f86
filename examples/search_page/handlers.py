"""What each click of the page is answered with, in HTML."""

import html
import io
import sqlite3
from typing import Any

import gradio
import numpy as np
import PIL.Image
import tensorflow as tf
from search_page import labels as labels_lib
from search_page.collection import LARGE, SMALL, Collection, Found
from search_page.labels import NONE, Classifier

from keras_lit.preprocessing.image import why_not

FIRST, MOST = 24, 240  # pictures of an answer
LONGEST = 2000  # characters
EXAMPLES, WELCOME = 8, 24
GONE = (OSError, ValueError, sqlite3.Error)  # What an index raises whose folder has vanished.
DONE_ONES = "These can be searched already."
CHANGES = "Looking for what has changed."
FIRST_ONES = "A search waits for the first of them."
NOT_YET = "No picture is indexed yet: ask again in a moment."
NOT_CLEAR = "Nothing stands out for this: here are the nearest."


class Handlers:
    """Functions of what a visitor typed, uploaded or clicked; errors go beside their field."""

    def __init__(self, collection: Collection, classifier: Classifier):
        self.collection, self.classifier = collection, classifier

    # Search.

    def search(self, sentence: str | None, picture: bytes | None) -> list[Any]:
        """[grid, what was asked, error of the sentence, error of the picture]."""
        sentence = (sentence or "").strip()
        if not sentence and picture is None:
            return _beside_sentence("Type what the pictures should show, or give a picture.")
        if len(sentence) > LONGEST:
            return _beside_sentence(f"A sentence should have at most {LONGEST} characters.")
        what, vectors = [], []
        if sentence:
            what.append(f"“{escape(sentence if len(sentence) < 80 else sentence[:80] + '…')}”")
            try:
                vectors.append(self.collection.encode([sentence])[0])
            except ValueError as error:
                return _beside_sentence(str(error))
        if picture is not None:
            what.append("your picture")
            try:
                vectors.append(self.collection.encode([picture])[0])
            except ValueError:
                return [gradio.skip(), gradio.skip(), "", alert(unreadable(picture))]
        vector = np.sum(vectors, axis=0)
        vector /= np.linalg.norm(vector)
        return self._grid((" and ".join(what), vector, not sentence, FIRST))

    def more(self, event: gradio.EventData) -> list[Any]:
        """Pictures like one that was found."""
        try:
            number = int(event.value)
            vector = self.collection.encode([self.collection.read(number)])[0]
        except (OSError, ValueError, TypeError, AttributeError):
            return _beside_sentence("That picture is not there any more.")
        src = f"picture/{number}?size={SMALL}"
        what = f'<img class="like" src="{src}" alt="this one">'
        return self._grid((what, vector, True, FIRST))

    def further(self, asked: Any) -> list[Any]:
        """The same once more, with more pictures."""
        return self._grid((*asked[:3], asked[3] + FIRST)) if asked else [gradio.skip()] * 4

    def pick_sentence(self, event: gradio.EventData) -> tuple[str, None]:
        """One that was clicked, into its field."""
        return str(event.value), None

    def _grid(self, asked: tuple[str, np.ndarray, bool, int]) -> list[Any]:
        what, vector, of_picture, k = asked
        try:
            found = self.collection.search(vector, of_picture, min(k, MOST))
        except GONE as error:
            return _beside_sentence(f"The index cannot be read: {error}")
        if not found:
            return _beside_sentence(NOT_YET)
        note = NOT_CLEAR if found[0].words == "weak match" else ""
        further = len(found) == k < MOST
        return [grid(f"Nearest to {what}", found, note, further), asked, "", ""]

    # Labels.

    def classify(self, picture: bytes | None, labels: str | None) -> list[Any]:
        """[bars, error of the picture, error of the labels]."""
        names, twice = labels_lib.of_lines(labels)
        of_picture = "Give a picture." if picture is None else ""
        of_labels = ""
        if not names:
            of_labels = "Give a label, one a line."
        elif len(names) > labels_lib.MOST:
            of_labels = f"Give at most {labels_lib.MOST} labels. There are {len(names)}."
        elif max(map(len, names)) > LONGEST:
            of_labels = f"A label should have at most {LONGEST} characters."
        if of_picture or of_labels or picture is None:
            return ["", alert(of_picture), alert(of_labels)]
        try:
            embedding = self.collection.encode([picture])[0]
        except ValueError:
            return ["", alert(unreadable(picture)), ""]
        try:
            sample = self.collection.sample()
        except GONE:
            sample = None
        others = embedding[np.newaxis] if sample is None else sample.vectors
        try:
            return [bars(self.classifier(embedding, names, others), twice), "", ""]
        except ValueError as error:  # What the tokenizer cannot read.
            return ["", "", alert(str(error))]

    def pick_picture(self, event: gradio.EventData) -> PIL.Image.Image | None:
        """An example that was clicked, as if it had been uploaded."""
        try:
            content = self.collection.jpeg(int(event.value), LARGE)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        return PIL.Image.open(io.BytesIO(content))

    # Progress.

    def progress(self, welcome: str | None) -> list[Any]:
        """[status, example pictures, what is seen before the first search, the timer].

        The timer stops when all is indexed.
        """
        collection = self.collection
        try:
            index = collection.index()
            count = len(index) if index else 0
            refused = index.refused if index else {}
            pictures = thumbnails(collection.examples(EXAMPLES))
            # Once only: what changes every second cannot be clicked.
            some = [] if welcome else collection.examples(WELCOME)
            said = status(collection, count, refused)
        except GONE as error:
            said, pictures, some = alert(f"The index cannot be read: {error}"), "", []
        shown = grid("Some of the pictures", some) if some else gradio.skip()
        return [said, pictures, shown, gradio.Timer(active=not collection.finished)]


def escape(text: str) -> str:
    """Text as HTML, of which gradio's templates make nothing else."""
    text = html.escape(text)
    for character in "{}$`\\":
        text = text.replace(character, f"&#{ord(character)};")
    return text


def alert(message: str) -> str:
    """A message beside a field; nothing is no message."""
    return f'<p role="alert">{escape(message)}</p>' if message else ""


def chips(sentences: list[tuple[str, str]]) -> str:
    """Sentences to click, each in its language."""
    buttons = [
        f'<button class="chip" lang="{language}" dir="auto" data-event="pick" '
        f'data-value="{escape(sentence)}">{escape(sentence)}</button>'
        for language, sentence in sentences
    ]
    return f'<div class="chips"><span>Try</span>{"".join(buttons)}</div>'


def thumbnails(pictures: list[Found]) -> str:
    """Pictures to click."""
    buttons = [
        f'<button class="thumbnail" data-event="pick" data-value="{x.id}" '
        f'title="{escape(x.name)}">{_image(x)}</button>'
        for x in pictures
    ]
    return f'<div class="chips"><span>Try</span>{"".join(buttons)}</div>' if buttons else ""


def unreadable(content: bytes) -> str:
    """Why a file that was given is not a picture."""
    return f"This file is not a readable picture. {why_not(tf.constant(content)).numpy().decode()}"


def grid(heading: str, found: list[Found], note: str = "", further: bool = False) -> str:
    """Uncropped pictures with names and scores, and the dialog that shows one large.

    Args:
        heading: HTML.
        found: what to show.
        note: a sentence below the heading.
        further: whether there is a button that asks for more.
    """
    cards = [
        f'<li class="card"><button class="open" data-large="picture/{x.id}?size={LARGE}" '
        f'data-id="{x.id}" aria-label="Enlarge {escape(x.name)}">{_image(x)}</button>'
        f'<div class="caption"><span class="name" title="{escape(x.name)}">{escape(_last(x.name))}'
        f"</span>{_score(x)}</div>"
        f'<button class="more" data-event="more" data-value="{x.id}">More like this</button>'
        "</li>"
        for x in found
    ]
    below = f'<p class="note">{note}</p>' if note else ""
    button = '<button class="further" data-event="further">Show more</button>' if further else ""
    return (
        f'<h2>{heading}</h2>{below}<ul class="grid">{"".join(cards)}</ul>{button}'
        '<dialog><img alt=""><div class="caption"><span class="name"></span>'
        '<span class="score"></span></div><div class="buttons">'
        '<button data-step="-1" aria-label="Previous">‹</button>'
        '<button data-step="1" aria-label="Next">›</button>'
        '<button class="more" data-event="more">Find more like this</button>'
        "<button data-close autofocus>Close</button></div></dialog>"
    )


def bars(answer: labels_lib.Answer, twice: int) -> str:
    """A sentence, and a bar for each label; their percents add up to 100."""
    percents = labels_lib.percent([p for _, p in answer.probabilities])
    rows = [
        f'<li class="{"none" if label == NONE else ""}"><span class="name">{escape(label)}</span>'
        f'<span class="score">{percent} %</span>'
        f'<span class="bar"><span style="width: {100 * p:.1f}%"></span></span></li>'
        for (label, p), percent in zip(answer.probabilities, percents, strict=True)
    ]
    notes = []
    if answer.threshold is not None:
        notes.append(f"An answer is given from {100 * answer.threshold:.0f} % on.")
    if twice:
        lines = "line repeats a label and was" if twice == 1 else "lines repeat a label and were"
        notes.append(f"{twice} {lines} left out.")
    return (
        f"<h2>{escape(answer.accepted or NONE)}</h2><ul>{''.join(rows)}</ul>"
        f'<p class="note">{" ".join(notes)}</p>'
    )


def status(collection: Collection, count: int, refused: dict[str, str]) -> str:
    """How far the index is, and what is not in it."""
    if collection.error:
        text = alert(f"The folder could not be indexed: {collection.error}")
    elif not collection.finished:
        done = min(count + len(refused), collection.total)
        said = DONE_ONES if done else FIRST_ONES
        if done == collection.total:  # As it was when the page began.
            said = CHANGES
        return (
            f'<progress max="{collection.total}" value="{done}"></progress> Indexing: {done:,} of '
            f"{collection.total:,} pictures. {said}"
        )
    else:
        text = f"{count:,} {'picture' if count == 1 else 'pictures'}"
    if refused:
        reasons = "".join(
            f"<li>{escape(name)}: {escape(reason)}</li>"
            for name, reason in [*refused.items()][:100]
        )
        files = "1 file" if len(refused) == 1 else f"{len(refused):,} files"
        text += f"<details><summary>{files} left out</summary><ul>{reasons}</ul></details>"
    return text


def _beside_sentence(message: str) -> list[Any]:
    return [gradio.skip(), gradio.skip(), alert(message), ""]


def _image(picture: Found) -> str:
    src = f"picture/{picture.id}?size={SMALL}"
    return f'<img src="{src}" alt="{escape(_last(picture.name))}" loading="lazy">'


def _last(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _score(picture: Found) -> str:
    if picture.cosine is None:
        return ""
    words = picture.words or f"similarity {picture.cosine:.2f}"
    return f'<span class="score" title="Cosine similarity {picture.cosine:.3f}">{words}</span>'
