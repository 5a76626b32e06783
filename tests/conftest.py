"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: `dev` (the default), `ci` (longer, repeatable)."""

import os

from hypothesis import settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=500, deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
