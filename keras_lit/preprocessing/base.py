"""What both preprocessors have in common."""

import keras


def takes_raw_input(layer: keras.layers.Layer) -> None:
    """Lets a layer take Python strings and string tensors, as Keras' TextVectorization does."""
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True
    layer.built = True
