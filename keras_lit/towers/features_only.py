"""What stands for a backbone whose features were computed before."""

from typing import Any

import keras

NO_BACKBONE = (
    "This {0} tower has no backbone (`{1}.from_features`): it takes precomputed "
    '"{0}_features" only. To encode or export {2}, give the model its {0} tower with '
    "`LiT.with_{0}_tower(tower)`."
)


@keras.saving.register_keras_serializable("keras_lit")
class FeaturesOnly(keras.Model):
    """Stands for a backbone that is elsewhere, by the width and fingerprint of its features."""

    def __init__(
        self,
        dim: int,
        fingerprint: dict[str, str] | None = None,
        side: str = "image",
        grid: tuple[int, int] | None = None,
        prefix_tokens: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.dim = dim
        self.fingerprint = fingerprint
        self.side = side
        self.grid = None if grid is None else tuple(grid)  # Of tokens, (rows, columns).
        self.prefix_tokens = prefix_tokens
        self.built = True

    @property
    def refusal(self) -> str:
        """The message for pictures or text."""
        words = {"image": ("ImageTower", "images"), "text": ("TextTower", "text")}
        return NO_BACKBONE.format(self.side, *words[self.side])

    def compute_output_spec(self, inputs: Any, training: bool = False) -> keras.KerasTensor:
        if self.grid is None:
            return keras.KerasTensor((None, self.dim), "float32")
        tokens = self.prefix_tokens + self.grid[0] * self.grid[1]
        return keras.KerasTensor((None, tokens, self.dim), "float32")

    def call(self, inputs: Any, training: bool = False) -> Any:
        raise ValueError(self.refusal)

    def get_config(self) -> dict[str, Any]:
        own: dict[str, Any] = {"dim": self.dim, "fingerprint": self.fingerprint, "side": self.side}
        if self.grid is not None:
            own |= {"grid": self.grid, "prefix_tokens": self.prefix_tokens}
        return {**super().get_config(), **own}
