"""The contrastive losses of the global batch: exact on any number of replicas, linear in memory.

Replica r holds the image rows I_r and the text rows T_r of a global batch of B pairs. It gathers
all rows once, walks over the logits of its images and all texts, a tile of rows at a time, and so
learns its rows' log-sum-exps and its part of the columns'. Once those vectors are gathered too, the
gradient of the *global* loss with respect to I_r and T_r is complete here:

    dL/dT_r = s / (2B) * [(softmax over texts + softmax over images)^T I - 2 I_r],  same for I_r,

so nothing is communicated in the backward pass, and the sum over replicas that the optimizer takes
of the weights' gradients is exactly the gradient of one device. Logits exist only a tile of rows at
a time and are computed again for the gradient rather than kept.

Pairs of one group are positives of each other. The sum of an image's logits with its group's texts
is its logit with the sum of those texts, so that in the formulas the mean of the group's rows (for
the sigmoid loss their sum) takes the place of I_r and T_r: positives cost one sum by group and no
further logits.
"""

from keras_lit.losses.distillation import Distillation, distillation_loss
from keras_lit.losses.prefixes import sum_over_prefixes
from keras_lit.losses.sigmoid import sigmoid_contrastive_loss
from keras_lit.losses.softmax import softmax_contrastive_loss

__all__ = [
    "Distillation",
    "distillation_loss",
    "sigmoid_contrastive_loss",
    "softmax_contrastive_loss",
    "sum_over_prefixes",
]
__dir__ = __all__.copy
