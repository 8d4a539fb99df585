"""`check` knows the kit's own gateway: with TLS nothing is to say of it, and in clear beyond loopback that."""

import pytest
from conftest import CATALOG, rendered

from ernie_deploy.check import judge


@pytest.mark.parametrize("target", ["h100", "cpu"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"bind": "0.0.0.0"}, {("ED232", "warning")}),
        ({"bind": "0.0.0.0", "tls": "files"}, set()),
        ({"bind": "10.0.0.4", "tls": "self-signed"}, set()),
    ],
    ids=str,
)
def test_the_kits_own_front(target: str, options: dict[str, str], expected: set[tuple[str, str]]) -> None:
    text = rendered(target, gateway=True, **options)
    assert {(one.id, one.severity) for one in judge(text.encode(), "compose.yml", CATALOG)} == expected
    opened = text.replace("    networks: [back]\n", '    networks: [back]\n    ports: ["8001:8000"]\n', 1)
    assert opened != text
    assert "ED230" in {one.id for one in judge(opened.encode(), "compose.yml", CATALOG)}
