"""nginx with its echo module as an upstream that costs little: fixed answers and timed streams."""

import shutil
from pathlib import Path

import msgspec

from tests.doubles import wire
from tests.doubles.model import Chat, Tally, words
from tests.real.harness import Workshop, answers, free_port

EVENTS = 200
PAUSE = 0.01  # seconds between two events
_CHAT = Chat("chatcmpl-bench", "bench")
_TALLY = Tally(64, 12, EVENTS - 3, 20.0, (EVENTS - 3) * PAUSE * 1000)
_ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")

_PAGE = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ {whole} location / {{ return 404; }}
    location = /health {{ return 200 'ok'; }}
    location = /v1/chat/completions {{ default_type application/json; return 200 '{answer}'; }} }}
  server {{ {stream} location / {{ return 404; }}
    location = /health {{ return 200 'ok'; }}
    location = /v1/chat/completions {{ default_type text/event-stream; {events} }} }}
  server {{ {llama} location / {{ return 404; }}
    location = /health {{ return 200 'ok'; }}
    location = /props {{ default_type application/json; return 200 '{{"total_slots": 1024}}'; }}
    location = /v1/chat/completions {{ default_type text/event-stream; {events} }} }}
}}
"""


class Nginx:
    """One nginx: `whole` answers JSON, `stream` 200 events, `llama` too as a llama-server would.

    Each is two base URLs, so that who chooses among backends has a choice.
    """

    def __init__(self, workshop: Workshop) -> None:
        ports = {name: (free_port(), free_port()) for name in ("whole", "stream", "llama")}
        listen = {
            name: " ".join(f"listen 127.0.0.1:{port};" for port in pair)
            for name, pair in ports.items()
        }
        page = _PAGE.format(
            module=_ECHO_MODULE,
            folder=workshop.folder,
            answer=_whole_answer(),
            events=_echoes(),
            **listen,
        )
        config = workshop.file("nginx.conf", page)
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        assert nginx is not None  # `missing` was asked before
        self.program = workshop.start("nginx", [nginx, "-c", str(config)])
        self.whole, self.stream, self.llama = (
            tuple(f"http://127.0.0.1:{port}" for port in pair) for pair in ports.values()
        )
        self.program.until("nginx answers", lambda: answers(f"{self.whole[0]}/health"))


def missing() -> list[str]:
    """The Debian packages that this needs and does not find."""
    path = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
    there = {
        "nginx": shutil.which("nginx", path=path) is not None,
        "libnginx-mod-http-echo": _ECHO_MODULE.exists(),
    }
    return [name for name, found in there.items() if not found]


def _whole_answer() -> str:
    said = words("bench")
    text = "".join(next(said) for _ in range(EVENTS - 3))
    return msgspec.json.encode(_CHAT.whole(text, "length", _TALLY)).decode()


def _echoes() -> str:
    """The stream's events, each flushed at once and followed by a pause."""
    said = words("bench")
    messages = [
        *_CHAT.first(),
        *(_CHAT.word(next(said)) for _ in range(EVENTS - 3)),
        *_CHAT.last("length", _TALLY),
    ]
    lines = [*(wire.encode(message) for message in messages), wire.DONE]
    assert len(lines) == EVENTS
    one = "echo 'data: {}\\n'; echo_flush; echo_sleep {};"
    return " ".join(one.format(line.decode(), PAUSE) for line in lines)
