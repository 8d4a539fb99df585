"""Checks of the packages that a model's own code needs: made for this processor, and there or to be had."""

from collections.abc import Iterator, Mapping

from ernie_deploy.host.examination import PACKAGES_VOLUME, Examination, Files, is_path
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.probes import TIMED_OUT, Host, Ran, index_of
from ernie_deploy.plan.plan import Plan

# What `fetch` hands to the script that asks the index; of the certificates it gets a file, or none.
VARIABLES = ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
NO_FILE = "/dev/null"


def ask(host: Host, plan: Plan, files: Files, values: Mapping[str, str]) -> Ran | None:
    """Ask the index for what does not lie here yet; None where everything does."""
    wanted = [p.requirement for p in plan.packages if p.archive not in files.archives]
    bundle = values["CA_BUNDLE"]
    env = {name: values[name] for name in VARIABLES if values[name]}
    env |= {} if bundle == NO_FILE else {"SSL_CERT_FILE": bundle}
    return host.run(index_of(wanted), env) if wanted else None


def machine(examination: Examination) -> Iterator[Finding]:
    """Each package is published for this kind of processor."""
    have = examination.facts.machine.architecture
    for package in examination.plan.packages:
        if have and package.machine and package.machine != have:
            sentence = f"{package.title}, which the model's own code imports, is published for {package.machine} alone."
            remedy = examination.command("render", extra_packages="none")
            yield error(
                "packages", sentence, f"use an image of your own that has {package.id}, and: {remedy}"
            )


def pip_config(examination: Examination) -> Iterator[Finding]:
    """The file of pip's settings is there; Compose refuses to start without."""
    path = examination.values["PIP_CONFIG_FILE"]
    if examination.plan.packages and path != NO_FILE and examination.files.pip_config is None:
        yield error("pip-config", f"PIP_CONFIG_FILE={path} does not exist; Compose refuses to start.",
                    "correct the path in .env, or remove the line")  # fmt: skip


def folder(examination: Examination) -> Iterator[Finding]:
    """What PACKAGES_DIR names can hold them."""
    path, stat = examination.values["PACKAGES_DIR"], examination.files.packages
    if not examination.plan.packages:
        return
    if not is_path(path) and path != PACKAGES_VOLUME:
        sentence = (
            f"PACKAGES_DIR={path} is neither a path nor the volume {PACKAGES_VOLUME}; Compose refuses it."
        )
        yield error("packages", sentence, f"write ./{path} in .env for a folder here")
    elif is_path(path) and stat and stat.kind not in ("folder", "closed"):
        yield error("packages", f"PACKAGES_DIR={path} is not a folder.", "name a folder in .env")


def archives(examination: Examination) -> Iterator[Finding]:
    """The archives lie here already, or the index lists them."""
    plan, files, answer = examination.plan, examination.files, examination.index
    titles = " and ".join(package.title for package in plan.packages)
    if not titles:
        return
    if answer is None:
        yield ok("packages", f"{titles} are in PACKAGES_DIR already.")
    elif answer.rc == 0:
        yield ok("packages", f"The package index lists {titles}.")
    elif answer.rc == TIMED_OUT:
        yield unknown("packages", f"The package index did not say in time whether it lists {titles}.")
    else:
        yield _out_of_reach(
            examination, answer, seen=files.packages is not None and files.packages.kind == "folder"
        )


def _out_of_reach(examination: Examination, answer: Ran, *, seen: bool) -> Finding:
    """An error where it is sure that the archives are not here either."""
    sentence = answer.output.removeprefix("packages: ").partition(": check ")[0].partition(": correct ")[0]
    lacking = [
        package.archive
        for package in examination.plan.packages
        if package.archive not in examination.files.archives
    ]
    remedy = (
        f"check PIP_INDEX_URL, HTTPS_PROXY and CA_BUNDLE in .env, or copy {' and '.join(lacking)} into the folder"
        " `archives` of PACKAGES_DIR"
    )
    if seen or is_path(examination.values["PACKAGES_DIR"]):
        return error("packages", f"{sentence[:400]}.", remedy)
    return warning("packages", f"{sentence[:400]}, and whether the volume has it could not be seen.", remedy)


CHECKS = (machine, pip_config, folder, archives)
