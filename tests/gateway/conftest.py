"""What several tests of the gateway use: a CA of their own."""

import pytest
from gateway.authority import Authority


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))
