import pytest
import torch
from torch.nn.functional import normalize

from dmlbench.losses.mining import distance_weighted_probabilities, distance_weighted_triplets, semihard_triplets


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make_batch(counts=(4, 3, 3, 2, 1), dimension=8):
    """Classes of several sizes; the last is a singleton, whose member has no positive."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return normalize(torch.randn(len(labels), dimension, generator=seeded(0))), labels


def miners():
    return {
        "distance": distance_weighted_triplets,
        "semihard": lambda e, y, g: semihard_triplets(e, y, 0.2, g),
    }


def frequencies(miner, embeddings, labels, draws=4000):
    size, generator = len(labels), seeded(1)
    positives, negatives = torch.zeros(size, size), torch.zeros(size, size)
    for _ in range(draws):
        anchor, positive, negative = miner(embeddings, labels, generator)[0].unbind(1)
        positives[anchor, positive] += 1
        negatives[anchor, negative] += 1
    return positives / draws, negatives / draws


def assert_frequencies(actual, probabilities, draws=4000):
    spread = (probabilities * (1 - probabilities) / draws).sqrt()
    assert ((actual - probabilities).abs() <= 4.5 * spread + 1e-6).all()


@pytest.mark.parametrize("name", miners())
def test_draws_only_valid_triplets(name):
    embeddings, labels = make_batch()
    generator = seeded(0)
    for _ in range(100):
        triplets, valid = miners()[name](embeddings, labels, generator)
        assert valid.tolist() == [True] * 12 + [False]
        anchor, positive, negative = triplets.unbind(1)
        assert anchor.equal(torch.arange(13))
        anchor, positive, negative = anchor[valid], positive[valid], negative[valid]
        assert (labels[anchor] == labels[positive]).all()
        assert (anchor != positive).all()
        assert (labels[anchor] != labels[negative]).all()


def test_negatives_follow_their_probabilities():
    embeddings, labels = make_batch()
    positives, negatives = frequencies(miners()["distance"], embeddings, labels)
    assert_frequencies(negatives, distance_weighted_probabilities(embeddings, labels))
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    assert_frequencies(positives[:12], (same / same.sum(1, keepdim=True))[:12])


def test_probabilities_invert_the_density_of_distances():
    """Against the formula written out for single pairs, with distances on both sides of the cut-off."""
    embeddings, labels = make_batch()
    embeddings[5] = normalize(embeddings[0] + 0.02 * embeddings[5], dim=0)
    probabilities = distance_weighted_probabilities(embeddings, labels, lower_cutoff=0.7)
    for anchor in range(len(labels)):
        weights = []
        for other in range(len(labels)):
            distance = max(0.7, (embeddings[anchor] - embeddings[other]).norm().item())
            density = distance ** (8 - 2) * (1 - distance**2 / 4) ** ((8 - 3) / 2)
            weights.append(0 if labels[other] == labels[anchor] else 1 / density)
        expected = torch.tensor(weights) / sum(weights)
        torch.testing.assert_close(probabilities[anchor], expected, rtol=1e-4, atol=1e-6)


def test_probabilities_of_an_anchor_without_negatives_are_zero():
    embeddings, _ = make_batch()
    assert (distance_weighted_probabilities(embeddings, torch.zeros(13).long()) == 0).all()


def test_near_duplicates_among_negatives_count_as_the_cutoff():
    """Their squared distance, a difference of rounded products, may fall below 0."""
    noise = 1e-7 * torch.randn(192, 100, generator=seeded(1))
    embeddings = normalize(torch.randn(64, 100, generator=seeded(0))).repeat(3, 1) + noise
    probabilities = distance_weighted_probabilities(embeddings, torch.arange(192))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(192))
    torch.testing.assert_close(probabilities[:64, 64:128].diagonal(), torch.full((64,), 0.5))


def test_antipodal_negatives_are_drawn_not_nan():
    embeddings = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0]])
    probabilities = distance_weighted_probabilities(embeddings, torch.tensor([0, 0, 1, 1]))
    assert probabilities.isfinite().all()
    assert probabilities[0, 2] > 0.99


@pytest.mark.parametrize("cutoff", [0, 2, -1, float("nan")])
def test_cutoff_is_checked(cutoff):
    with pytest.raises(ValueError, match=r"lower_cutoff must lie in \(0, 2\)"):
        distance_weighted_probabilities(*make_batch(), lower_cutoff=cutoff)


def test_semihard_negatives_lie_in_the_band_where_there_are_any():
    embeddings, labels = make_batch(counts=(4, 4, 4, 4), dimension=4)
    distances = torch.cdist(embeddings, embeddings)
    generator, inside, outside = seeded(0), 0, 0
    for _ in range(50):
        for anchor, positive, negative in semihard_triplets(embeddings, labels, 0.2, generator)[0].tolist():
            gaps = (distances[anchor] - distances[anchor, positive])[labels != labels[anchor]]
            gap = distances[anchor, negative] - distances[anchor, positive]
            if ((gaps > 0) & (gaps < 0.2)).any():
                assert 0 < gap < 0.2
                inside += 1
            else:
                outside += 1
    assert inside > 100
    assert outside > 100


def test_semihard_choices_are_uniform():
    angles = torch.tensor([0.0, 0.5, 0.55, 0.58, 2.0])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 1, 1])
    _, negatives = frequencies(miners()["semihard"], embeddings, labels)
    expected = torch.zeros(5, 5)
    expected[0, 2:4] = 0.5  # beyond the positive, by less than the margin; the last is too far
    expected[1, 2:] = 1 / 3  # none is semi-hard: uniform over all of them
    assert_frequencies(negatives[:2], expected[:2])


@pytest.mark.parametrize(
    "mine", [distance_weighted_probabilities, distance_weighted_triplets, lambda e, y: semihard_triplets(e, y, 0.2)]
)
def test_bad_batches_are_refused(mine):
    embeddings, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    for wrong in (
        (embeddings.long(), labels),
        (embeddings, labels.float()),
        (embeddings, labels[1:]),
        (embeddings, "0011"),
    ):
        with pytest.raises(ValueError, match=r"embeddings must be|labels must be|must be tensors"):
            mine(*wrong)
    for one, other in zip(mine(embeddings, labels), mine(embeddings, labels.to(torch.int8)), strict=True):
        assert one.shape == other.shape


def test_the_margin_of_semihard_mining_is_checked():
    with pytest.raises(ValueError, match="margin must be a finite number > 0, got 0"):
        semihard_triplets(torch.eye(4), torch.tensor([0, 0, 1, 1]), 0)
