"""The hyper-parameters of the paper's training runs, and of one for few pairs, by name.

    recipe = keras_lit.recipes.get("cc12m")
    image_tower = keras_lit.ImageTower(backbone, preprocessor=recipe.image_preprocessor())
    model = keras_lit.LiT(image_tower, text_tower, **recipe.lit_options())
    model.compile(recipe.optimizer())
    model.fit(pairs.repeat().batch(recipe.batch_size), steps_per_epoch=..., epochs=...)

Where the paper leaves something open, `notes` says what is chosen here.
"""

import dataclasses
from typing import Any, Literal, get_args

import keras

from keras_lit import checks
from keras_lit.optimizers import Adafactor, Adam, WarmupSchedule
from keras_lit.preprocessing import ImagePreprocessor

__all__ = ["Recipe", "get"]

Name = Literal["cc12m", "yfcc", "public_mixed", "private", "coco", "few_pairs"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of one training run; the arguments are the attributes.

    Args:
        tuning: two letters, as for `LiT`.
        image_head: bool, whether the image tower has a linear head; the text tower always has one.
        text: "bert" (WordPiece, 30,522 words, first token), "transformer" (SentencePiece, 32,000
            words, last token; the paper's ViT-like one), or "pretrained" (any sentence encoder).
        sequence_length: int, tokens.
        image_size: int, pixels.
        inception_crop: bool, whether training crops at random; otherwise images are only resized.
        random_flip: bool, whether half of the images are mirrored.
        optimizer_name: "adam" or "adafactor".
        learning_rate: float, at the end of the warmup; a cosine to 0 follows.
        weight_decay: float, in the convention of the paper's code: not multiplied by the learning
            rate, only by the schedule. `optimizer` converts it.
        global_clipnorm: float, or None for no clipping.
        batch_size: int, over all devices.
        steps: int.
        warmup_steps: int.
        temperature: float, the initial one.
        lock_heads: bool, as for `LiT`.
        align: bool, whether `LiT.align` sets the heads before `fit`.
        notes: what the paper does not say, and what is used here.

    Example: a recipe with another learning rate.

    >>> recipe = dataclasses.replace(keras_lit.recipes.get("yfcc"), learning_rate=3e-4)
    >>> recipe.steps
    60000
    """

    tuning: str
    text: Literal["bert", "transformer", "pretrained"]
    optimizer_name: Literal["adam", "adafactor"]
    learning_rate: float
    weight_decay: float
    global_clipnorm: float | None
    steps: int
    warmup_steps: int
    batch_size: int = 16_384
    image_head: bool = False
    inception_crop: bool = False
    random_flip: bool = False
    sequence_length: int = 16
    image_size: int = 224
    temperature: float = 10.0
    lock_heads: bool = False
    align: bool = False
    notes: str = ""

    def optimizer(
        self, batch_size: int | None = None, steps: int | None = None, **options: Any
    ) -> keras.optimizers.Optimizer:
        """A `keras_lit.optimizers.Adam` or `Adafactor` with the recipe's schedule.

        Args:
            batch_size: int, the one that fits your hardware; None for the recipe's. A smaller one
                trains for proportionally more steps, so that as many pairs are seen.
            steps: int, for another length of training. The warmup keeps its share of it.
            **options: of the optimizer, in addition to the recipe's or in their place, for example
                `image_multiplier`.

        Returns:
            The optimizer, for `LiT.compile`.

        Example:

        >>> optimizer = keras_lit.recipes.get("cc12m").optimizer(steps=120)
        >>> float(optimizer.weight_decay), float(optimizer.learning_rate)
        (0.1, 0.0)
        """
        total = self.total_steps(batch_size) if steps is None else steps
        warmup = round(total * self.warmup_steps / self.steps)
        schedule = WarmupSchedule(self.learning_rate, total, warmup)
        settings: dict[str, Any] = {
            "learning_rate": schedule,
            # Keras multiplies it by the learning rate; the paper's code does not.
            "weight_decay": self.weight_decay / self.learning_rate if self.weight_decay else None,
            "global_clipnorm": self.global_clipnorm,
        }
        return {"adam": Adam, "adafactor": Adafactor}[self.optimizer_name](**settings | options)

    def total_steps(self, batch_size: int | None = None) -> int:
        """The number of steps that see as many pairs as the recipe does.

        Args:
            batch_size: int, the one that fits your hardware; None for the recipe's.

        Returns:
            An int.

        Example:

        >>> recipe = keras_lit.recipes.get("cc12m")
        >>> recipe.steps, recipe.total_steps(recipe.batch_size // 4)
        (12000, 48000)
        """
        return round(self.steps * self.batch_size / (batch_size or self.batch_size))

    def image_preprocessor(self, **options: Any) -> ImagePreprocessor:
        """The recipe's resizing and augmentation.

        Args:
            **options: of `ImagePreprocessor`, in addition to the recipe's or in their place.

        Returns:
            An `ImagePreprocessor`.

        Example:

        >>> keras_lit.recipes.get("yfcc").image_preprocessor(value_range="0..1").random_crop
        (0.05, 1.0)
        """
        settings: dict[str, Any] = {
            "image_size": self.image_size,
            "random_crop": (0.05, 1.0) if self.inception_crop else None,
            "random_flip": self.random_flip,
        }
        return ImagePreprocessor(**settings | options)

    def lit_options(self) -> dict[str, Any]:
        """The recipe's keyword arguments of `LiT`.

        Returns:
            A dict such as {"tuning": "Lu", "temperature": 10.0, "lock_heads": False}.

        Example:

        >>> keras_lit.recipes.get("cc12m").lit_options()
        {'tuning': 'LU', 'temperature': 10.0, 'lock_heads': False}
        """
        return {name: getattr(self, name) for name in ("tuning", "temperature", "lock_heads")}


# Appendix D; those derived from it name what differs.
_CC12M = Recipe(
    tuning="LU",
    text="bert",
    optimizer_name="adam",
    learning_rate=1e-3,
    weight_decay=1e-4,
    global_clipnorm=1.0,
    steps=12_000,
    warmup_steps=2_000,
    inception_crop=True,
    notes="Adafactor in place of Adam for a Large text tower. The first 50,000 pairs are for "
    "validation.",
)
RECIPES = {
    "cc12m": _CC12M,
    # Appendix E and Table 13.
    "yfcc": dataclasses.replace(
        _CC12M,
        steps=60_000,
        image_head=True,
        notes="The paper sweeps learning rates 1e-3, 8e-4, 3e-4, weight decays 1e-4, 1e-5 and "
        "2,500 to 60,000 steps. The warmup is that of CC12M. Table 13 has a head on the image "
        "tower in all rows.",
    ),
    # Table 13, the model of Table 1's "public".
    "public_mixed": dataclasses.replace(
        _CC12M,
        optimizer_name="adafactor",
        learning_rate=8e-4,
        steps=60_000,
        notes="Alternating batches of CC12M and YFCC100M; ViT-L/16 and BERT-large. Table 13 prints "
        "an image head, the released LiT-L16L has none. The warmup is that of CC12M.",
    ),
    # Appendix C, the 901M pairs of its ablations.
    "private": Recipe(
        tuning="Lu",
        text="transformer",
        optimizer_name="adafactor",
        learning_rate=1e-3,
        weight_decay=0.0,
        global_clipnorm=None,
        steps=55_000,
        warmup_steps=10_000,
        notes="Clipping is not stated. The best model saw 18.2B pairs (1.1M steps of 16,384, or "
        "550,000 of 32,768) at 288 pixels.",
    ),
    # big_vision's lit_coco.py.
    "coco": dataclasses.replace(
        _CC12M,
        weight_decay=1e-2,
        batch_size=4_096,
        steps=5_000,
        warmup_steps=150,
        inception_crop=False,
        random_flip=True,
        lock_heads=True,
        notes="For demonstration. big_vision also applies RandAugment (2 operations of magnitude "
        "10), which is left out here.",
    ),
    # From no paper: `examples/quickstart.py`, chosen on its validation pairs.
    "few_pairs": Recipe(
        tuning="LL",
        text="pretrained",
        optimizer_name="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        global_clipnorm=1.0,
        batch_size=512,
        steps=480,
        warmup_steps=48,
        sequence_length=24,
        align=True,
        notes="For 300 to 10,000 pairs: both towers are locked, so that features can be cached; "
        "heads are a `backbones.ResidualHead` as wide as the narrower features; `LiT.align`, then "
        "`fit`, 40 epochs of 5,700 pictures, each with one of its captions. The text tower has "
        'been trained on sentences. Pairs with alike captions have one "group".',
    ),
}


def get(name: Name) -> Recipe:
    """A recipe by name: from LiT's appendices (arXiv 2111.07991), from big_vision, or our own.

    Args:
        name: "cc12m", "yfcc", "public_mixed" and "private" of the paper, "coco" of big_vision's
            lit_coco.py, or "few_pairs": `LiT.align`, then `fit`.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: unknown name.

    Example:

    >>> keras_lit.recipes.get("private").total_steps(batch_size=1024)
    880000
    """
    checks.check_one_of(name, get_args(Name), "name")
    return RECIPES[name]
