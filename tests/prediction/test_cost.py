"""What a prediction costs."""

import torch
from torch import nn

from longtail.methods.method import Method
from longtail.prediction.cost import prediction_cost


class Small(Method):
    """A convolution of 3 x 3 from 3 to 4 maps with padding, and a linear layer from 4 to 5."""

    views = ()

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 5)

    @property
    def asks_for_views(self):
        return bool(self.views)

    @property
    def mixture_views(self):
        return self.views

    def predict(self, images):
        return self.head(self.conv(images).mean(dim=(2, 3)))

    def predict_with_views(self, images, views):
        return torch.stack([self.predict(view) for view in (images, *views)]).mean(dim=0)


def test_operations_and_parameters_are_counted_by_hand():
    found = prediction_cost(Small().eval(), 8, torch.device("cpu"))
    # 8 x 8 places, 4 maps, 27 weights each; 4 x 5 weights of the head
    assert found.multiply_adds == 8 * 8 * 4 * 27 + 4 * 5
    assert found.parameters == 4 * 27 + 4 * 5 + 5
    assert 0 < found.seconds < 1


def test_random_views_of_an_image_count():
    plain = prediction_cost(Small().eval(), 8, torch.device("cpu")).multiply_adds
    method = Small().eval()
    method.views = ("crop", "crop")
    assert prediction_cost(method, 8, torch.device("cpu")).multiply_adds == 3 * plain
