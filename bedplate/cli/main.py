"""The entry point `bedplate`: finds the command, loads only that one, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, final

import click

from bedplate.cli.ending import end_at_work
from bedplate.cli.hangup import defer_hangups
from bedplate.errors import BedplateError, missing_extra, suggest

PARTIAL_EXIT = 8
REFUSED_EXIT = 9
UNEXPECTED_EXIT = 70
INTERRUPTED_EXIT = 130
CLOSED_EXIT = 141

COMMANDS = {
    "init": ("bedplate.cli.init:init", "Make a new project, empty or from an example."),
    "import": ("bedplate.cli.imports:imports", "Turn a Feast repository into a project."),
    "plan": ("bedplate.cli.plan:plan", "Check the definitions and show what will be built."),
    "diff": ("bedplate.cli.diff:diff", "Show what a branch changes, and who reads it."),
    "apply": ("bedplate.cli.apply:apply", "Build what is missing in the offline store."),
    "backfill": ("bedplate.cli.backfill:backfill", "Build a view's index for a range of times."),
    "offline": ("bedplate.cli.offline:offline", "List, merge and clean up the as-of indexes."),
    "lookup": ("bedplate.cli.lookup:lookup", "Show feature values of keys at a time."),
    "datasets": ("bedplate.cli.datasets:datasets", "Write a training set to files, and show what files hold."),
    "train": ("bedplate.cli.train:train", "Train a job's model and register the version."),
    "retrain": ("bedplate.cli.retrain:retrain", "Train on fresh data, and promote what is no worse."),
    "search": ("bedplate.cli.search:search", "Try other choices of a job, many at once, resumable."),
    "runs": ("bedplate.cli.runs:runs", "List, show, compare and remove runs."),
    "models": ("bedplate.cli.models:models", "List, show, add, quantize, promote and roll back models."),
    "materialize": ("bedplate.cli.materialize:materialize", "Fill the online store from history."),
    "ingest": ("bedplate.cli.ingest:ingest", "Keep the online store current from a stream."),
    "online": ("bedplate.cli.online:online", "List, compact, verify and refresh the online store."),
    "features": ("bedplate.cli.features:features", "Serve features to programs outside Python."),
    "serve": ("bedplate.cli.serve:serve", "Serve recommendations and scores over HTTP."),
    "openapi": ("bedplate.cli.openapi:openapi", "Describe a service for programs that write clients."),
}
"""Each command: the attribute that holds it, and its line in the list of commands."""

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed, for a reason not listed here
  2    wrong command line, configuration or definition
  3    data that does not hold what its definition says
  4    not found: a feature, view, model, run or source
  5    a store can't be read or written
  6    a model's folder is incomplete, changed or not reproducible
  7    a proof that must hold does not
  8    done in part: what was left out is listed
  9    refused: a model may not take the champion's place, for the reasons that are listed
  70   an unexpected error inside Bedplate
  130  interrupted, by Ctrl-C or by SIGTERM, which a scheduler sends: what is finished is kept
  141  the reader of the output has gone"""


@final
@dataclass(slots=True)
class Options:
    """What the command line says before the command.

    Attributes:
        debug: whether errors are shown with their traceback.
    """

    debug: bool = False


@final
class LazyGroup(click.Group):
    """A group that knows the names and lines of its commands, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order of the journey."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command, or None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is a {type(command).__name__}, expected a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; a misspelt one gets a suggestion."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"no command '{name}'; {suggest(name, COMMANDS, 'commands')}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="bedplate", message="bedplate %(version)s")
@click.pass_obj
def cli(options: Options, debug: bool) -> None:
    """Bedplate: features, datasets, training, registry and serving, from one definition.

    Commands work on the project in the current folder. 'bedplate COMMAND --help' shows a command's options and
    examples.
    """
    options.debug = debug


def run(args: Sequence[str]) -> int:
    """Runs a command line, its errors written to stderr.

    Args:
        args: the words after `bedplate`.

    Returns:
        The exit code.
    """
    options = Options()
    try:
        with cli.make_context("bedplate", list(args), obj=options) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as request:
        return request.exit_code
    except BedplateError as error:
        return _report(f"error: {error}", error.exit_code, options)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _report_interrupted(options)
    except BrokenPipeError as error:
        return CLOSED_EXIT if _discard_closed_output() else _report_unexpected(error, options)
    except ModuleNotFoundError as error:
        extra = missing_extra(error)
        return _report(f"error: {extra}", extra.exit_code, options) if extra else _report_unexpected(error, options)
    except Exception as error:  # noqa: BLE001  (the last resort: a message instead of a traceback)
        return _report_unexpected(error, options)
    return 0


def _report(message: str, code: int, options: Options) -> int:
    if options.debug:
        traceback.print_exc()
    click.echo(message, err=True)
    return code


def _report_interrupted(options: Options) -> int:
    from bedplate.http.board import is_worker

    return INTERRUPTED_EXIT if is_worker() else _report("\ninterrupted", INTERRUPTED_EXIT, options)


def _report_unexpected(error: Exception, options: Options) -> int:
    hint = "" if options.debug else "\n  'bedplate --debug COMMAND ...' shows the traceback"
    return _report(f"unexpected error: {type(error).__name__}: {error}{hint}", UNEXPECTED_EXIT, options)


def _discard_closed_output() -> bool:
    """Whether the reader of stdout has gone (a broken pipe may be another one); what is left for it is discarded."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # The interpreter flushes stdout when it ends, which would fail again and print a warning.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def main() -> NoReturn:
    """The console script `bedplate`."""
    # What ends a command politely is to end it as Ctrl-C does; a parent that has it ignored has its way.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    defer_hangups(sys.argv[1:])
    code = run(sys.argv[1:])
    end_at_work(code)
    sys.exit(code)
