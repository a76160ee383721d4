"""Supervisor of worker processes."""

from collections.abc import Callable
from pathlib import Path

from runtime.process.children import Children, module_command
from runtime.process.supervisor import Supervisor
from runtime.settings import Settings


def supervised_workers(
    children: Children,
    settings: Settings,
    *,
    workers: int,
    instance_prefix: str | None,
    log_dir: Path | None,
    until_caught_up: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Supervisor:
    """Make a supervisor of `workers` processes, not started yet.

    `instance_prefix` makes them static members of the group, named PREFIX-worker-N.
    """
    commands = {}
    for number in range(workers):
        name = f"worker-{number}"
        commands[name] = module_command("consumers.worker")
        if instance_prefix is not None:
            commands[name] += ["--instance", f"{instance_prefix}-{name}"]
        if until_caught_up:
            commands[name] += ["--until-caught-up"]
        if settings.metrics_port:
            commands[name] += ["--metrics-port", str(settings.metrics_port + number)]
    return Supervisor(
        children,
        commands,
        environment=settings.as_environment(),
        stop_timeout_s=settings.stop_timeout_ms / 1000 + 5,
        log_dir=log_dir,
        say=say,
    )
