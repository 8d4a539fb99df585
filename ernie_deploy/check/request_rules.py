"""ED24x: what a single request may make a vision-language server do."""

from collections.abc import Iterator

from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.service import Service


def _takes_images(service: Service) -> Argv | None:
    """The arguments of a server that takes images; None for any other."""
    argv, model = service.serve, service.model
    closed = argv and (argv.has("language-model-only") or argv.has("headless") or argv.has("config"))
    return argv if model and model.vision and not closed else None


@rule(
    "ED240",
    "warning",
    "Clients can make the server fetch from any host that it reaches.",
    remedy="--allowed-media-domains with the hosts you mean, or data-urls-only.invalid for none: an empty list is every host",
    source="run with vLLM 0.32.0: an image_url reached another container; vllm/multimodal/media/connector.py",
)
def open_media(service: Service) -> Iterator[Spot]:
    """A VL server without `--allowed-media-domains`."""
    argv = _takes_images(service)
    if argv and not argv.has("allowed-media-domains"):
        yield Spot(
            service.line, "image_url and video_url of a request may name any host, inside your network too"
        )


@rule(
    "ED241",
    "warning",
    "An allowed media host can redirect the server to any other host.",
    remedy='VLLM_MEDIA_URL_ALLOW_REDIRECTS: "0"',
    source="vLLM 0.32.0 docs/usage/security.md; vllm/envs.py: redirects are followed unless it is 0",
    of_absence=True,
)
def media_redirects(service: Service) -> Iterator[Spot]:
    """Media domains without the variable that refuses redirects."""
    argv = _takes_images(service)
    if (
        argv
        and argv.has("allowed-media-domains")
        and service.variable("VLLM_MEDIA_URL_ALLOW_REDIRECTS") != "0"
    ):
        yield Spot(
            argv.line_of("allowed-media-domains"),
            "an allowed host may answer with a redirect, which is followed",
        )


@rule(
    "ED242",
    "warning",
    "Clients can change how media are decoded, and so use any amount of memory.",
    remedy="leave out --trust-request-mm-kwargs",
    source="vLLM 0.32.0 vllm/entrypoints/generate/base/protocol.py validate_request_mm_kwargs",
)
def trusted_media_options(service: Service) -> Iterator[Spot]:
    """`--trust-request-mm-kwargs`."""
    argv = _takes_images(service)
    if argv and argv.has("trust-request-mm-kwargs"):
        line = argv.line_of("trust-request-mm-kwargs")
        yield Spot(line, "a request may ask for every frame of a video and for images of any size")
