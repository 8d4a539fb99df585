"""A `docker` for tests: images are texts, volumes are folders, containers are programs of this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_DOCKER"])
IMAGES, VOLUMES, REGISTRY = STATE / "images.json", STATE / "volumes", STATE / "registry.json"


def images() -> dict[str, str]:
    return json.loads(IMAGES.read_text()) if IMAGES.exists() else {}


def keep(known: dict[str, str]) -> None:
    IMAGES.write_text(json.dumps(known))


def inspect(words: list[str]) -> int:
    known, name = images(), words[-1]
    if name not in known and name not in known.values():
        print(f"Error: No such image: {name}", file=sys.stderr)
        return 1
    image_id = known.get(name, name)
    print(words[words.index("--format") + 1].replace("{{.Id}}", image_id).replace("{{.Size}}", "1000")
          if "--format" in words else "[]")  # fmt: skip
    return 0


def save(words: list[str]) -> int:
    named, image_id = words[-1] in images(), images().get(words[-1], words[-1])
    sys.stdout.write(json.dumps({"id": image_id, "name": words[-1] if named else ""}).ljust(1000))
    return 0


def load() -> int:
    image = json.loads(sys.stdin.read())
    if name := image["name"]:
        keep(images() | {name: image["id"]})
        print(f"Loaded image: {name}")
    else:
        keep(images() | {image["id"]: image["id"]})
        print(f"Loaded image ID: {image['id']}")
    return 0


def volume(words: list[str]) -> int:
    folder = VOLUMES / words[-1]
    if words[0] == "create":
        folder.mkdir(parents=True)
        (STATE / f"{words[-1]}.labels").write_text("\n".join(words))
    return 0 if folder.is_dir() else 1


def run(words: list[str]) -> int:
    program, at = words[words.index("--entrypoint") + 1], words.index("--entrypoint") + 2
    if words[at] not in images() or not {"never", "none", "ALL"} <= set(words):
        print(f"docker: no image {words[at]}", file=sys.stderr)
        return 125
    if "--mount" in words:
        fields = dict(
            field.split("=") for field in words[words.index("--mount") + 1].split(",") if "=" in field
        )
        inside, folder = "/in", fields["source"]
    else:
        folder, _, inside = words[words.index("-v") + 1].rpartition(":")
    real = folder if folder.startswith("/") else str(VOLUMES / folder)
    Path(real).mkdir(parents=True, exist_ok=True)
    command = [word.replace(inside, real) for word in words[at + 1 : at + 3]]
    return subprocess.run([program, *command, *words[at + 3 :]], check=False).returncode


def compose(words: list[str]) -> int:
    if words[-1] == "fetch":
        shutil.copytree(STATE / "hub", VOLUMES / "ernie-hf-cache", symlinks=True, dirs_exist_ok=True)
        return 0
    return subprocess.run([os.environ["FAKE_COMPOSE"], *words], check=False).returncode


def main(words: list[str]) -> int:  # noqa: PLR0911 - a command each
    with (STATE / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    known = images()
    match words:
        case ["version", *_]:
            return 0
        case ["compose", *rest]:
            return compose(rest)
        case ["image", "inspect", *rest]:
            return inspect(rest)
        case ["pull", name]:
            found = json.loads(REGISTRY.read_text())
            keep(known | {name: found[name]})
            return 0
        case ["save", *rest]:
            return save(rest)
        case ["load"]:
            return load()
        case ["tag", image_id, name]:
            keep(known | {name: image_id})
            return 0
        case ["volume", *rest]:
            return volume(rest)
        case ["run", *rest]:
            return run(rest)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
