"""The engine's counters as text for Prometheus (exposition format 0.0.4)."""

from reformer.serving.engine import Counters

_METRICS = {
    "requests": ("requests_total", "counter", "Requests taken."),
    "refused": (
        "requests_refused_total",
        "counter",
        "Requests refused because the queue was full.",
    ),
    "cancelled": ("requests_cancelled_total", "counter", "Requests given up by their client."),
    "failed": ("requests_failed_total", "counter", "Requests that ended in an error."),
    "finished": ("samples_finished_total", "counter", "Samples written to their end."),
    "prompt_tokens": ("prompt_tokens_total", "counter", "Tokens in prompts."),
    "reused_tokens": ("prompt_tokens_reused_total", "counter", "Prompt tokens not read again."),
    "generated_tokens": ("generated_tokens_total", "counter", "Tokens written."),
    "step_seconds": ("step_seconds_total", "counter", "Seconds spent in steps of the engine."),
    "running": ("sequences_running", "gauge", "Sequences that are being written."),
    "waiting": ("requests_waiting", "gauge", "Requests in the queue."),
    "prefix_bytes": ("prefix_bytes", "gauge", "Memory of sequences kept for later prompts."),
}


def exposition(counters: Counters) -> str:
    """All counters, each with its help and type."""
    lines = []
    for field, (name, kind, text) in _METRICS.items():
        name = f"reformer_{name}"
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines.append(f"{name} {getattr(counters, field)}")
    return "\n".join(lines) + "\n"
