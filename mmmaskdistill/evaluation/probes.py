"""Judge frozen features without training a network on them.

Both probes have a closed form, so their results do not depend on a learning rate, on
a seed or on the length of a training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmaskdistill.errors import ConfigError

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class RidgeProbe:
    """A linear segmentor of frozen patch features, fitted by ridge regression.

    It maps the feature of a patch, x, to the share of the patch that each class
    covers, y. With centered x and y it minimizes ::

        sum_i |W x_i - y_i|^2 + strength * trace(X^T X) / D * |W|^2

    The strength is the one of ``strengths`` with the smallest squared error, where
    each half of the images is predicted from the other half. Only sums over the
    patches are kept, so any number of images can be added.

    Args:
        channels (int): Channels D of the features.
        num_classes (int): Number of classes K.
        strengths (Sequence[float]): Strengths of the regularization to choose from.
            Defaults to 1e-5 to 1.
    """

    def __init__(
        self, channels: int, num_classes: int, strengths: Sequence[float] = STRENGTHS
    ):
        self.channels, self.num_classes = channels, num_classes
        self.strengths = strengths
        size = 1 + channels + num_classes
        # [1, x, y]^T [1, x, y], summed over the patches of the even and of the odd
        # images. It holds everything that the regression needs.
        self._sums = torch.zeros(2, size, size, dtype=torch.float64)
        self._images = 0
        self.weight = self.bias = self.strength = None

    def add(self, features: Tensor, shares: Tensor) -> None:
        """Add the patches of a training image.

        Args:
            features (Tensor): Features [N, D] of the patches.
            shares (Tensor): Shares of the classes, [N, K], as :func:`class_shares`
                returns them. Patches without a labeled pixel are left out.
        """
        labeled = shares.sum(1) > 0
        rows = torch.cat([features.new_ones(len(features), 1), features, shares], 1)
        rows = rows[labeled].double().cpu()
        self._sums[self._images % 2] += rows.T @ rows
        self._images += 1

    def fit(self) -> None:
        """Choose the strength and compute the weights.

        Raises:
            ConfigError: If fewer than two images have been added.
        """
        if self._images < 2:
            raise ConfigError(
                f'a linear probe needs 2 training images or more, not {self._images}'
            )
        errors = [
            sum(
                self._error(self._sums[1 - half], *self._solve(self._sums[half], s))
                for half in (0, 1)
            )
            for s in self.strengths
        ]
        self.strength = self.strengths[int(torch.tensor(errors).argmin())]
        weight, bias = self._solve(self._sums.sum(0), self.strength)
        self.weight, self.bias = weight.float(), bias.float()

    def predict(self, features: Tensor) -> Tensor:
        """Predict the shares of the classes.

        Args:
            features (Tensor): Features [N, D].

        Returns:
            Tensor: Shares [N, K]. They may lie outside of 0 to 1.
        """
        return F.linear(
            features.float(),
            self.weight.to(features.device),
            self.bias.to(features.device),
        )

    def _solve(self, sums: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Return the weight [K, D] and the bias [K] of a regression."""
        count, d = sums[0, 0].clamp(min=1), 1 + self.channels
        mean = sums[0] / count
        centered = sums - count * mean[:, None] * mean
        gram, cross = centered[1:d, 1:d], centered[1:d, d:]
        ridge = strength * gram.trace() / self.channels + 1e-12
        gram = gram + ridge * torch.eye(self.channels, dtype=gram.dtype)
        weight = torch.linalg.solve(gram, cross).T
        return weight, mean[d:] - weight @ mean[1:d]

    def _error(self, sums: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the summed squared error of a regression on other patches."""
        # The error is [1, x, y] a, and its square is a^T sums a.
        a = torch.cat([bias[:, None], weight, -torch.eye(len(bias)).double()], 1)
        return ((a @ sums) * a).sum()


def class_shares(
    labels: Tensor, grid: tuple[int, int], num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Compute which share of each patch each class covers.

    Args:
        labels (Tensor): A label map [H, W], int64.
        grid (tuple[int, int]): Patch grid (h, w). A patch may have a fractional
            size; then a pixel belongs to each patch that it touches.
        num_classes (int): Number of classes K.
        ignore_index (int): Label of pixels that do not count. Defaults to 255.

    Returns:
        Tensor: Shares [h*w, K] of the pixels that count; 0 for a patch without one.
    """
    counts = labels != ignore_index
    one_hot = F.one_hot(labels.where(counts, 0), num_classes) * counts[..., None]
    shares = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float(), grid)
    shares = shares.flatten(1).T  # [h*w, K]
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-12)


def confusion(
    prediction: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Count how often each class is predicted as each class.

    Args:
        prediction (Tensor): Predicted label map [H, W].
        labels (Tensor): Label map [H, W].
        num_classes (int): Number of classes K.
        ignore_index (int): Label of pixels that do not count. Defaults to 255.

    Returns:
        Tensor: Counts [K, K] int64; the rows are the labels.
    """
    counts = labels != ignore_index
    pairs = labels[counts] * num_classes + prediction[counts]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, -1)


def mean_iou(matrix: Tensor) -> float:
    """Compute the mean IoU over the classes that occur, in percent.

    Args:
        matrix (Tensor): Counts [K, K], as :func:`confusion` returns them.

    Returns:
        float: The mean over the classes that are labeled or predicted somewhere.
    """
    hits = matrix.diagonal().double()
    union = matrix.sum(0) + matrix.sum(1) - hits
    return (100 * (hits / union)[union > 0].mean()).item()


def attention_distance(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute how far the patches attend, as a mean over images and queries.

    It is the distance between the centers of query and key, weighted by the attention
    to the patches, whose weights are scaled to a sum of 1 (as in arXiv 2010.11929,
    section 4.5). Queries that attend to the class token only, so that the weights of
    all patches are rounded to 0, are left out.

    Args:
        weights (Tensor): Attention weights [B, heads, 1+N, 1+N], the class token
            first.
        grid (tuple[int, int]): Patch grid (h, w), N = h*w.

    Returns:
        Tensor: Mean distance of each head in patches, [heads]. NaN where no query
        counts.
    """
    rows, columns = grid
    centers = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    distance = torch.cdist(centers, centers).to(weights.device)
    patches = weights[:, :, 1:, 1:]
    distances = (patches * distance).sum(-1) / patches.sum(-1)
    return distances.nanmean((0, 2))


def nearest_neighbors(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Classify images by their nearest neighbors, as DINO does.

    A training image votes for its class with the weight
    ``exp(cosine similarity / temperature)`` (public code of arXiv 2104.14294).

    Args:
        train (Tensor): Features [M, D] of the training images.
        train_labels (Tensor): Their classes, [M] int64.
        test (Tensor): Features [L, D] of the images to classify.
        num_classes (int): Number of classes.
        k (int): Number of neighbors that vote. Defaults to 20, or all training
            images if there are fewer.
        temperature (float): Temperature of the votes. Defaults to 0.07.

    Returns:
        Tensor: Predicted classes, [L] int64.
    """
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    nearest, index = similarity.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), num_classes, device=test.device)
    votes.scatter_add_(1, train_labels[index], (nearest / temperature).exp())
    return votes.argmax(1)
