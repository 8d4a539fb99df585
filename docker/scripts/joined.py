"""Readiness probe of a worker: it is ready when its leader serves, and its failed starts are then forgotten."""

import os
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import STARTS


def main(port: int = 8000) -> int:
    """Ask the leader once."""
    connection = HTTPConnection(os.environ["LWS_LEADER_ADDRESS"], port, timeout=9)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"the leader does not answer: {error}")
        return 1
    if status == HTTPStatus.OK:
        STARTS.unlink(missing_ok=True)
    return 0 if status == HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
