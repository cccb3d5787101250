"""The frozen version, unpacked once for the tests of this folder."""

from __future__ import annotations

import pytest

from support.versions import Version, unpack_frozen


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return unpack_frozen(tmp_path_factory.mktemp("frozen"))
