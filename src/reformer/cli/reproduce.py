"""``reformer reproduce``: a result of the paper, or a claim of ours, measured again here."""

import datetime
import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from reformer.bench.measure import machine
from reformer.cli.arguments import ReproduceArguments
from reformer.data.files import InputError
from reformer.ops.dispatch import native_kernels
from reformer.reproduce.findings import Experiment, Interrupted, Size
from reformer.reproduce.report import as_json, page, write_report


def run(arguments: ReproduceArguments) -> int:
    """Measure what the folder does not hold yet; 0 when every claim holds, else 1."""
    console = Console(highlight=False, stderr=arguments.json)
    experiment: Experiment = importlib.import_module(f"reformer.reproduce.{arguments.what}")
    size: Size = "full" if arguments.full else "quick"
    _make_folder(arguments.out)
    try:
        findings = experiment.measure(
            size, arguments.out, lambda text: console.print(text, soft_wrap=True)
        )
    except Interrupted as stopped:
        print(f"reformer: {stopped}", file=sys.stderr)
        return stopped.exit_code
    context = {
        "command": f"reformer reproduce {arguments.what}{' --full' if arguments.full else ''}",
        "date": datetime.date.today().isoformat(),
        "machine": machine() | {"kernels": native_kernels().instruction_set or "none"},
    }
    name = f"{arguments.what}-{size}"
    write_report(arguments.out, name, findings, context)
    if arguments.json:
        print(json.dumps(as_json(findings, context), indent=2))
    else:
        console.print(Markdown(page(findings, context)))
        console.print(f"Written to {arguments.out}: {name}.json, {name}.md, {name}.png")
    return 0 if all(check.passed for check in findings.checks) else 1


def _make_folder(out: Path) -> None:
    """Before anything is measured that could then not be kept."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out is {out}: there is a file of that name; name a folder") from error
