"""What tests of image encoders share."""

import pytest

from support.clip_layouts import add_configs


@pytest.fixture(scope="session")
def clip_configs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Small models that open_clip knows by name, see `support.clip_layouts`."""
    add_configs(tmp_path_factory.mktemp("configs"))
