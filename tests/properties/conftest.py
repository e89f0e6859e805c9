"""The only owner of how many examples property tests try: few in the gate, `--hypothesis-profile long` many.

In the gate the examples are the same in every run; `long` draws other ones each time.
"""

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("gate", max_examples=25, derandomize=True, deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", max_examples=1000, deadline=None, database=None, suppress_health_check=SLOW)
settings.load_profile("gate")
