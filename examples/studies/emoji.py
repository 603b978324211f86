"""Pictures of another style: emoji of Debian's font Noto Color Emoji, with their Unicode names."""

import pathlib
import shutil
import subprocess
import tempfile
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_lit import files

PACKAGE = "fonts-noto-color-emoji"
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SIZE = 109  # The only one that its bitmaps have.
# Unicode's blocks of pictographs and emoticons.
BLOCKS = (range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FA00))


def font_file() -> pathlib.Path:
    """The font of the system, or that of the package, which `apt-get download` fetches once."""
    system = pathlib.Path("/", FONT)
    kept = files.cache_directory() / PACKAGE / "NotoColorEmoji.ttf"
    if system.exists() or kept.exists():
        return system if system.exists() else kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, files.whole(kept) as working:
        options = ["-o", "APT::Sandbox::User=root"]
        subprocess.run(["apt-get", "download", PACKAGE, *options], cwd=scratch, check=True)
        package = next(pathlib.Path(scratch).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
        shutil.copyfile(pathlib.Path(scratch, FONT), working)
    return kept


def emoji(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Some emoji, drawn at random: [136, 128, 3] uint8 pixels on white, and their names."""
    font = ImageFont.truetype(str(font_file()), SIZE)
    pictures, names = [], []
    codes = [code for block in BLOCKS for code in block]
    for code in np.random.default_rng(seed).permutation(codes):
        name = unicodedata.name(chr(code), "").lower()
        picture = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(picture).text((0, 0), chr(code), font=font, embedded_color=True)
        pixels = np.asarray(picture)
        if name and np.ptp(pixels, axis=2).max() > 30:  # Others have no coloured picture.
            pictures.append(pixels)
            names.append(f"{name}.")
        if len(names) == count:
            break
    return pictures, np.array(names)
