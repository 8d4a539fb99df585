"""The catalog: every fact the kit decides from, as data with its source, read when asked for."""

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from ernie_deploy.catalog import engine_schema, schema, vendor_schema
from ernie_deploy.catalog.load import load
from ernie_deploy.errors import CatalogError
from ernie_deploy.paths import CATALOG

if TYPE_CHECKING:
    from ernie_deploy.catalog import (
        bench_schema,
        failure_schema,
        gateway_schema,
        monitoring_schema,
        package_schema,
    )

AnyFact = TypeVar("AnyFact", bound=schema.Fact)
ENGINE_FILE = re.compile(r"(\d{1,4}\.\d{1,4}\.\d{1,4})\.toml")
# In the order of `failures`: what is in several words of one line is told by the earlier one.
FAILURE_TABLES = ("gateway", "host", "scripts", "memory", "gpu", "image", "hub", "model", "ranks", "engine")


class Catalog:
    """Reads each file at most once, and only those a command needs."""

    def __init__(self, folder: Path = CATALOG) -> None:
        self.folder = folder
        self._read: dict[tuple[str, str], schema.Fact] = {}
        self._ids: dict[str, list[str]] = {}

    def model(self, model_id: str) -> schema.Model:
        """The checkpoint `model_id`, such as `21b`."""
        return self._one("models", model_id, schema.Model)

    def target(self, target_id: str) -> schema.Target:
        """The node kind `target_id`, such as `mi300x`."""
        return self._one("targets", target_id, schema.Target)

    def vendor(self, vendor_id: schema.Vendor) -> vendor_schema.VendorFacts:
        """What containers with the vendor's devices are allowed."""
        return self._one("vendors", vendor_id, vendor_schema.VendorFacts)

    def profile(self, profile_id: str) -> schema.Profile:
        """The profile `profile_id`, such as `mtp`."""
        return self._one("profiles", profile_id, schema.Profile)

    def engine(self, version: str = "") -> engine_schema.Engine:
        """vLLM `version`, by default the newest that was served; raises `CatalogError` for an unknown one."""
        return self._one("engines", version, engine_schema.Engine) if version else self._default_engine

    @cached_property
    def _default_engine(self) -> engine_schema.Engine:
        newest_first = (self.engine(version) for version in reversed(self.ids("engines")))
        served = next((engine for engine in newest_first if engine.served), None)
        if served is None:
            raise CatalogError(
                "The catalog has no engine that was served.",
                cause="the default is the newest of those",
                next_step="name one with --engine; list them with: ernie-deploy engines",
            )
        return served

    @cached_property
    def recipes(self) -> schema.Recipes:
        """The published commands and where they no longer hold."""
        return load(self.folder / "recipes.toml", schema.Recipes)

    @cached_property
    def variables(self) -> list[schema.Variable]:
        """Every `${VAR}` a stack may read."""
        return load(self.folder / "variables.toml", schema.Variables).variables

    @property
    def defaults(self) -> dict[str, str]:
        """Default of each `${VAR}`; empty where the plan decides it."""
        return {variable.name: variable.default for variable in self.variables}

    @cached_property
    def packages(self) -> "dict[str, package_schema.Package]":
        """Every package that the remote code of some model needs, by id."""
        from ernie_deploy.catalog.package_schema import Packages

        return {package.id: package for package in load(self.folder / "packages.toml", Packages).packages}

    def packages_of(self, model: schema.Model) -> "tuple[package_schema.Package, ...]":
        """The packages that a model's remote code needs; raises `CatalogError` for one that is not there."""
        unknown = [name for name in model.packages if name not in self.packages]
        if unknown:
            raise _unknown("packages", unknown[0], sorted(self.packages), {})
        return tuple(self.packages[name] for name in model.packages)

    @cached_property
    def ports(self) -> list[schema.Port]:
        """Every port that nodes of one server open."""
        return load(self.folder / "ports.toml", schema.Ports).ports

    @cached_property
    def gateway(self) -> "gateway_schema.GatewayFacts":
        """The gateway's image, routes and limits."""
        from ernie_deploy.catalog.gateway_schema import GatewayFacts

        return load(self.folder / "gateway.toml", GatewayFacts)

    @cached_property
    def baselines(self) -> "list[bench_schema.Baseline]":
        """The published result blocks."""
        from ernie_deploy.catalog.bench_schema import Baselines

        return load(self.folder / "baselines.toml", Baselines).baselines

    @cached_property
    def matrix(self) -> "bench_schema.Matrix":
        """The recipe's benchmark matrix."""
        from ernie_deploy.catalog.bench_schema import Matrix

        return load(self.folder / "matrix.toml", Matrix)

    @cached_property
    def exporters(self) -> "list[monitoring_schema.Exporter]":
        """What may watch a stack, in the order of its services."""
        from ernie_deploy.catalog.monitoring_schema import Exporters

        return load(self.folder / "monitoring.toml", Exporters).exporter

    @cached_property
    def metrics(self) -> "list[monitoring_schema.Metric]":
        """Every metric that a rule, the dashboard, the canary, `status` or a benchmark reads."""
        from ernie_deploy.catalog.monitoring_schema import Metrics

        return load(self.folder / "metrics.toml", Metrics).metric

    @cached_property
    def failures(self) -> "list[failure_schema.Failure]":
        """Known failures, in the order they are looked for in a line."""
        from ernie_deploy.catalog.failure_schema import Failures

        tables = [load(self.folder / "failures" / f"{name}.toml", Failures) for name in FAILURE_TABLES]
        return [failure for table in tables for failure in table.failures]

    @cached_property
    def substitutions(self) -> list[schema.Substitution]:
        """Where a rehearsal or a test runs something else than what is rendered."""
        return load(self.folder / "substitutions.toml", schema.Substitutions).substitutions

    def support(self, model_id: str, target_id: str) -> schema.Support:
        """What is known of the pairing."""
        return self._support[model_id].of(target_id)

    @cached_property
    def _support(self) -> dict[str, schema.SupportRow]:
        return load(self.folder / "support.toml", schema.SupportTable).models

    def models(self) -> list[schema.Model]:
        """Every checkpoint, smallest first."""
        return sorted(
            (self.model(i) for i in self.ids("models")),
            key=lambda m: (m.vision is not None, m.figures.hidden_size, m.figures.layers, m.id),
        )

    def targets(self) -> list[schema.Target]:
        """Every node kind, by vendor and memory."""
        order = get_args(schema.Vendor)
        return sorted(
            (self.target(i) for i in self.ids("targets")),
            key=lambda t: (order.index(t.vendor), t.memory_gib, t.id),
        )

    def profiles(self) -> list[schema.Profile]:
        """Every profile by name."""
        return [self.profile(i) for i in self.ids("profiles")]

    def ids(self, noun: str) -> list[str]:
        """The ids of one kind of fact, which are its file names; engines the oldest first."""
        # A plan with its advice asks some hundred times.
        if noun not in self._ids:
            self._ids[noun] = self._listed(noun)
        return list(self._ids[noun])

    def _listed(self, noun: str) -> list[str]:
        if noun == "engines":
            matches = (ENGINE_FILE.fullmatch(path.name) for path in (self.folder / noun).glob("*.toml"))
            return sorted((match[1] for match in matches if match), key=_numbers)
        return sorted(path.name.removesuffix(".toml") for path in (self.folder / noun).glob("*.toml"))

    def id_of(self, noun: str, word: str) -> str:
        """The id that a word means: in any case, by another name, or as a checkpoint is called on the hub.

        A word that means none of them comes back as it is.
        """
        if word in self.ids(noun):
            return word
        return self._names(noun).get(word.casefold(), word)

    def _names(self, noun: str) -> dict[str, str]:
        """Every other spelling -> the id, for models and targets."""
        names = {name.casefold(): name for name in self.ids(noun)}
        if noun == "models":
            hub = {model.hf_id.casefold(): model.id for model in self.models()}
            names |= hub | {name.partition("/")[2]: model for name, model in hub.items()}
        if noun == "targets":
            names |= {alias: target.id for target in self.targets() for alias in target.aliases}
        if noun == "engines":
            names |= {f"v{version}": version for version in self.ids(noun)}
        return names

    def _one(self, noun: str, wanted: str, kind: type[AnyFact]) -> AnyFact:
        wanted = self.id_of(noun, wanted)
        if (noun, wanted) in self._read:
            fact = self._read[noun, wanted]
            assert isinstance(fact, kind)
            return fact
        if wanted not in self.ids(noun):
            raise _unknown(noun, wanted, self.ids(noun), self._names(noun))
        fact = self._read[noun, wanted] = load(self.folder / noun / f"{wanted}.toml", kind)
        return fact


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _unknown(noun: str, wanted: str, known: list[str], names: dict[str, str]) -> CatalogError:
    import difflib

    # A version is no misspelling of another.
    near = difflib.get_close_matches(wanted.casefold(), [*known, *names], n=1) if noun != "engines" else []
    near = [names.get(name, name) for name in near]
    return CatalogError(
        f"There is no {noun[:-1]} {wanted[:60]!r}.",
        cause=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
        next_step=f"list them with: ernie-deploy {noun}",
    )
