"""Lines for a build log, from the stderr of ``gpusq compile --log-format json`` on stdin."""

from __future__ import annotations

import json
import signal
import sys


def line(event: dict[str, object]) -> str | None:
    """What a build log should say of an event, if anything."""
    name = event["event"]
    if name == "pass-start":
        return f"[{event['number']}/{event['of']}] {event['pass']}"
    if name == "step":
        loss = f", loss {event['loss']:.4f}" if "loss" in event else ""
        done = f"{event['task']} {event['step']} of {event['of']}"
        return f"      {done}{loss}, {event['eta_s']:.0f} s to go"
    if name == "score":
        return f"      {event['metric']} {event['value']:.4f} after {event['after']}"
    if name == "error":
        return f"error (exit code {event['exit_code']}): {event['message']}"
    return None


signal.signal(signal.SIGINT, signal.SIG_IGN)  # gpusq ends at Ctrl-C, and says so as last line
for text in sys.stdin:
    found = line(json.loads(text)) if text.startswith("{") else text.rstrip()
    if found:
        print(found, flush=True)
