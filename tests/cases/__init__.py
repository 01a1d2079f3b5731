"""Failures that users of this field reported, and the tests that are for them: ``@pytest.mark.case("lm-01")``."""
