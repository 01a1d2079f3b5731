import pytest


@pytest.fixture(scope="session")
def dspex_environment():
    """The worker of the tests may load this package."""
    return {"DSPEX_PROGRAM_PACKAGES": "support_desk"}
