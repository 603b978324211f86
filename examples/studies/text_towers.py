"""Text towers and vocabularies: the paper's Table 4.

    python examples/studies/text_towers.py

The transformer of the paper (pre-LN, last token) and BERT (post-LN, padding mask, first token),
both of three layers 384 wide, with a SentencePiece or a WordPiece vocabulary of the training
captions; and BERT as MiniLM, of which the lower half fits, was pretrained. The image tower is
locked; a tower trains with the best of LEARNING_RATES (on the validation part).
"""

import functools

import full
import keras_nlp
import runner
import stamps

import keras_lit

VARIANTS = (
    "transformer, SentencePiece",
    "transformer, WordPiece",
    "BERT, SentencePiece",
    "BERT, WordPiece",
    "BERT, WordPiece, pretrained",
)
# The recipe's tower of either kind from scratch, at its vocabulary's size.
FULL_VARIANTS = {
    "transformer, SentencePiece": {"changes": {"text": "transformer"}},
    "BERT, WordPiece": {"changes": {"text": "bert"}},
}
LEARNING_RATES = (3e-4, 1e-3)
LAYERS, WIDTH, HEADS, LENGTH = 3, 384, 12, 12


def main() -> None:
    """Trains, measures, reports."""
    args = full.parser(
        __doc__, image_size=224, rounds=1, epochs=8, batch_size=64, tags=0.5
    ).parse_args()
    if args.full:
        full.run("text_towers", args, FULL_VARIANTS)
        return
    image_tower, data = stamps.locked(args)

    def train(variant: str, seed: int) -> list[runner.Point]:
        make = functools.partial(text_tower, variant)
        return stamps.best_rate(data, image_tower, make, seed, LEARNING_RATES, args)

    results = runner.run("text_towers", args, VARIANTS, train)
    runner.report("text_towers", args, results, stamps.TEST_METRICS, x=None)


def text_tower(variant: str, captions: list[str]) -> keras_lit.TextTower:
    """A new tower."""
    if "pretrained" in variant:
        return stamps.lower_half_of_minilm(LENGTH)
    train = keras_lit.tokenizers.train_wordpiece
    if "SentencePiece" in variant:
        train = keras_lit.tokenizers.train_sentencepiece
    tokenizer = train(captions, 2_000)
    words = tokenizer.vocabulary_size()
    if "BERT" in variant:
        backbone = keras_nlp.models.BertBackbone(words, LAYERS, HEADS, WIDTH, 4 * WIDTH)
    else:
        backbone = keras_lit.backbones.TextTransformer(
            words, LENGTH, WIDTH, LAYERS, 4 * WIDTH, HEADS
        )
    return keras_lit.TextTower(backbone, tokenizer, LENGTH)


if __name__ == "__main__":
    main()
