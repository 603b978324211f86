"""The encoder half of T5 and mT5, as text backbones."""

import keras
import keras_nlp


def t5_encoder(backbone: keras_nlp.models.T5Backbone) -> keras.Model:
    """T5's encoder without its decoder, for a `TextTower`.

    Args:
        backbone: keras-nlp's T5 (or mT5), whose layers the encoder shares.

    Returns:
        A model from {"token_ids", "padding_mask"}, both [batch, length] int32, to hidden states
        [batch, length, hidden_dim]. The paper does not tell how it pools them: pass a `pooling`,
        for example "mean".

    Example:

    >>> t5 = keras_nlp.models.T5Backbone(50, 1, 2, 8, 16)
    >>> tower = keras_lit.TextTower(keras_lit.backbones.t5_encoder(t5), pooling="mean")
    >>> tower(np.ones([3, 16], "int32")).shape
    TensorShape([3, 8])

    Reference: Raffel et al. 2020 (arXiv 1910.10683); the LiT paper, section 5.7 and Appendix J.
    """
    names = ("token_ids", "padding_mask")
    encoder = keras.Model(
        {f"encoder_{name}": backbone.input[f"encoder_{name}"] for name in names},
        backbone.output["encoder_sequence_output"],
        name="t5_encoder",
    )
    inputs = {name: keras.Input([None], dtype="int32", name=name) for name in names}
    outputs = encoder({f"encoder_{name}": tensor for name, tensor in inputs.items()})
    return keras.Model(inputs, outputs, name="t5")
