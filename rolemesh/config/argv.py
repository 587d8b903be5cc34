"""What in llama-server's arguments and environment is RoleMesh's own, and what to write instead."""

from collections.abc import Mapping

from rolemesh.core.options import spelled

_KEY = "RoleMesh makes a key for each server"
_PORT = "RoleMesh takes a port from 'ports'"
_HOST = "RoleMesh binds to loopback, or to 'advertise' for other machines"
_MODEL = "use 'file'"
_NAME = "use 'model'"
_SLOTS = "use 'slots'"
_CONTEXT = "use 'context', in tokens for one request"
_GPU = "use 'gpu'"
_ALWAYS = "RoleMesh sets it by itself"
_TLS = "RoleMesh asks over plain HTTP, on loopback or your own network"
_PATH = "RoleMesh asks at the root"

OWN_ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(("--port", "--reuse-port"), _PORT),
    "--host": _HOST,
    **dict.fromkeys(("-a", "--alias"), _NAME),
    **dict.fromkeys(("-np", "--parallel"), _SLOTS),
    **dict.fromkeys(("-c", "--ctx-size"), _CONTEXT),
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "--models-dir"), _MODEL),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), _MODEL),
    **dict.fromkeys(("--api-key", "--api-key-file"), _KEY),
    **dict.fromkeys(("--props", "--slots", "--no-slots", "--metrics"), _ALWAYS),
    **dict.fromkeys(("--ssl-key-file", "--ssl-cert-file"), _TLS),
    "--api-prefix": _PATH,
}

OWN_VARIABLES: Mapping[str, str] = {
    **dict.fromkeys(("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"), _GPU),
    **dict.fromkeys(("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"), _KEY),
    "LLAMA_ARG_PORT": _PORT,
    "LLAMA_ARG_HOST": _HOST,
    "LLAMA_ARG_ALIAS": _NAME,
    "LLAMA_ARG_N_PARALLEL": _SLOTS,
    "LLAMA_ARG_CTX_SIZE": _CONTEXT,
    **dict.fromkeys(("LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_HF_REPO"), _MODEL),
    "LLAMA_ARG_API_PREFIX": _PATH,
    "ROLEMESH_INSTANCE": _ALWAYS,
}


def instead_of_argument(argument: str) -> str | None:
    """What to write instead of an argument that is RoleMesh's own; None when it is not."""
    return OWN_ARGUMENTS.get(spelled(argument).partition("=")[0])


def instead_of_variable(name: str) -> str | None:
    """What to write instead of an environment variable that is RoleMesh's own; else None."""
    return OWN_VARIABLES.get(name)
