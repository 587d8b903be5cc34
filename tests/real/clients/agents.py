"""What coding agents send: headers and bodies as seen on the wire, with short texts in them."""

from typing import Any

Turn = tuple[dict[str, str], dict[str, Any]]  # headers and body

_PATH = {"type": "string", "enum": ["a", "b"], "description": "The path."}
_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"path": _PATH},
    "required": ["path"],
    "additionalProperties": False,
}


def claude_code(session: str, turns: int, model: str, tools: bool = True) -> Turn:
    """Claude Code, after so many turns; without tools it is one of its small requests."""
    headers = {
        "authorization": "Bearer none",
        "user-agent": "claude-cli/2.1.197 (external, cli)",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "anthropic-dangerous-direct-browser-access": "true",
        "x-app": "cli",
        "x-claude-code-session-id": session,
        "x-stainless-retry-count": "0",
        "x-stainless-timeout": "600",
    }
    cached = {"cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "name": "Tool3", "input": {"path": "a"}}
    messages = [_claude_user("<system-reminder>Be good.</system-reminder>", f"task of {session}")]
    for number in range(turns):
        id = f"toolu_{number}"
        result = {"type": "tool_result", "tool_use_id": id, "content": f"lines {number}"}
        messages.append({"role": "assistant", "content": [{**call, "id": id}]})
        messages.append({"role": "user", "content": [result]})
    messages[-1]["content"][-1] |= cached  # the mark moves on with each turn
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 32000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197;"},
            {"type": "text", "text": "You are a coding agent. " * 20, **cached},
        ],
        "messages": messages,
        "metadata": {"user_id": f"user_0_account__session_{session}"},
    }
    if tools:
        body["tools"] = [_claude_tool(number) for number in range(24)]
        body["thinking"] = {"type": "enabled", "budget_tokens": 31999}
        edit = {"type": "clear_thinking_20251015", "keep": "all"}
        body["context_management"] = {"edits": [edit]}
        body["output_config"] = {"effort": "high"}
    return headers, body


def _claude_user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def _claude_tool(number: int) -> dict[str, Any]:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_PARAMETERS}
    return {"name": f"Tool{number}", "description": "Does a thing.", "input_schema": schema}


def codex(session: str, turns: int) -> Turn:
    """Codex CLI, after so many turns."""
    headers = {
        "authorization": "Bearer none",
        "accept": "text/event-stream",
        "user-agent": "codex_exec/0.169.0",
        "originator": "codex_exec",
        "session-id": session,
        "thread-id": session,
        "x-client-request-id": session,
        "x-codex-turn-metadata": '{"turn_id":"1"}',
    }
    items: list[dict[str, Any]] = [
        _codex_message("developer", "<permissions>read-only</permissions>"),
        _codex_message("user", f"task of {session}"),
    ]
    for number in range(turns):
        call = {"call_id": f"call_{number}"}
        said = {"type": "function_call", "name": "exec_command", "arguments": '{"path":"a"}'}
        items.append({**said, **call})
        items.append({"type": "function_call_output", "output": f"lines {number}", **call})
    command = _codex_function("exec_command")
    files: dict[str, Any] = {"type": "namespace", "name": "mcp__files", "description": "Files."}
    body = {
        "model": "coder",
        "instructions": "You are a coding agent. " * 20,
        "input": items,
        "tools": [
            command,
            {**files, "tools": [_codex_function("read")]},
            {"type": "web_search", "external_web_access": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": session,
        "client_metadata": {"x-codex-installation-id": "0"},
        "text": {"verbosity": "low"},
    }
    return headers, body


def _codex_message(role: str, text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "role": role,
        "content": [{"type": "input_text", "text": text}],
    }


def _codex_function(name: str) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "description": "Does a thing.", "strict": False}
    return {"type": "function", **about, "parameters": _PARAMETERS}


def opencode(session: str, turns: int, model: str = "coder", tools: bool = True) -> Turn:
    """opencode, after so many turns; without tools it asks for a title."""
    headers = {
        "authorization": "Bearer none",
        "user-agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.0 runtime/node",
        "x-session-affinity": session,
        "x-session-id": session,
    }
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are a coding agent. " * 20},
        {"role": "user", "content": f"task of {session}"},
    ]
    for number in range(turns):
        function = {"name": "read", "arguments": '{"path":"a"}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"lines {number}"})
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": 32000,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if tools:
        read = {"name": "read", "description": "Reads.", "parameters": _PARAMETERS}
        body |= {"tools": [{"type": "function", "function": read}], "tool_choice": "auto"}
    return headers, body
