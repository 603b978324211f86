"""Between locked and unlocked: what of a backbone trains, where all of it need not."""

import dataclasses
import inspect
from typing import Any

import keras

from keras_lit import checks, internals
from keras_lit.towers import blocks, settings

# LoRA's usual layers by the names that keras-hub, keras-cv and we give them.
TARGETS = ("query", "value", "query_dense", "value_dense", "q_proj", "v_proj", "attention_qkv")


@keras.saving.register_keras_serializable("keras_lit")
@dataclasses.dataclass(frozen=True, repr=False)
class Lock:
    """What of a tower's backbone trains, of `LiT(..., image_options=, text_options=)`.

    For a tower whose letter is "U". What it locks is locked as by the letter "L", whatever flags
    say. Blocks that do not train run in inference mode, and so do norms. Heads train as ever. It
    belongs to the tower, as the matrices of LoRA do, and is saved with it.

    Args:
        lora: int, the rank of low-rank adapters (Keras' `enable_lora`), which alone train.
        lora_targets: names of the layers that get them (Dense, EinsumDense or Embedding). None:
            the projections to queries and values, as in the paper.
        last_blocks: int, how many blocks at the end train, and what follows them. (Of a
            convolutional network stages.) With `lora`, only these get adapters.
        layer_decay: float in (0, 1], what each block multiplies the learning rate of the one before
            it by: the last block has `layer_decay` of the head's rate. With
            `keras_lit.optimizers.Adafactor` or `Adam`.
        freeze_norms: bool, whether scales and offsets of norms stay as they are.
        freeze_embeddings: bool, whether tables of tokens, positions, and patches do.

    Raises:
        ValueError: a rank or number of blocks below 1, another `layer_decay`, targets that are one
            string.

    Example:

    >>> image_tower = keras_lit.ImageTower.from_features(8)
    >>> backbone = keras_lit.backbones.TextTransformer(100, 16, 32, 4, 64, 4)
    >>> options = keras_lit.Lock(lora=2, last_blocks=2)
    >>> model = keras_lit.LiT(
    ...     image_tower, keras_lit.TextTower(backbone), tuning="LU", text_options=options)
    >>> model.text_options
    Lock(lora=2, last_blocks=2)

    Reference: LoRA, Hu et al. 2022 (arXiv 2106.09685), section 4; layer-wise decay as in BEiT
    (arXiv 2106.08254), appendix.
    """

    lora: int | None = None
    lora_targets: tuple[str, ...] | None = None
    last_blocks: int | None = None
    layer_decay: float | None = None
    freeze_norms: bool = False
    freeze_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("lora", "last_blocks"):
            if getattr(self, name) is not None:
                checks.check_count(getattr(self, name), name)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` should be in (0, 1]. Received: {self.layer_decay!r}.")
        if self.lora_targets is not None:
            if self.lora is None:
                raise ValueError("`lora_targets` are for `lora`: give a rank, such as lora=8.")
            if isinstance(self.lora_targets, str):
                raise ValueError(
                    "`lora_targets` should be a tuple of names of layers. Received a string: "
                    f"({self.lora_targets!r},) is a tuple of one."
                )
            object.__setattr__(self, "lora_targets", tuple(self.lora_targets))

    def __repr__(self) -> str:
        said = {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}
        defaults = {x.name: x.default for x in dataclasses.fields(self)}
        return f"Lock({', '.join(f'{k}={v!r}' for k, v in said.items() if v != defaults[k])})"

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras keeps them in files.

        Returns:
            A dict.

        Example:

        >>> keras_lit.Lock(lora=8).get_config()["lora"]
        8
        """
        return {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Lock":
        """A lock of what `get_config` gave.

        Args:
            config: a dict.

        Returns:
            A `Lock`.

        Example:

        >>> keras_lit.Lock.from_config({"lora": 8})
        Lock(lora=8)
        """
        return cls(**config)


def check(tower: Any, lock: Any, letter: str, name: str) -> None:
    """Raises ValueError if it contradicts the letter, the backbone, or a lock that the tower has.

    `name` is what the user calls the argument.
    """
    if lock is None:
        return
    if not isinstance(lock, Lock):
        raise ValueError(f"`{name}` should be a `keras_lit.Lock`. Received: {lock!r}.")
    if letter == "L" or (letter == "u" and lock != Lock(layer_decay=lock.layer_decay)):
        does = {"L": "locks all of it", "u": "draws all of its weights anew"}[letter]
        raise ValueError(
            f'`{name}`={lock} is for a tower that trains from its weights ("U" in `tuning`), and '
            f'"{letter}" {does}. Choose "U", or leave `{name}` out.'
        )
    if tower.lock == lock:
        return
    if tower.lock is not None:
        off = ", or let `tower.merge_lora()` take it off" if tower.lock.lora else ""
        raise ValueError(
            f"The tower has a lock already: {tower.lock}. Received another, {lock}: make the tower "
            f"anew{off}."
        )
    _check(tower, lock)
    if lock.lora is not None:
        _adapted(tower, lock)


def apply(tower: Any, lock: Lock | None) -> None:
    """Gives a tower a lock that was checked, and LoRA's matrices."""
    if lock is None or tower.lock == lock:
        return
    for layer in _adapted(tower, lock) if lock.lora is not None else ():
        if not layer.lora_enabled:
            layer.enable_lora(lock.lora)
    take(tower, lock)


def take(tower: Any, lock: Lock | None) -> None:
    """Puts a lock in place, or takes it off; LoRA's matrices are there, or not."""
    tower.lock = lock
    trained = train_of(tower)
    runs_in_inference = set()
    if lock is not None and lock.last_blocks is not None:
        runs_in_inference |= {*map(id, blocks.split(tower.backbone, lock.last_blocks)[0])}
    for layer in internals.flat_layers(tower.backbone) if lock is not None else ():
        own = internals.own_parameters(layer)
        if "Norm" in type(layer).__name__ and own and not any(id(x) in trained for x in own):
            runs_in_inference.add(id(layer))
    for layer in internals.flat_layers(tower.backbone):
        if "call" in vars(layer) and isinstance(layer.call, _InInference):
            del layer.call
        if (
            id(layer) in runs_in_inference
            and "training" in inspect.signature(layer.call).parameters
        ):
            layer.call = _InInference(layer.call)


def train_of(tower: Any) -> set[int]:
    """The ids of what its lock lets train of a tower's backbone; without one of all."""
    backbone, lock = tower.backbone, tower.lock or Lock()
    layers = _unlocked(backbone, lock)
    if lock.freeze_norms:
        layers = [layer for layer in layers if "Norm" not in type(layer).__name__]
    if lock.freeze_embeddings:
        frozen = _embeddings(backbone)
        layers = [layer for layer in layers if id(layer) not in frozen]
    variables = [x for layer in layers for x in internals.own_parameters(layer)]
    if lock.lora is not None:
        variables = [x for x in variables if x.name.startswith("lora_")]
    return {id(x) for x in variables}


def locked(tower: Any) -> list[keras.Variable]:
    """The variables of its backbone that a tower's lock locks."""
    if tower.lock is None:
        return []
    trained = train_of(tower)
    layers = internals.flat_layers(tower.backbone)
    return [x for y in layers for x in internals.own_parameters(y) if id(x) not in trained]


def multipliers(tower: Any) -> dict[int, float]:
    """{id of a variable: what `layer_decay` multiplies its learning rate by}; others have 1."""
    if tower.lock is None or tower.lock.layer_decay is None:
        return {}
    *before, after = blocks.groups(tower.backbone)
    top = {id(x) for layer in after for x in internals.own_parameters(layer)}
    first = tower.lock.layer_decay ** len(before)  # What belongs to no layer is at the bottom.
    rates = {id(x): first for x in tower.backbone.trainable_variables if id(x) not in top}
    for i, group in enumerate(before):
        rate = tower.lock.layer_decay ** (len(before) - i)
        rates |= {id(x): rate for layer in group for x in internals.own_parameters(layer)}
    return rates


class _InInference:
    """A layer's `call` that is told of no training."""

    def __init__(self, call: Any):
        self.call = call
        self.__signature__ = inspect.signature(call)

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        return self.call(*args, training=False, **kwargs)


def _check(tower: Any, lock: Lock) -> None:
    """Raises ValueError where the backbone has not what the lock speaks of."""
    if lock.last_blocks is not None or lock.layer_decay is not None:
        blocks.split(tower.backbone, lock.last_blocks or 1)
    if lock.freeze_embeddings and not _embeddings(tower.backbone):
        family = type(tower.backbone).__name__
        raise ValueError(f"`freeze_embeddings`: {family} has none. Leave it out.")


def _unlocked(backbone: keras.Model, lock: Lock) -> list[Any]:
    """The layers of the last blocks, and what follows them; or all."""
    if lock.last_blocks is None:
        return internals.flat_layers(backbone)
    return blocks.split(backbone, lock.last_blocks)[1]


def _embeddings(backbone: keras.Model) -> set[int]:
    """The ids of the layers of embeddings, with those inside of them."""
    found = [x for x in internals.flat_layers(backbone) if "Embedding" in type(x).__name__]
    return {id(inside) for layer in found for inside in internals.flat_layers(layer)}


def _adapted(tower: Any, lock: Lock) -> list[Any]:
    """The layers that a lock gives adapters to."""
    backbone, names = tower.backbone, set(lock.lora_targets or TARGETS)
    layers = _unlocked(backbone, lock)
    can = [layer for layer in layers if hasattr(layer, "enable_lora") and layer.weights]
    can = [layer for layer in can if layer is not backbone]
    chosen = [layer for layer in can if layer.name in names]
    absent = set(lock.lora_targets or ()) - {layer.name for layer in chosen}
    if not chosen or absent:
        known = ", ".join(sorted({layer.name for layer in can})) or "none"
        raise ValueError(
            "`lora_targets` should be names of layers that can take LoRA. "
            f"{type(backbone).__name__} has no {', '.join(sorted(absent or names))}, but: {known}."
        )
    others = [x for x in chosen if x.lora_enabled and x.lora_rank != lock.lora]
    if others:
        raise ValueError(
            f"{others[0].path} has LoRA of rank {others[0].lora_rank} already. Received: {lock}."
        )
    return chosen


def merge_lora(tower: Any) -> None:
    """Adds the product of each adapter to its kernel for good, and takes the lock off."""
    layers = settings.with_lora(internals.flat_layers(tower.backbone))
    if not layers:
        raise ValueError("`merge_lora`: the tower's backbone has no LoRA to merge.")
    for layer in layers:
        settings.merge(layer)
    take(tower, None)
