"""What to do about a finding in words of `docker run` and of Kubernetes; the rules speak Compose's."""

from ernie_deploy.check.service import Form

AS_KEY_REFERENCE = "a Secret, and in `env` valueFrom: {secretKeyRef: {name: NAME, key: KEY}}"
MEMORY = "a volume emptyDir: {medium: Memory, sizeLimit: 16Gi}, mounted at /dev/shm"
# By rule, then by form.
NEXT_STEPS: dict[str, dict[Form, str]] = {
    "ED106": {
        "docker run": "begin the command with the model, or give `--entrypoint` as well",
        "kubernetes": "begin `args` with the model, or set the container's `command` as well",
    },
    "ED112": {
        "docker run": "--gpus with as many GPUs as tensor x pipeline x data parallel size, or add --nnodes",
        "command": "give it as many GPUs as tensor x pipeline x data parallel size, or add --nnodes",
        "kubernetes": "limits: {nvidia.com/gpu: N} or {amd.com/gpu: N} with N = tensor x pipeline x data parallel"
        " size, or add --nnodes",
    },
    "ED114": {
        "docker run": "--gpus all, or on AMD --device /dev/kfd --device /dev/dri",
        "kubernetes": "resources: {limits: {nvidia.com/gpu: N}}, or amd.com/gpu: N",
    },
    "ED140": {"docker run": "--device /dev/kfd --device /dev/dri"},
    "ED141": {
        "docker run": "--device /dev/kfd --device /dev/dri with --group-add and the host's numbers, without --gpus",
        "kubernetes": "limits: {amd.com/gpu: N} in place of nvidia.com/gpu, or the image for NVIDIA",
    },
    "ED201": {
        "docker run": "-p 127.0.0.1:8000:8000; for others, put a gateway in front of it",
        "command": "--host 127.0.0.1; for others, put a gateway in front of it",
        "kubernetes": "leave out hostNetwork and hostPort, and put a gateway in front of the Service",
    },
    "ED207": {
        "docker run": "leave it out and publish with -p 127.0.0.1:8000:8000; only several nodes need it",
        "kubernetes": "leave out hostNetwork; only several nodes need it",
    },
    "ED208": {
        "docker run": "--shm-size 16g in place of --ipc host; leave out --pid",
        "kubernetes": f"leave out hostIPC and hostPID; {MEMORY}",
    },
    "ED220": {
        "docker run": "keep it in a file that only you may read: --env-file FILE, or for the key --config",
        "command": "keep it in a file that only you may read: HF_TOKEN_PATH for the hub, --config for the key",
        "kubernetes": AS_KEY_REFERENCE,
    },
    "ED221": {
        "docker run": "mount it as a file: HF_TOKEN_PATH for the hub, --config for the key",
        "command": "hand it over as a file: HF_TOKEN_PATH for the hub, --config for the key",
    },
    "ED223": {
        "docker run": "--security-opt no-new-privileges",
        "kubernetes": "securityContext: {allowPrivilegeEscalation: false}",
    },
    "ED224": {
        "docker run": "--cap-drop ALL",
        "kubernetes": "securityContext: {capabilities: {drop: [ALL]}}",
    },
    "ED225": {
        "docker run": "--read-only with --tmpfs /tmp and the caches on a volume",
        "kubernetes": "securityContext: {readOnlyRootFilesystem: true} with an emptyDir at /tmp and the caches on a volume",
    },
    "ED226": {
        "docker run": "--user 2000:0, with caches that the group 0 may write",
        "kubernetes": "securityContext: {runAsUser: 2000, runAsGroup: 0}, with caches that the group 0 may write",
    },
    "ED227": {
        "kubernetes": f"{AS_KEY_REFERENCE}; leave the variable out where none is needed",
    },
    "ED301": {
        "docker run": "--health-cmd with a request for one token, and --health-start-period",
        "kubernetes": "a startupProbe, a readinessProbe and a livenessProbe",
    },
    "ED303": {"docker run": "--restart unless-stopped", "kubernetes": "restartPolicy: Always"},
    "ED304": {
        "docker run": "--stop-timeout: the shutdown timeout and 30 s more",
        "kubernetes": "terminationGracePeriodSeconds: the shutdown timeout and 30 s more",
    },
    "ED305": {
        "docker run": "vLLM's --shutdown-timeout=60 with Docker's --stop-timeout 90",
        "kubernetes": "--shutdown-timeout=60 with terminationGracePeriodSeconds: 90",
    },
    "ED306": {"docker run": "--init"},
    "ED307": {"docker run": "--shm-size 16g, or --ipc=host", "kubernetes": MEMORY},
    "ED308": {"docker run": "--health-start-period: as many seconds as VLLM_ENGINE_READY_TIMEOUT_S"},
    "ED328": {"docker run": "--log-opt max-size=10m --log-opt max-file=5"},
    "ED329": {"docker run": "--pids-limit 4096"},
}


def next_step(identity: str, form: Form) -> str:
    """What to do about a finding of the rule `identity` in a file of this form; empty where Compose's words hold."""
    return NEXT_STEPS.get(identity, {}).get(form, "")
