"""What a digest, a commit, an image, a model, a revision and a page of the web look like, wherever somebody words one."""

import re

DIGEST = re.compile("sha256:[0-9a-f]{64}")
COMMIT = re.compile("[0-9a-f]{40}")
# A small file has git's hash of it, a large one its SHA-256.
FILE_DIGEST = re.compile("git:[0-9a-f]{40}|sha256:[0-9a-f]{64}")
VERSION = re.compile(r"[0-9]{1,6}(?:\.[0-9A-Za-z+-]{1,30}){0,5}")
# As Docker's reference grammar has it, with a tag or without one.
_PART = "[a-z0-9]+(?:(?:[.]|_{1,2}|-{1,9})[a-z0-9]+){0,40}"
IMAGE = re.compile(
    rf"(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,250}}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART}){{0,20}}"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]|/(?=[A-Za-z0-9])){0,249}")
# A page of the web, with nothing that Prometheus would take for a template of its own.
PAGE_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]{1,255}(?:/[A-Za-z0-9._~%:@!$&'()*+,;=/-]{0,500})?")
