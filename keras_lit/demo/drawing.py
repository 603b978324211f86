"""Pictures of one size on white: SVG files drawn, bitmaps fitted, each once, by all cores.

`draw` starts this very file as its workers: resvg holds Python's lock, so threads do not help, and
the processes of `multiprocessing` would import TensorFlow and the user's script again.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SIZE = 224  # pixels, height and width
INK = 214  # the longer side of what is drawn
MAX_ZOOM = 8  # of what fills a small part of its page
FAINT = 5  # of 255: nobody sees less
BLANK = b"blank"
RECIPE = b"1"  # under another one nothing that is kept counts
FONTS = ("Sans", "Sans-Bold", "Serif", "Serif-Bold", "SansMono", "SansMono-Bold")
Source = pathlib.Path | bytes


def draw(sources: Sequence[Source], folder: pathlib.Path) -> list[bytes | None]:
    """The PNG pictures of SVG and bitmap files, or of a bitmap's content; None for a blank one.

    They are kept in `folder` by a hash of their sources, each complete or not there: a killed run
    goes on where it was. All cores draw the missing ones, under a progress bar.

    Raises:
        ImportError: resvg-py is not installed.
        ValueError: a file does not draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / f"{_digest(source)}.png" for source in sources]
    missing = {path: source for path, source in zip(kept, sources, strict=True) if _is_new(path)}
    if missing:
        _run_workers(missing)
    pictures = [path.read_bytes() for path in kept]
    return [None if picture == BLANK else picture for picture in pictures]


def _digest(source: Source) -> str:
    content = source if isinstance(source, bytes) else source.read_bytes()
    return hashlib.sha256(RECIPE + content).hexdigest()


def _is_new(path: pathlib.Path) -> bool:
    """Also where the machine stopped before the file's content was on the disk."""
    return not (path.exists() and path.stat().st_size)


def _run_workers(missing: dict[pathlib.Path, Source]) -> None:
    import tqdm

    jobs = [
        (str(path), source.hex() if isinstance(source, bytes) else str(source.resolve()))
        for path, source in missing.items()
    ]
    count = min(os.cpu_count() or 1, -(-len(jobs) // 50))
    reports, report = os.pipe()
    command = [sys.executable, "-P", __file__]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": report, "text": True}
    workers = [subprocess.Popen(command, **options) for _ in range(count)]
    os.close(report)
    try:
        for number, worker in enumerate(workers):
            assert worker.stdin is not None
            # In strides rather than runs, as large files stand together.
            worker.stdin.write(json.dumps(jobs[number::count]) + "\n")
            worker.stdin.close()
        with (
            open(reports, encoding="utf-8") as lines,
            tqdm.tqdm(total=len(jobs), desc="Drawing", unit=" pictures") as bar,
        ):
            for line in lines:
                if line.strip():
                    kind, message = json.loads(line)
                    raise {"ImportError": ImportError}.get(kind, ValueError)(message)
                bar.update()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(_is_new(path) for path in missing):
        raise RuntimeError("A process that draws ended early, see above. Run it again to go on.")


def render(svg: pathlib.Path, size: int, fonts: Sequence[str] = ()) -> bytes:
    """PNG bytes of an SVG file on a transparent ground, its longer side `size` pixels.

    Without `fonts` (files of DejaVu) text is not drawn: those of the system would make the pixels
    depend on the machine.

    Raises:
        ImportError: resvg-py is not installed.
        ValueError: the file does not draw.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError(
            f"Drawing {svg} needs the package resvg-py. Run `pip install keras_lit[demo]`."
        ) from error
    try:
        # Both sides given, resvg fits the picture into the square. Sizes in pt, cm or mm fail
        # without a resolution.
        return resvg_py.svg_to_bytes(
            svg_path=str(svg),
            width=size,
            height=size,
            dpi=96,
            skip_system_fonts=True,
            font_files=list(fonts),
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
            serif_family="DejaVu Serif",
            monospace_family="DejaVu Sans Mono",
        )
    except ValueError as error:
        raise ValueError(
            f"{svg} should be an SVG picture, but it does not draw: {error}. Repair or remove it."
        ) from error


def _fonts(svg: pathlib.Path) -> list[str]:
    """Font files for what a drawing says; matplotlib brings them."""
    spec = importlib.util.find_spec("matplotlib") if b"<text" in svg.read_bytes() else None
    folder = pathlib.Path(str(spec and spec.origin)).parent / "mpl-data/fonts/ttf"
    return [str(file) for name in FONTS if (file := folder / f"DejaVu{name}.ttf").is_file()]


def picture(source: Source) -> bytes | None:
    """The drawing as PNG bytes, `SIZE` x `SIZE` on white; None where all is white."""
    from PIL import Image, ImageOps

    svg = source if isinstance(source, pathlib.Path) and source.suffix == ".svg" else None
    fonts = [] if svg is None else _fonts(svg)
    image = _rgba(source if svg is None else render(svg, SIZE, fonts))
    box = _ink(image)
    if box is None:
        return None
    longer = max(box[2] - box[0], box[3] - box[1])
    if svg is not None and longer < INK:
        image = _rgba(render(svg, round(SIZE * min(INK / longer, MAX_ZOOM)), fonts))
        box = _ink(image)
    image = _on_white(image).crop(box)
    if svg is None or not INK - 10 <= max(image.size) <= SIZE:
        image = ImageOps.contain(image, (INK, INK), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (SIZE, SIZE), "white")
    page.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    file = io.BytesIO()
    page.save(file, "png")
    return file.getvalue()


def _rgba(source: Source) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).convert("RGBA")


def _on_white(image: Any) -> Any:
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _ink(image: Any) -> tuple[int, int, int, int] | None:
    """The box of what is drawn: left, upper, right, lower.

    White counts, or the flag of Poland would be red, unless it is most of the page.
    """
    from PIL import ImageChops

    seen = ImageChops.invert(_on_white(image)).point(lambda ink: 255 * (ink > FAINT)).getbbox()
    if seen is None:
        return None
    drawn = image.getchannel("A").point(lambda alpha: 255 * (alpha > FAINT)).getbbox()
    return seen if 4 * _area(seen) < _area(drawn) else drawn


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _work() -> None:
    """A worker: reads jobs as lines of JSON, and answers each by a line, or the error."""
    for path, source in json.loads(sys.stdin.readline()):
        is_file = pathlib.Path(source).is_absolute()
        try:
            drawn = picture(pathlib.Path(source) if is_file else bytes.fromhex(source))
        except (ImportError, ValueError, OSError) as error:
            print(json.dumps([type(error).__name__, str(error)[:1000]]), flush=True)
            return
        working = pathlib.Path(f"{path}.{os.getpid()}.tmp")
        working.write_bytes(drawn or BLANK)
        working.replace(path)
        print(flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # The caller was killed.
        _work()
