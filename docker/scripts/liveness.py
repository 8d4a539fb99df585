"""Liveness probe: fails only on a hang that the canary has seen, so that the kubelet restarts the container."""

import os
import sys
from pathlib import Path

# When this container started, in ticks since boot: /tmp outlives a restart here, what the canary remembers must not.
started = Path("/proc/1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
state = Path(os.environ.get("TMPDIR", "/tmp"), f"canary-{started}")  # noqa: S108 - the pod's own
state.mkdir(exist_ok=True)
os.environ["TMPDIR"] = str(state)
sys.path.insert(0, str(Path(__file__).parent))

import canary


def end_container(reason: str, _: str = "", /) -> None:
    """Fail the probe: a container cannot kill its own PID 1, the kubelet can."""
    sys.exit(f"hang: {reason}")


if __name__ == "__main__":
    canary.end_container = end_container
    # Its verdict on one probe is no reason to restart: a saturated server and a refused key are left alone.
    canary.main(*sys.argv[1:])
