"""The page itself: two tabs over what `page.handlers` answers."""

import pathlib
from typing import Any

import gradio
from search_page.handlers import LONGEST, Handlers, chips, escape
from search_page.sentences import understood

FILES = pathlib.Path(__file__).parent
LABELS = "a bird\na flower\na car\na smiling face\na fruit"


def picture_field(label: str) -> gradio.Image:
    """An upload, which reaches the model as the file that it is, and never an address to load."""
    field = gradio.Image(
        label=label,
        sources=["upload", "clipboard"],
        type="filepath",
        format="jpeg",
        height=230,
        buttons=[],
        elem_classes="given",
    )
    move = field.async_move_resource_to_block_cache

    async def move_what_was_uploaded(path: Any) -> Any:
        if "://" in str(path):
            raise ValueError("A picture should be uploaded.")
        return await move(path)

    # Of the component itself: what derives from it would have to bring its own front. No handler
    # may give `gradio.skip()` for it: gradio then makes another, without these two.
    field.async_move_resource_to_block_cache = move_what_was_uploaded
    field.preprocess = lambda upload: upload and pathlib.Path(upload.path).read_bytes()
    return field


def layout(handlers: Handlers, title: str, about: str) -> gradio.Blocks:
    """Title, search, labels."""
    script = (FILES / "page.js").read_text()

    def live(value: str = "", name: str = "") -> gradio.HTML:
        """HTML whose buttons trigger events."""
        return gradio.HTML(value, js_on_load=script, elem_classes=name, apply_default_css=False)

    hour = (3600, 3600)  # So long uploads are kept.
    with gradio.Blocks(
        title=title, analytics_enabled=False, delete_cache=hour, fill_width=True
    ) as blocks:
        gradio.HTML(f"<h1>{escape(title)}</h1><p>{escape(about)}</p>", elem_classes="head")
        status = gradio.HTML(elem_classes="status")
        with gradio.Tab("Search"):
            with gradio.Row(elem_classes="ask"):
                sentence = gradio.Textbox(
                    label="What should the pictures show?",
                    placeholder="a bird in the sky",
                    max_length=LONGEST,
                    autofocus=True,
                    scale=5,
                )
                search = gradio.Button("Search", variant="primary", scale=0, min_width=120)
            sentence_error = gradio.HTML(elem_classes="error")
            sentences = live(chips(understood(handlers.collection)))
            with gradio.Accordion("Search with a picture of your own", open=False):
                own = picture_field("Your picture")
                own_error = gradio.HTML(elem_classes="error")
            results = live(name="results")
            welcome = live(name="welcome")
            asked = gradio.State()
        with gradio.Tab("Classify"), gradio.Row():
            with gradio.Column(min_width=300):
                picture = picture_field("Picture")
                picture_error = gradio.HTML(elem_classes="error")
                examples = live()
                labels = gradio.Textbox(label="Labels, one a line", lines=5, value=LABELS)
                labels_error = gradio.HTML(elem_classes="error")
                classify = gradio.Button("Classify", variant="primary")
            with gradio.Column(min_width=300):
                bars = gradio.HTML(elem_classes="bars")

        private: dict[str, Any] = {"api_visibility": "private"}
        quiet = {**private, "show_progress": "hidden"}
        found = {
            **private,
            "outputs": [results, asked, sentence_error, own_error],
            "show_progress_on": results,
        }
        asks = [search.click, sentence.submit, own.upload]
        gradio.on(asks, handlers.search, [sentence, own], **found)
        picked = sentences.pick(handlers.pick_sentence, None, [sentence, own], **quiet)
        picked.then(handlers.search, [sentence, own], **found)
        for more in (results.more, welcome.more):
            liked = more(handlers.more, None, **found)
            liked.then(lambda: ("", None), None, [sentence, own], **quiet)
        results.further(handlers.further, asked, **found)

        compared = {
            **private,
            "outputs": [bars, picture_error, labels_error],
            "show_progress_on": bars,
        }
        compares = [classify.click, labels.submit, picture.upload]
        gradio.on(compares, handlers.classify, [picture, labels], **compared)
        chosen = examples.pick(handlers.pick_picture, None, picture, **quiet)
        chosen.then(handlers.classify, [picture, labels], **compared)

        timer = gradio.Timer(1)
        for event in (blocks.load, timer.tick):
            event(handlers.progress, welcome, [status, examples, welcome, timer], **quiet)
    blocks.queue(default_concurrency_limit=4)
    return blocks
