"""The flags and variables of `vllm serve` that follow from running in this stack."""

from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.plan.layout import Layout
from ernie_deploy.plan.pairing import Pairing
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.settings import Setting, as_settings

HF_CACHE = "/cache/hf"
ENGINE_CACHE = "/cache/engine"
STATE = "/stack"
# A tmpfs: gone with the container, and Docker's may not execute.
HOME = "/tmp"  # noqa: S108 - the container's
WEIGHTS_MOUNT = "/weights"
OFFLINE = ("HF_HOME", "HF_HUB_OFFLINE", "HF_MODULES_CACHE", "HOME", "PYTHONNOUSERSITE", "VLLM_NO_USAGE_STATS")
CACHES = "kit: on a volume, because /tmp is noexec"
# The file of API_KEY_FILE, which docker/scripts/with_api_key.py alone reads, and what it makes of it for vLLM and the
# health check: the user's file may change between two readers. vLLM takes only names that end in .yaml or .yml.
API_KEY_SECRET = "/run/secrets/vllm_config"  # noqa: S105 - a path
API_KEY_CONFIG = "/tmp/vllm_config.yaml"  # noqa: S108 - the container's own tmpfs


def serve_settings(request: Request, shutdown_timeout_s: int) -> list[Setting]:
    """What the stack itself adds to the command, each with its reason."""
    settings = [_kit("shutdown-timeout", shutdown_timeout_s, "streams end before the container does")]
    settings.append(_kit("disable-fastapi-docs", True, "no public list of all routes"))
    if request.api_key_file:
        settings.append(_kit("config", API_KEY_CONFIG, "the API key stays out of argv"))
    return settings


def _kit(name: str, value: str | int, reason: str) -> Setting:
    return Setting(name=name, value=value, origin=f"kit: {reason}")


def serve_environment(
    request: Request, pairing: Pairing, layout: Layout, gpu_ids: tuple[int, ...], ready_timeout_s: int
) -> tuple[Setting, ...]:
    """Variables of `serve` but for those of its caches."""
    settings = [
        *as_settings({"HF_HOME": HF_CACHE}, "kit: the weights' volume"),
        *as_settings({"HF_HUB_OFFLINE": "1"}, "kit: only fetch talks to the hub"),
        *as_settings(
            {"HF_MODULES_CACHE": f"{HOME}/modules", "HOME": HOME, "PYTHONNOUSERSITE": "1"},
            "kit: keeps leftover code from running in the next container",
        ),
        *as_settings({"VLLM_NO_USAGE_STATS": "1"}, "kit: nothing is sent anywhere"),
        Setting(
            name="VLLM_ENGINE_READY_TIMEOUT_S",
            value=str(ready_timeout_s),
            origin="kit: 600 s + weight bytes / 0.3 GB/s",
            variable="ENGINE_READY_TIMEOUT_S",
        ),
    ]
    return (*settings, *_of_hardware(pairing, layout, request, gpu_ids))


def cache_environment(engine: Engine, vendor: Vendor) -> tuple[Setting, ...]:
    """Variables that put what is compiled where it may execute and is found again."""
    caches = [cache for cache in engine.caches if cache.variable and cache.is_of(vendor)]
    places = {cache.variable: f"{ENGINE_CACHE}/{cache.folder}" for cache in caches}
    return tuple(as_settings(places, CACHES))


def home_caches(engine: Engine, vendor: Vendor) -> tuple[str, ...]:
    """Folders for the same purpose whose place is below HOME and cannot be changed."""
    caches = [cache for cache in engine.caches if not cache.variable and cache.is_of(vendor)]
    return tuple(f"{HOME}/{cache.folder}" for cache in caches)


def _of_hardware(
    pairing: Pairing, layout: Layout, request: Request, gpu_ids: tuple[int, ...]
) -> list[Setting]:
    target, vendor = pairing.target, pairing.vendor
    named = {setting.name: setting for setting in as_settings(target.environment, f"hardware {target.id}")}
    named |= {setting.name: setting for setting in layout.reading.environment}
    if vendor.visible_devices and not request.gpus_cdi:
        in_use = f"hardware {target.id}: the GPUs in use; {vendor.visible_devices_reason}"
        named[vendor.visible_devices] = Setting(
            name=vendor.visible_devices,
            value=",".join(map(str, gpu_ids)),
            origin="user" if request.gpus else in_use,
        )
    if vendor.kv_cache_gib is not None:
        named["VLLM_CPU_KVCACHE_SPACE"] = Setting(
            name="VLLM_CPU_KVCACHE_SPACE",
            value=f"{vendor.kv_cache_gib:g}",
            origin="memory plan",
            variable="CPU_KV_CACHE_GIB",
        )
    for own in vendor.environment:
        named[own.name] = Setting(name=own.name, value=own.value, origin=f"kit: {own.reason}")
    if request.user:
        named["USER"] = Setting(name="USER", value="vllm", origin="kit: this UID has no name in the image")
    return list(named.values())
