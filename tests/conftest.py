"""What more than one folder of tests needs."""

from hypothesis import settings

# A machine that is busy is no failure.
settings.register_profile("candled", parent=settings(), deadline=None, max_examples=50)
settings.load_profile("candled")
