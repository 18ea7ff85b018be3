import socket

import pytest

from dmlbench.errors import UserError
from dmlbench.runner.ray import _check_answers


def test_an_address_where_nobody_listens_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"--address {address}: no Ray cluster there \(Connection refused\); start"
        ):
            _check_answers(address)
        with pytest.raises(UserError, match="no Ray cluster there"):
            _check_answers(f"ray://{address}")
        taken.listen()
        _check_answers(address)


@pytest.mark.parametrize("address", [None, "auto", "local", "host"])
def test_what_only_ray_can_resolve_is_left_to_it(address):
    _check_answers(address)
