"""The command `llm`, with the role in its file of models."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.real.clients.programs.cases import HELLO, UNKNOWN, asked, tell

url, role = asked()
models = [
    {"model_id": name, "model_name": name, "api_base": f"{url}/v1"} for name in (role, UNKNOWN)
]
Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(json.dumps(models))


def prompt(model: str, *more: str) -> str:
    options = ("-o", "max_tokens", "12", "-o", "temperature", "0")
    argv = [sys.executable, "-m", "llm", "-m", model, *options, *more, HELLO]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    return ran.stdout


tell(
    {
        "streamed": lambda: prompt(role),
        "whole": lambda: prompt(role, "--no-stream"),
        "unknown": lambda: prompt(UNKNOWN),
    }
)
