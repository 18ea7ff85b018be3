import zlib

import pytest

from dmlbench.seeding import stream, stream_seed

PURPOSES = ("weights", "loss", "model", "sampler", "augmentation", "mining", "clustering", "validation classes")


def test_a_stream_depends_on_nothing_but_its_name():
    first = stream(3, 1, "sampler").random(5)
    stream(3, 1, "mining").random(100)
    assert (stream(3, 1, "sampler").random(5) == first).all()


@pytest.mark.parametrize("other", [(4, 1, "sampler"), (3, 2, "sampler"), (3, 1, "mining"), (1, 3, "sampler")])
def test_seed_epoch_and_purpose_each_make_another_stream(other):
    assert (stream(3, 1, "sampler").random(5) != stream(*other).random(5)).all()
    assert stream_seed(3, 1, "sampler") != stream_seed(*other)


def test_results_hang_on_these_very_numbers():
    assert stream(0, 0, "sampler").integers(1000, size=4).tolist() == [97, 162, 904, 953]
    assert stream_seed(0, 0, "weights") == 8453878061361023960
    assert stream_seed(5, 11, "mining") == 5110075847780921308


def test_seeds_fit_torch_and_never_collide():
    seeds = [stream_seed(seed, epoch, purpose) for seed in range(6) for epoch in range(20) for purpose in PURPOSES]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({zlib.crc32(purpose.encode()) for purpose in PURPOSES}) == len(PURPOSES)
