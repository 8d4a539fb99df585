"""Whether a benchmark record may be believed: every consistency check, each its own small function."""

from ernie_deploy.bench.validity.judge import CHECKS, judge, published_evidence, status_of

__all__ = ["CHECKS", "judge", "published_evidence", "status_of"]
