"""`mtad generate`: checks the options, then answers one prompt or every prompt of a file."""

from __future__ import annotations

from contextlib import nullcontext

from mtad.cli.settings import Settings
from mtad.cli.start import checked_method
from mtad.model.parallel import only_first_process_writes


def run(settings: Settings) -> None:
    """Complete what the settings ask for; checks all options before it loads anything."""
    method = checked_method(settings)
    with only_first_process_writes() if settings.tensor_parallel else nullcontext():
        if settings.prompt_file is None:
            from mtad.cli.generate.one import answer_prompt

            answer_prompt(settings, method)
        else:
            from mtad.cli.generate.many import answer_file

            answer_file(settings, method)
