"""Pictures of one size on white, drawn by other processes and kept."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_lit.demo import drawing

PAGE = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}pt" height="{0}pt" viewBox="0 0 {0} {0}">'


def svg(folder: Path, name: str, shapes: str, side: int = 100) -> Path:
    path = folder / f"{name}.svg"
    path.write_text(PAGE.format(side) + shapes + "</svg>")
    return path


def rect(x, y, width, height, colour) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>'


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_what_is_drawn_fills_the_picture(tmp_path):
    """20 x 10 of 100 x 100 become 214 x 107 of 224 x 224, in the middle, and sharp."""
    small = svg(tmp_path, "small", rect(0, 0, 100, 100, "white") + rect(60, 70, 20, 10, "#f00"))
    picture = pixels(drawing.picture(small))
    assert picture.shape == (224, 224, 3)
    is_red = (picture == (255, 0, 0)).all(-1)
    rows, columns = is_red.any(1).nonzero()[0], is_red.any(0).nonzero()[0]
    # The small drawing was measured in whole pixels, 2.24 of them to a unit.
    np.testing.assert_allclose([rows[0], rows[-1] + 1], [58.5, 165.5], atol=5)
    np.testing.assert_allclose([columns[0], columns[-1] + 1], [5, 219], atol=5)
    between = ~is_red & (picture != 255).any(-1)
    assert between.sum() < 2 * (214 + 107) * 2  # Only along the edges: it is drawn large.


def test_white_that_is_part_of_it_stays(tmp_path):
    flag = svg(tmp_path, "flag", rect(0, 0, 100, 50, "white") + rect(0, 50, 100, 50, "#d00"))
    picture = pixels(drawing.picture(flag))
    assert (picture[5:110, 112] == 255).all()
    assert (picture[114:219, 112] == (221, 0, 0)).all()


def test_a_bitmap_is_fitted_on_white():
    # 2 x 4 pixels, green over a row that nobody sees: 214 x 214 are left of the upper 2 x 2.
    bitmap = np.zeros([4, 2, 4], "uint8")
    bitmap[:2] = (0, 128, 0, 255)
    file = io.BytesIO()
    Image.fromarray(bitmap).save(file, "png")
    picture = pixels(drawing.picture(file.getvalue()))
    assert (picture[6:218, 6:218] == (0, 128, 0)).all()
    assert (picture[:5] == 255).all() and (picture[:, 219:] == 255).all()


def test_blank_is_none(tmp_path):
    blank = svg(tmp_path, "blank", rect(0, 0, 100, 100, "#fefefe"))
    assert drawing.draw([blank], tmp_path / "drawn") == [None]
    assert drawing.draw([blank], tmp_path / "drawn") == [None]  # Kept.


def test_text_is_drawn_in_a_font_that_is_no_system_s(tmp_path):
    text = svg(tmp_path, "text", '<text x="0" y="50" font-family="Nobody has it">L</text>')
    assert (pixels(drawing.picture(text)) < 50).any()


def test_each_is_drawn_once(tmp_path, monkeypatch):
    paths = [svg(tmp_path, str(i), rect(0, 0, 50 + i, 50, "#00f")) for i in range(3)]
    first = drawing.draw(paths[:2], tmp_path / "drawn")
    asked = []
    run = drawing._run_workers
    monkeypatch.setattr(
        drawing, "_run_workers", lambda jobs: (asked.extend(jobs.values()), run(jobs))
    )
    copy = tmp_path / "copy.svg"
    copy.write_bytes(paths[0].read_bytes())
    again = drawing.draw([paths[2], copy, paths[1]], tmp_path / "drawn")
    assert asked == [paths[2]]  # Alike content counts, not the name.
    assert again[1:] == first and again[0] not in first
    # A file that the machine did not get to fill is none.
    next((tmp_path / "drawn").glob("*.png")).write_bytes(b"")
    assert drawing.draw([paths[2], copy, paths[1]], tmp_path / "drawn") == again
    assert len(asked) == 2


def test_what_does_not_draw_is_named(tmp_path):
    bad = tmp_path / "bad ü.svg"
    bad.write_text("<svg")
    with pytest.raises(ValueError, match=r"bad ü\.svg should be an SVG picture, but"):
        drawing.draw([bad], tmp_path / "drawn")


def test_killed_it_goes_on(tmp_path):
    """The process and, when they notice, its workers."""
    paths = [svg(tmp_path, str(i), rect(0, 0, 50, 50 + i / 10, "#0aa")) for i in range(150)]
    drawn = tmp_path / "drawn"
    code = (
        "import pathlib, drawing\n"
        f"paths = sorted(pathlib.Path({str(tmp_path)!r}).glob('*.svg'))\n"
        f"drawing.draw(paths, pathlib.Path({str(drawn)!r}))"
    )
    demo = Path(drawing.__file__).parent
    child = subprocess.Popen([sys.executable, "-c", code], cwd=demo, stderr=subprocess.DEVNULL)
    end = time.time() + 60
    while len(list(drawn.glob("*.png"))) < 10 and time.time() < end:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in drawn.glob("*.png")}
    assert len(kept) >= 10
    pictures = drawing.draw(paths, drawn)
    assert all(pixels(picture).shape == (224, 224, 3) for picture in pictures)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
